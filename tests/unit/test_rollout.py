"""Deployment, watch, verdict, rollback: against a scripted server, with real links and real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from council_stub import Behaviour, Stub
from lora_kit import make_base, make_release

from agent0 import adapters, ledger, rollout, switch, trial, watch
from agent0.adapter_checks import WEIGHTS
from agent0.command import DONE, FAILED, LOCKED, NOTHING_TO_DO, REFUSED, ROLLED_BACK, CouncilError
from agent0.quality import ANSWER_TOKENS, PROBES, questions_file
from agent0.records import write_json
from agent0.settings import ROOT, get_settings


@pytest.fixture(autouse=True)
def base(home, monkeypatch):
    return make_base(home / "models" / "tiny", monkeypatch)


@pytest.fixture
def server(home, monkeypatch):
    stub = Stub().start()
    set_environment(monkeypatch, COUNCIL_URL=stub.url, MONITOR_DURATION="0.05")
    yield stub
    stub.stop()


def set_environment(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    get_settings.cache_clear()


def in_service(server, seed=100):
    """A good release that serves already, as a promotion leaves it."""
    release = make_release(seed)
    assert rollout.deploy(release.name) == DONE
    return release


def summary(path):
    return json.loads((path).read_text())


def snapshot(home):
    return {path.name: os.readlink(path) for path in (home / "loras").iterdir() if path.is_symlink()}


# Promotion


def test_a_good_candidate_is_promoted(home, server):
    release = make_release()
    adapters.point("latest", release)
    assert rollout.deploy("loras/latest") == DONE
    assert adapters.target("current") == release
    assert server.stable == release.name
    assert list(adapters.links("rollback").values()) == [adapters.ensure_base()]
    assert adapters.links("failed") == {}
    told = summary(release.path / "deployment_summary.json")
    assert (told["verdict"], told["release"], told["previous"]) == ("promoted", release.name, "base")
    assert told["evidence"]["questions"] >= 20
    assert told["evidence"]["candidate"]["success"] == 1.0
    assert told["thresholds"] == {"success": 0.85, "latency_ms": 1000}
    assert told["settings"]["monitor_duration"] == 0.05
    assert told["timings"]["seconds"] >= 0.05
    assert {bar["decided_by"] for bar in told["bars"]} == {"threshold"}
    assert [step["share"] for step in told["steps"]] == [0.1, 0.5, 1.0]
    assert told["capital"]["promotion_success"] >= 50 and told["decided_by"]["run"] == "by hand"
    event = ledger.last("deployment")
    assert (event["release"], event["previous"], event["improvement"]) == (release.name, "base", 0.0)
    assert adapters.validate(release.name) == release


def test_probes_are_paired_and_stay_out_of_memory(server):
    release = make_release()
    rollout.deploy(release.name)
    asked = {name: [b["messages"][0]["content"] for b in server.asked if b["model"] == name] for name in server.loaded}
    assert asked["base"] == asked[release.name]
    assert all(body["store"] is False and body["max_tokens"] == ANSWER_TOKENS for body in server.asked)
    firsts = [body["model"] for body in server.asked[::2]]
    assert set(firsts[:2]) == {"base", release.name}


def test_the_next_promotion_unloads_what_it_replaced(server):
    first = in_service(server)
    second = make_release(2)
    assert rollout.deploy(second.name) == DONE
    assert server.loaded == {"base", second.name}
    assert adapters.rollback_targets() == [first, adapters.ensure_base()]


def test_a_candidate_that_is_loaded_already_is_fine(server):
    release = make_release()
    server.loaded.add(release.name)
    assert rollout.deploy(release.name) == DONE


def test_improvement_is_the_difference_on_the_same_questions(server):
    server.behaviours["base"] = Behaviour(right=0)
    release = make_release()
    assert rollout.deploy(release.name) == DONE
    assert ledger.last("deployment")["improvement"] == 1.0


def test_a_weak_candidate_that_beats_a_weaker_stable_is_promoted(server):
    release = make_release()
    server.behaviours = {"base": Behaviour(right=0.2), release.name: Behaviour(right=0.5)}
    assert rollout.deploy(release.name) == DONE
    bar = summary(release.path / "deployment_summary.json")["bars"][0]
    assert (bar["name"], bar["decided_by"]) == ("success", "stable")
    assert bar["value"] > bar["bar"]


def test_only_the_gates_last_word_on_both_counts(home):
    new, other = make_release(1), make_release(2)
    base = adapters.ensure_base()
    assert not watch.passed_gate(new, base)
    ledger.append("gate", release=new.name, serving="base", end="promote")
    assert watch.passed_gate(new, base)
    assert not watch.passed_gate(new, other) and not watch.passed_gate(other, base)
    ledger.append("gate", release=new.name, serving="base", end="inconclusive")
    assert not watch.passed_gate(new, base)


def test_both_slow_is_judged_by_what_stable_does(server, monkeypatch):
    set_environment(monkeypatch, ROLLBACK_THRESHOLD_LATENCY=20)
    release = make_release()
    server.behaviours = {"base": Behaviour(delay=0.06), release.name: Behaviour(delay=0.03)}
    assert rollout.deploy(release.name) == DONE
    assert summary(release.path / "deployment_summary.json")["bars"][1]["decided_by"] == "stable"


def test_a_release_that_failed_once_and_is_promoted_later_is_a_target_again(server):
    release = make_release()
    server.behaviours[release.name] = Behaviour(right=0)
    assert rollout.deploy(release.name) == ROLLED_BACK
    server.behaviours[release.name] = Behaviour()
    assert rollout.deploy(release.name) == DONE
    rollout.deploy(make_release(2).name)
    assert adapters.rollback_targets()[0] == release


# Rollback by the watch: the old one must serve


BAD = {
    "wrong answers": (Behaviour(right=0.25), "worse than stable|success"),
    "slow": (Behaviour(delay=0.12), "took over"),
    "errors": (Behaviour(mode="error"), "out of memory"),
    "empty": (Behaviour(mode="empty"), "empty answer"),
    "garbage": (Behaviour(mode="garbage"), "success 0%"),
    "not JSON": (Behaviour(mode="not json"), "unexpected"),
}


@pytest.mark.parametrize(("name", "before"), [*((name, "a release") for name in BAD), ("garbage", "base")])
def test_after_a_bad_candidate_the_old_one_serves(home, server, monkeypatch, name, before):
    old = adapters.ensure_base() if before == "base" else in_service(server)
    if name == "slow":
        set_environment(monkeypatch, ROLLBACK_THRESHOLD_LATENCY=50)
    behaviour, reason = BAD[name]
    bad = make_release(2)
    server.behaviours[bad.name] = behaviour
    assert rollout.deploy(bad.name) == ROLLED_BACK
    assert adapters.target("current") == old
    assert server.stable == old.name
    assert bad.name not in server.loaded
    assert list(adapters.links("failed").values()) == [bad]
    assert bad not in adapters.rollback_targets()
    told = summary(home / "loras" / "current" / "rollback_summary.json")
    assert told == summary(bad.path / "rollback_summary.json")
    assert (told["verdict"], told["release"], told["previous"]) == ("rolled back", bad.name, old.name)
    assert any(word in told["reason"] for word in reason.split("|")), told["reason"]
    event = ledger.last("rollback")
    assert (event["release"], event["to"], event["source"]) == (bad.name, old.name, "monitor")
    assert adapters.validate(old.name) == old
    assert not (home / "loras" / ".deploying.json").exists()


def test_a_hopeless_candidate_is_stopped_early(server, monkeypatch):
    set_environment(monkeypatch, MONITOR_DURATION=600)
    release = make_release()
    server.behaviours[release.name] = Behaviour(right=0.1)
    assert rollout.deploy(release.name) == ROLLED_BACK
    assert "to 1" in ledger.last("rollback")["reason"]


def test_where_nobody_is_right_nothing_is_promoted(server):
    server.behaviours["base"] = Behaviour(right=0)
    release = make_release()
    server.behaviours[release.name] = Behaviour(right=0)
    assert rollout.deploy(release.name) == ROLLED_BACK


def test_a_server_that_does_not_follow_the_route_rolls_back(server):
    server.follows_routes = False
    assert rollout.deploy(make_release().name) == ROLLED_BACK
    assert adapters.target("current").is_base


def test_a_server_that_dies_during_the_watch_rolls_the_link_back(home, server):
    old = in_service(server)
    bad = make_release(2)

    def die(stub):
        if stub.asked[-1]["model"] == bad.name:
            stub.server.socket.close()  # nobody listens any more, and this answer never comes
            raise ConnectionAbortedError

    server.on_ask, server.server.handle_error = die, lambda *arguments: None
    assert rollout.deploy(bad.name) == ROLLED_BACK
    assert adapters.target("current") == old
    assert "no answer" in summary(home / "loras" / "current" / "rollback_summary.json")["server"]


def test_a_changed_route_during_the_watch_rolls_back(server):
    def meddle(stub):
        stub.stable = "base"

    old = in_service(server)
    server.on_ask = meddle
    bad = make_release(2)
    assert rollout.deploy(bad.name) == ROLLED_BACK
    assert server.stable == old.name


def test_a_disk_that_refuses_the_summary_rolls_back(server, monkeypatch):
    def refuse(path, value):
        if path.name == "deployment_summary.json":
            raise OSError(28, "No space left on device")
        write_json(path, value)

    monkeypatch.setattr(trial, "write_json", refuse)
    release = make_release()
    assert rollout.deploy(release.name) == ROLLED_BACK
    assert server.stable == "base" and adapters.target("current").is_base


# Nothing moves


def test_a_broken_release_is_refused(home, server):
    release = make_release()
    (release.path / WEIGHTS).chmod(0o644)
    (release.path / WEIGHTS).write_bytes(b"broken")
    before = snapshot(home)
    with pytest.raises(CouncilError) as caught:
        rollout.deploy(release.name)
    assert caught.value.exit_code == REFUSED
    assert snapshot(home) == before and server.stable == "base" and server.asked == []
    assert ledger.last("refusal")["release"] == release.name


def test_what_the_server_refuses_is_refused(home, server):
    old, release = in_service(server), make_release(2)
    server.behaviours[release.name] = Behaviour(load_status=400)
    before = snapshot(home)
    with pytest.raises(CouncilError, match="shapes do not fit") as caught:
        rollout.deploy(release.name)
    assert caught.value.exit_code == REFUSED
    assert snapshot(home) == before and server.stable == old.name
    assert "shapes do not fit" in ledger.last("refusal")["reason"]


def test_a_server_that_is_full_refuses(server):
    release = make_release()
    server.behaviours[release.name] = Behaviour(load_status=409)
    with pytest.raises(CouncilError, match="loaded already") as caught:
        rollout.deploy(release.name)
    assert caught.value.exit_code == REFUSED


@pytest.mark.parametrize("status", [401, 500])
def test_a_server_that_cannot_load_at_all_is_no_refusal(home, server, status):
    release = make_release()
    server.behaviours[release.name] = Behaviour(load_status=status)
    with pytest.raises(CouncilError) as caught:
        rollout.deploy(release.name)
    assert caught.value.exit_code == FAILED
    assert adapters.target("current") is None and ledger.last("refusal") is None


def test_without_a_server_nothing_moves(home, server):
    release = make_release()
    server.stop()
    with pytest.raises(CouncilError, match="make serve") as caught:
        rollout.deploy(release.name)
    assert caught.value.exit_code == FAILED
    assert snapshot(home) == {}


def test_without_enough_probes_nothing_moves(home, server, monkeypatch):
    (home / "probes.jsonl").write_text("".join(questions_file(PROBES).read_text().splitlines(True)[:19]))
    set_environment(monkeypatch, QUESTIONS_PATH=home)
    with pytest.raises(CouncilError, match="20 needed"):
        rollout.deploy(make_release().name)
    assert snapshot(home) == {}


def test_what_serves_already_is_not_deployed(home, server):
    release = in_service(server)
    before = snapshot(home)
    assert rollout.deploy("current") == rollout.deploy(release.name) == NOTHING_TO_DO
    assert snapshot(home) == before


def test_a_server_out_of_step_is_brought_into_step_first(server):
    old = in_service(server)
    server.stable, server.loaded = "base", {"base"}  # as after a restart that found no adapter
    bad = make_release(2)
    server.behaviours[bad.name] = Behaviour(mode="empty")
    assert rollout.deploy(bad.name) == ROLLED_BACK
    assert server.stable == old.name


def test_one_rollout_at_a_time(server):
    with switch.only_one():
        for call in (lambda: rollout.deploy(make_release().name), rollout.rollback):
            with pytest.raises(CouncilError) as caught:
                call()
            assert caught.value.exit_code == LOCKED
            assert str(os.getpid()) in str(caught.value)


# Killed in mid-watch


@pytest.fixture
def started():
    """Processes that a test starts; none outlives it."""
    processes = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start_deployment(server, release, started):
    """`python -m agent0.rollout deploy` in a process of its own, returned once it has asked two pairs."""
    server.asked.clear()
    environment = {**os.environ, "MONITOR_DURATION": "600"}
    command = [sys.executable, "-m", "agent0.rollout", "deploy", release.name]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started.append(process)
    while len(server.asked) < 6:
        assert process.poll() is None, process.communicate()
        signal.sigtimedwait([], 0.01)
    return process


@pytest.fixture
def not_ignored():
    """Let children hear SIGINT, where this process was started in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("not_ignored")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_watch_rolls_back(home, server, started, number):
    old = in_service(server)
    candidate = make_release(2)
    process = start_deployment(server, candidate, started)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == ROLLED_BACK, err
    assert number.name in out and "rolled back" in out
    assert adapters.target("current") == old and server.stable == old.name
    told = summary(home / "loras" / "current" / "rollback_summary.json")
    assert number.name in told["reason"]
    assert told["evidence"]["pairs"] >= 2


def killed(server, started):
    candidate = make_release(2)
    process = start_deployment(server, candidate, started)
    process.kill()
    process.communicate(timeout=60)
    assert adapters.target("current") != candidate, "until it is promoted, it is a route and no more"
    return candidate


def test_after_kill_9_a_rollback_takes_the_candidate_out(server, started):
    old = in_service(server)
    candidate = killed(server, started)
    assert adapters.target("current") == old and server.canary == candidate.name
    assert rollout.rollback() == DONE
    assert server.canary is None
    assert adapters.target("current") == old and server.stable == old.name
    assert list(adapters.links("failed").values()) == [candidate]
    assert "cut off" in ledger.last("rollback")["reason"]


def test_after_kill_9_the_next_deployment_starts_from_the_good_one(server, started):
    old = in_service(server)
    killed(server, started)
    other = make_release(3)
    assert rollout.deploy(other.name) == DONE
    assert ledger.last("deployment")["previous"] == old.name
    assert adapters.rollback_targets()[0] == old


# Rollback by hand


def test_rollback_goes_to_the_last_good_release(home, server):
    first, second = in_service(server), make_release(2)
    rollout.deploy(second.name)
    assert rollout.rollback() == DONE
    assert adapters.target("current") == first
    assert server.stable == first.name and second.name not in server.loaded
    assert list(adapters.links("failed").values()) == [second]
    told = summary(home / "loras" / "current" / "rollback_summary.json")
    assert (told["release"], told["to"]) == (second.name, first.name)
    event = ledger.last("rollback")
    assert (event["release"], event["to"], event["source"]) == (second.name, first.name, "manual")
    assert rollout.rollback() == DONE
    assert adapters.target("current").is_base and server.stable == "base"
    assert rollout.rollback() == NOTHING_TO_DO


def test_with_base_in_service_there_is_nothing_to_roll_back(home, server):
    assert rollout.rollback() == NOTHING_TO_DO
    assert snapshot(home) == {} and ledger.last("rollback") is None


def test_rollback_works_while_the_server_is_down(home, server, caplog):
    release = in_service(server)
    server.stop()
    assert rollout.rollback() == DONE
    assert adapters.target("current").is_base
    assert "server is down" in caplog.text
    assert summary(home / "loras" / "current" / "rollback_summary.json")["release"] == release.name


def test_a_server_that_does_not_follow_is_told_but_the_link_moves(server):
    in_service(server)
    server.follows_routes = False
    with pytest.raises(CouncilError, match="does not serve it") as caught:
        rollout.rollback()
    assert caught.value.exit_code == FAILED
    assert adapters.target("current").is_base


def test_rollback_to_a_named_release(server):
    first = in_service(server)
    rollout.deploy(make_release(2).name)
    third = make_release(3)
    rollout.deploy(third.name)
    assert rollout.rollback(to=first.name) == DONE
    assert adapters.target("current") == first
    assert rollout.rollback(to=first.name) == NOTHING_TO_DO
    with pytest.raises(CouncilError) as caught:
        rollout.rollback(to="nowhere")
    assert caught.value.exit_code == REFUSED


def test_base_is_never_marked_as_failed(server):
    first = in_service(server)
    assert rollout.rollback(to="base") == DONE
    assert rollout.rollback(to=first.name) == DONE
    assert adapters.ensure_base() not in adapters.links("failed").values()
    assert server.stable == first.name


def test_a_damaged_target_is_passed_over(server, caplog):
    first = in_service(server)
    rollout.deploy(make_release(2).name)
    (first.path / WEIGHTS).unlink()
    assert rollout.rollback() == DONE
    assert adapters.target("current").is_base
    assert f"{first.name} is passed over" in caplog.text


def test_a_lost_release_is_rolled_back_too(server):
    release = in_service(server)
    shutil.rmtree(release.path)
    assert rollout.rollback() == DONE
    assert adapters.target("current").is_base and server.stable == "base"


def run(*arguments):
    command = [sys.executable, "-m", "agent0.rollout", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_list_and_dry_run_only_tell(home, server):
    first, second = in_service(server), make_release(2)
    rollout.deploy(second.name)
    before = snapshot(home)
    assert run("rollback", "--list").stdout.split() == [first.name, "base"]
    told = run("rollback", "--dry-run", "--to", "base")
    assert told.returncode == DONE and f"from {second.name} to base" in told.stdout
    assert snapshot(home) == before and server.stable == second.name


def test_the_command_says_what_it_did(server):
    release = make_release()
    adapters.point("latest", release)
    done = run("deploy")
    assert done.returncode == DONE, done.stderr
    assert f"{release.name} is promoted over base" in done.stdout
    refused = run("deploy", "loras/nothing")
    assert refused.returncode == REFUSED and "no such release" in refused.stderr


# Live traffic


def live_case(server, before, during):
    server.counters = {"base": before}
    release = make_release()
    server.behaviours[release.name] = Behaviour(live=during)
    code = rollout.deploy(release.name)
    name = "deployment_summary.json" if code == DONE else "rollback_summary.json"
    return code, summary(release.path / name)


def test_bad_live_traffic_rolls_back(server):
    code, told = live_case(server, (100, 95, 0.01), (40, 20, 0.01))
    assert code == ROLLED_BACK and "live success 50%" in told["reason"]
    assert told["evidence"]["live"] == {"requests": 40, "successes": 20, "p95_ms": pytest.approx(95), "slow": 0}


def test_live_traffic_no_worse_than_a_weak_stable_is_promoted(server):
    code, told = live_case(server, (100, 40, 0.01), (40, 20, 0.01))
    assert code == DONE
    assert [b["decided_by"] for b in told["bars"] if b["name"] == "live_success"] == ["stable"]


def test_slow_live_traffic_rolls_back(server):
    code, told = live_case(server, (100, 95, 0.01), (40, 40, 3.0))
    assert code == ROLLED_BACK and "live p95" in told["reason"]


def test_a_little_live_traffic_does_not_count(server):
    code, told = live_case(server, (100, 95, 0.01), (19, 14, 0.01))
    assert code == DONE and told["evidence"]["live"]["requests"] == 19


def test_traffic_before_the_window_does_not_count(server):
    release = make_release()
    server.counters = {release.name: (500, 0, 4.0)}
    server.behaviours[release.name] = Behaviour(live=(40, 40, 4.0))
    assert rollout.deploy(release.name) == ROLLED_BACK
    live = summary(release.path / "rollback_summary.json")["evidence"]["live"]
    assert (live["requests"], live["successes"]) == (40, 40)


def test_a_server_without_metrics_has_no_live_evidence(server):
    server.has_metrics = False
    release = make_release()
    assert rollout.deploy(release.name) == DONE
    assert summary(release.path / "deployment_summary.json")["evidence"]["live"] is None

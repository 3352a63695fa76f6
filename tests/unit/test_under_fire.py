"""Broken deployments against the real HTTP server while users ask: no request fails, and the old one serves.

The engine behind the server is scripted, so that an adapter misbehaves exactly as its test says; the server that is
killed is the whole program. `make under-fire` prints what the users saw.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from council_stub import Behaviour
from lora_kit import make_base, make_release
from scripted_engine import Running, ScriptedEngine, Users, asking, wait_for
from tiny_council import save_base

from agent0 import adapters, ledger, rollout, switch, trial, watch
from agent0.client import CouncilClient, ServerError
from agent0.command import DONE, FAILED, LOCKED, NOTHING_TO_DO, REFUSED, ROLLED_BACK, CouncilError
from agent0.probing import load_probes
from agent0.serve.__main__ import serve_current
from agent0.settings import ROOT, get_settings


@pytest.fixture
def server(home, monkeypatch):
    """A server with a good release in service."""
    make_base(home / "models" / "tiny", monkeypatch)
    running = Running().start()
    monkeypatch.setenv("COUNCIL_URL", running.url)
    monkeypatch.setenv("MONITOR_DURATION", "0.2")
    monkeypatch.setenv("ROLLBACK_THRESHOLD_LATENCY", "60000")  # a busy machine must not decide
    monkeypatch.setattr(rollout, "load_probes", lambda _: load_probes("one order"))  # nor the luck of a new one
    get_settings.cache_clear()
    old = make_release(1)
    adapters.point("current", old)
    serve_current(running.engine)
    running.old = old
    yield running
    running.kill()


@pytest.fixture
def fire(server, request, record_property):
    """Users who ask throughout; none of their requests may fail. What they saw is a line of the table."""

    @contextlib.contextmanager
    def users():
        with asking(server.url) as seen:
            yield seen
        assert not seen.failed
        record_property("under fire", line(request.node.name, seen))

    return users


def line(case, users):
    """Case, requests, failed, outcome, seconds from the verdict to the old adapter: by the server, by the users."""
    case = case.removeprefix("test_").replace("_", " ")
    asked, events = [case, len(users.answers), len(users.failed)], [e for e in ledger.read() if e["event"] in OUTCOMES]
    if not events:
        return [*asked, "nothing moved", "", ""]
    event = events[-1]
    path = adapters.adapters_folder() / event["release"] / OUTCOMES[event["event"]]
    timings = json.loads(path.read_text())["timings"]
    routed = timings.get("verdict_to_previous_seconds", timings["seconds"])
    if event["event"] == "deployment":
        return [*asked, "deployment", "", ""]
    verdict = timings.get("verdict", timings["started"])
    late = [answered - verdict for _, answered, who in users.answers if who == event["release"]]
    return [*asked, event["event"], f"{routed:.3f}", f"{max(0, 0, *late):.3f}"]


OUTCOMES = {
    "deployment": "deployment_summary.json",
    "hold": "deployment_summary.json",
    "rollback": "rollback_summary.json",
}


def consistent(server, serves):
    """Server, link and a server that starts afresh agree on what serves, and nothing is left of the trial."""
    routing = server.engine.router.routing
    assert (routing["stable"], routing["canary"], routing["shadow"]) == (serves.name, None, None)
    assert adapters.target("current") == serves and not switch.journal().exists()
    fresh = ScriptedEngine()
    serve_current(fresh)
    assert fresh.router.stable == serves.name


def drift(engine, name, after):
    """Let an adapter answer well so often, and nonsense from then on."""
    good, bad, answer = Behaviour(), Behaviour(mode="garbage"), engine._answer

    def answering(who, question, on_event):
        engine.behaviours[name] = good if engine.answered[name] < after else bad
        answer(who, question, on_event)

    engine._answer = answering


BROKEN = {
    "nonsense": Behaviour(mode="garbage"),
    "half wrong": Behaviour(right=0.5),
    "slow": Behaviour(delay=0.3),
    "empty": Behaviour(mode="empty"),
    "breaks the engine": Behaviour(mode="error"),
    "drifts": None,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_candidate_is_withdrawn_and_no_request_fails(server, fire, monkeypatch, kind):
    candidate = make_release(2)
    if kind == "drifts":
        monkeypatch.setenv("MONITOR_DURATION", "30")
        drift(server.engine, candidate.name, after=40)
    if kind == "slow":
        monkeypatch.setenv("ROLLBACK_THRESHOLD_LATENCY", "150")
    get_settings.cache_clear()
    server.engine.behaviours[candidate.name] = BROKEN[kind]
    with fire() as users:
        assert rollout.deploy(candidate.name) == ROLLED_BACK
    assert server.old.name in users.adapters
    consistent(server, server.old)
    assert list(adapters.links("failed").values()) == [candidate]
    told = json.loads((candidate.path / "rollback_summary.json").read_text())
    timings = told["timings"]
    assert timings["started"] < timings["verdict"] < timings["finished"]
    assert 0 < timings["verdict_to_previous_seconds"] <= timings["finished"] - timings["verdict"] + 0.001


def test_a_good_candidate_earns_its_steps_and_the_users(server, fire):
    candidate, shares = make_release(2), []
    route = server.engine.router.route
    server.engine.router.route = lambda *names: (shares.append(names[2]), route(*names))[1]
    with fire() as users:
        assert rollout.deploy(candidate.name) == DONE
    assert users.adapters == {candidate.name, server.old.name}
    assert shares == [0.1, 0.5, 1.0, 0]
    consistent(server, candidate)
    evidence = json.loads((candidate.path / "deployment_summary.json").read_text())["evidence"]
    assert evidence["live"]["requests"] > 0


def test_without_traffic_the_probes_decide(server, request, record_property):
    candidate = make_release(2)
    assert rollout.deploy(candidate.name) == DONE
    assert json.loads((candidate.path / "deployment_summary.json").read_text())["evidence"]["live"] is None
    consistent(server, candidate)
    record_property("under fire", line(request.node.name, Users()))


def test_what_is_neither_proven_good_nor_bad_is_held(server, fire, monkeypatch):
    monkeypatch.setenv("MONITOR_DURATION", "0.001")
    get_settings.cache_clear()
    candidate = make_release(2)
    server.engine.behaviours[candidate.name] = Behaviour(right=0.8)
    with fire():
        assert rollout.deploy(candidate.name) == REFUSED
    consistent(server, server.old)
    event = ledger.last("hold")
    assert (event["release"], event["serving"]) == (candidate.name, server.old.name)
    assert "not proven either way" in event["reason"] or "is not enough" in event["reason"]
    told = json.loads((candidate.path / "deployment_summary.json").read_text())
    assert (told["verdict"], told["reason"]) == ("hold", event["reason"])
    assert adapters.links("failed") == {} and candidate not in adapters.rollback_targets()
    adapters.point("latest", server.old)
    adapters.prune(keep=0)
    assert candidate in adapters.releases(), "another night may decide"
    server.engine.behaviours[candidate.name] = Behaviour()
    assert rollout.deploy(candidate.name) == DONE


def test_in_direct_mode_the_link_moves_first_and_back(server, fire, monkeypatch):
    monkeypatch.setenv("DEPLOY_MODE", "direct")
    get_settings.cache_clear()
    bad, good, served = make_release(2), make_release(3), []
    server.engine.behaviours[bad.name] = Behaviour(right=0.4)
    monkeypatch.setattr(watch.Watch, "run", lambda self: (served.append(adapters.target("current")), run(self)))
    with fire():
        assert rollout.deploy(bad.name) == ROLLED_BACK
        consistent(server, server.old)
        assert rollout.deploy(good.name) == DONE
    assert served == [bad, good]
    consistent(server, good)
    assert rollout.rollback() == DONE
    consistent(server, server.old)


run = watch.Watch.run


class Killed(BaseException):
    """What a test raises in place of kill -9: nothing of ours may catch it."""


def kill_after(monkeypatch, module, name, nth=1):
    """Let the process die right after the nth call of a function."""
    real, calls = getattr(module, name), []

    def dying(*arguments, **options):
        real(*arguments, **options)
        calls.append(name)
        if len(calls) == nth:
            raise Killed

    monkeypatch.setattr(module, name, dying)


STEPS = {
    "the journal": (trial, "write_json", 1),
    "10 %": (watch, "split", 1),
    "50 %": (watch, "split", 2),
    "100 %": (watch, "split", 3),
    "the way back": (adapters, "point", 1),
    "the link": (adapters, "point", 2),
    "the route": (trial, "serve", 1),
    "the ledger": (ledger, "append", 1),
    "the summary": (trial, "write_json", 2),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_deployment_that_is_killed_at_any_step_leaves_one_that_serves(server, fire, monkeypatch, step):
    candidate = make_release(2)
    serves = candidate if step == "the summary" else server.old  # that is the verdict
    with fire():
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, *STEPS[step])
            rollout.deploy(candidate.name)
        fresh = ScriptedEngine()
        serve_current(fresh)
        assert fresh.router.stable == serves.name, "a server that restarts now knows"
        assert rollout.deploy(serves.name) == NOTHING_TO_DO, "the next run cleans up; what serves, serves already"
    consistent(server, serves)


def test_a_server_that_is_killed_in_mid_rollout_comes_back_with_the_old_one(home, monkeypatch, record_property):
    """The whole program, kill -9; a request can only fail while there is no server."""
    save_base(home / "tiny", monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("COUNCIL_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("ROLLBACK_THRESHOLD_LATENCY", "60000")
    get_settings.cache_clear()
    old, candidate, gap = make_release(1), make_release(2), []
    adapters.point("current", old)
    client = CouncilClient()
    with contextlib.ExitStack() as servers:
        program = servers.enter_context(served(client))
        with asking(client.url) as users:
            killer = threading.Thread(target=kill_in_mid_rollout, args=(client, program, users, gap))
            killer.start()
            assert rollout.deploy(candidate.name) == ROLLED_BACK
            killer.join()
            assert "no answer" in ledger.last("rollback")["reason"]
            servers.enter_context(served(client))
            gap.append(time.time())
            assert client.health()["adapter"] == old.name and client.health()["canary"] is None
            users.ask(client, "after")
    assert users.answers[-1][2] == old.name
    assert all(gap[0] < when < gap[1] for when, _ in users.failed)
    assert adapters.target("current") == old and not switch.journal().exists()
    users.failed.clear()
    record_property("under fire", line("kill -9 of the server, in between not counted", users))


@contextlib.contextmanager
def served(client):
    """`make serve` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = subprocess.Popen([sys.executable, "-m", "agent0.serve"], cwd=ROOT, env=environment)
    try:
        wait_for(lambda: program.poll() is not None or is_up(client))
        yield program
    finally:
        program.kill()
        program.wait()


def kill_in_mid_rollout(client, program, users, gap):
    wait_for(lambda: client.health()["canary"])
    before = len(users.answers)
    wait_for(lambda: len(users.answers) > before + 1)
    gap.append(time.time())
    program.kill()


def is_up(client):
    with contextlib.suppress(ServerError):
        return client.health()["status"] == "healthy"
    return False


def during(monkeypatch, what):
    """Do something in the middle of the watch."""
    grow, done = watch.Watch._grow, []

    def growing(self):
        grow(self)
        if not done:
            done.append(what())

    monkeypatch.setattr(watch.Watch, "_grow", growing)
    return done


@pytest.mark.parametrize(("second", "arguments"), [("deploy", ["base"]), ("rollback", [])])
def test_a_second_rollout_is_told_to_wait_and_the_first_goes_on(server, fire, monkeypatch, second, arguments):
    told = []

    def other():
        try:
            getattr(rollout, second)(*arguments)
        except CouncilError as error:
            told.append(error)

    def what():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    during(monkeypatch, what)
    candidate = make_release(2)
    with fire():
        assert rollout.deploy(candidate.name) == DONE
    assert [error.exit_code for error in told] == [LOCKED]
    consistent(server, candidate)


def test_a_link_that_is_replaced_by_hand_ends_the_trial(server, fire, monkeypatch):
    other, candidate = make_release(3), make_release(2)
    during(monkeypatch, lambda: adapters.point("current", other))
    with fire():
        assert rollout.deploy(candidate.name) == ROLLED_BACK
    assert "somebody else moved it" in ledger.last("rollback")["reason"]
    consistent(server, server.old)


def test_two_bad_releases_do_not_make_a_loop(server):
    second = make_release(2)
    assert rollout.deploy(second.name) == DONE
    assert [rollout.rollback(), rollout.rollback()] == [DONE, DONE]
    consistent(server, adapters.ensure_base())
    for name in ("failed_*", "rollback_*"):
        [link.unlink() for link in get_settings().loras.glob(name)]
    adapters.point("current", make_release(3))
    assert adapters.rollback_targets() == [adapters.ensure_base()], "the ledger remembers what was taken out"


def test_one_that_drifts_after_its_promotion_is_taken_out_by_hand(server, fire):
    candidate = make_release(2)
    with fire() as users:
        assert rollout.deploy(candidate.name) == DONE
        server.engine.behaviours[candidate.name] = Behaviour(mode="garbage")
        assert rollout.rollback() == DONE
    assert users.adapters == {candidate.name, server.old.name}
    consistent(server, server.old)


@pytest.fixture
def disk(home):
    """The project's home on a disk of its own, of 8 MB; yields what fills it up."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "council", home], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")

    def fill():
        with contextlib.suppress(OSError), open(home / "ballast", "wb", buffering=0) as ballast:
            while ballast.write(bytes(4096)):
                pass

    yield fill
    subprocess.run(["umount", "--lazy", home], check=True)


def test_a_disk_that_fills_up_in_mid_rollout_leaves_the_old_one_serving(disk, server, fire, home, monkeypatch):
    candidate = make_release(2)
    with fire() as users:
        during(monkeypatch, disk)
        with pytest.raises(CouncilError, match="make room") as caught:
            rollout.deploy(candidate.name)
        assert caught.value.exit_code == ROLLED_BACK
        (home / "ballast").unlink()
        assert rollout.rollback() == DONE, "the next run writes down what the first could not"
    assert ledger.last("rollback")["release"] == candidate.name and server.old.name in users.adapters
    consistent(server, server.old)


def test_the_way_back_works_on_a_full_disk(disk, server, fire, home):
    candidate = make_release(2)
    assert rollout.deploy(candidate.name) == DONE
    with fire():
        disk()
        with pytest.raises(CouncilError, match="make room") as caught:
            rollout.rollback()
        assert caught.value.exit_code == FAILED
    consistent(server, server.old)


def test_a_deployment_on_a_full_disk_ends_in_one_line(disk, server, fire):
    candidate = make_release(2)
    with fire():
        disk()
        command = [sys.executable, "-m", "agent0.rollout", "deploy", candidate.name]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode in (FAILED, ROLLED_BACK) and told.stderr.count("\n") == 1, told.stderr
    assert "make room on the disk" in told.stderr
    assert server.engine.router.stable == server.old.name and adapters.target("current") == server.old

"""People overrule: a veto leaves the pool and teaches the jury; what is forgotten is gone everywhere, with a proof."""

import json
import sqlite3
from contextlib import closing

import pytest
from lora_kit import make_release
from night_kit import example, whole_night

from agent0 import adapters, forget, gate, ledger, morning, refuse, report, rollout, veto, way_back, why
from agent0 import train as training
from agent0.command import DONE, LOCKED, NOTHING_TO_DO, REFUSED, CouncilError
from agent0.council.answers import Answers
from agent0.council.jury import Jury
from agent0.gate import Judgement
from agent0.records import owner_of, write_json, write_jsonl
from agent0.settings import get_settings
from agent0.switch import only_one
from faiss_memory import FaissMemory


def pool() -> set[str]:
    return {e.id for e in training.load_pool(get_settings().training_data)}


@pytest.fixture
def deployed(monkeypatch, home):
    return whole_night(monkeypatch, home)


def test_a_veto_takes_an_example_out_of_the_pool_until_it_is_undone(deployed):
    assert veto.veto("example1") and "example1" not in pool()
    assert not veto.veto("example1")
    assert [e.id for e in veto.vetoed_examples()] == ["example1"]
    assert veto.veto("example1", undo=True) and "example1" in pool()
    assert ledger.verify()[1] == len(ledger.read())


def test_the_same_rewrite_found_again_stays_vetoed(deployed, home):
    veto.veto("example1")
    twin = example(1, "another answer").model_copy(update={"id": "twin"})
    (home / "training_data" / "harvest_20261124.jsonl").write_text(twin.model_dump_json() + "\n")
    assert not pool() & {"example1", "twin"}
    assert veto.veto("twin", undo=True) and pool() >= {"twin"}
    assert not veto.veto("twin", undo=True)


def test_a_veto_of_nothing_is_refused(deployed):
    with pytest.raises(CouncilError, match="no harvest holds"):
        veto.veto("nothing")


def test_a_veto_makes_the_next_training_due_and_its_release_a_replacement(deployed, monkeypatch):
    assert training.main() == NOTHING_TO_DO
    level = Judgement("inconclusive", "held-out +0%", 0.0)
    without = adapters.Release(adapters.adapters_folder() / "none")
    without.__dict__["manifest"] = {"example_ids": ["example0"]}
    assert gate.replacement(level, deployed, without) == level
    veto.veto("example1")
    assert veto.removed(deployed) == 1
    assert gate.replacement(level, deployed, without).end == "promote"
    assert gate.replacement(level, deployed, deployed) == level
    refused = Judgement("refuse", "kind time", -0.1)
    assert gate.replacement(refused, deployed, without) == refused

    def refuse_to(lessons, *_):
        raise CouncilError(f"{len(lessons.repeated)} trained")

    monkeypatch.setattr(training, "train", refuse_to)
    with pytest.raises(CouncilError, match="5 trained"):
        training.main()


@pytest.fixture
def waiting(deployed):
    """A release that waits as loras/latest, on hold after its deployment."""
    release = make_release(seed=3)
    adapters.point("latest", release)
    write_json(release.path / "deployment_summary.json", {"verdict": "hold"})
    return release


def test_a_refused_release_is_never_deployed_nor_tried_again(waiting, deployed, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["adapters", "waiting"])
    assert adapters.main() == DONE and waiting.name in capsys.readouterr().out
    assert any(f"{waiting.name} is on hold: it is tried again." in line for line in morning.tomorrow(30))
    assert refuse.refuse_release("loras/latest", "ann, on the command line")
    assert not refuse.refuse_release(waiting.name, "bob")
    with pytest.raises(CouncilError, match=r"refused by ann.*refuse \S+ --undo") as refused:
        rollout.deploy("loras/latest")
    assert refused.value.exit_code == REFUSED
    monkeypatch.setattr("sys.argv", ["gate"])
    with pytest.raises(CouncilError, match="refused by ann"):
        gate.main()
    monkeypatch.setattr("sys.argv", ["adapters", "waiting"])
    assert adapters.main() == DONE and capsys.readouterr().out.strip() == ""
    assert [place.fate.partition(",")[0] for place in morning.chain() if place.refused] == ["refused by ann"]
    assert any("is refused and not tried again" in line for line in morning.tomorrow(30))
    assert refuse.refuse_release(waiting.name, "bob", undo=True) and adapters.validate(waiting.name) == waiting
    assert [event["by"] for event in ledger.read() if "refusal" in event["event"] and "by" in event] == [
        "ann, on the command line", "bob"]  # fmt: skip


def test_a_release_whose_night_was_cut_off_is_tried(deployed):
    release = make_release(seed=3)
    adapters.point("latest", release)
    assert adapters.waiting() == release
    assert any("was not tried: it is then" in line for line in morning.tomorrow(0))
    write_json(release.path / "gate_summary.json", {"end": "promote"})
    assert adapters.waiting() == release
    for name, summary in (("gate_summary", {"end": "refuse"}), ("deployment_summary", {"verdict": "rolled back"})):
        write_json(release.path / f"{name}.json", summary)
        assert adapters.waiting() is None
        (release.path / f"{name}.json").unlink()
    adapters.point("current", release)
    assert adapters.waiting() is None


def test_a_refused_release_is_not_gone_back_to(waiting, deployed):
    write_json(waiting.path / "deployment_summary.json", {"verdict": "promoted", "timings": {"finished": 5}})
    assert waiting in adapters.rollback_targets()
    assert refuse.refuse_release(waiting.name, "ann")
    assert waiting not in adapters.rollback_targets()
    with pytest.raises(CouncilError, match="refused by ann"):
        way_back.rollback(waiting.name)
    assert adapters.target("current") == deployed


def test_what_serves_base_and_what_is_on_trial_are_not_refused(waiting, deployed):
    for name, rule in ((deployed.name, "rollback_lora.sh"), ("base", "cannot be refused"), ("r9", "no such release")):
        with pytest.raises(CouncilError, match=rule):
            refuse.refuse_release(name, "ann")
    with only_one(), pytest.raises(CouncilError, match="rolling out") as busy:
        refuse.refuse_release(waiting.name, "ann")
    assert busy.value.exit_code == LOCKED and adapters.refused(waiting) is None


def test_jurors_who_elected_what_is_vetoed_lose_weight():
    jury = Jury()
    for n in range(6):
        jury.vote("bad", f"q{n}", ["right", "wrong"], 0, 0)
        jury.vote("good", f"q{n}", ["right", "wrong"], 0, 0)
    assert jury.weight("bad") == jury.weight("good")
    for n in range(4):
        jury.err(f"vetoed {n}", "wrong", {"bad": 1.0, "good": 0.0})
    assert jury.weight("bad") < jury.weight("good")


def test_why_leads_from_an_answer_to_the_night(deployed, monkeypatch):
    memory = FaissMemory()
    said = {"response": "It is 4.", "success": True, "adapter": deployed.name}
    answer = memory.add("What is 3 + 1 in Ulm?", said)
    found = why.explain(answer, memory)
    assert found.trained == 6 and len(found.nearest) == why.NEAREST
    assert found.nearest[0].example.id == "example3"
    assert found.nearest[0].failed["response"].startswith("3 plus one")
    assert [event["event"] for event in found.nights] == ["training", "gate", "deployment"]
    text = why.text(found)
    assert "proven by math:arithmetic" in text and "night 20261123T120000Z" in text
    base = memory.add("What is 3 + 1?", {"response": "5", "success": True, "adapter": "base"})
    assert why.explain(base, memory).nearest == []
    with pytest.raises(CouncilError, match="memory holds no answer"):
        why.explain("nothing", memory)
    memory.close()


def bytes_below(home) -> bytes:
    files = [p for p in home.rglob("*") if p.is_file() and not p.is_symlink() and "models" not in p.parts]
    return b"".join(path.read_bytes() for path in files)


def test_a_user_is_gone_everywhere_and_a_proof_says_so(deployed, home):
    cache = Answers(get_settings().memory_path / "council.db")
    cache.recall("q", lambda: "1 plus one is 11 in Ulm, said a member")
    cache.close()
    report.write()
    assert b"1 plus one is" in bytes_below(home) and b"ann" in bytes_below(home)
    assert forget.forget("ann", None, prune=False) == DONE
    left = bytes_below(home)
    for n in (1, 3, 5):
        assert f"{n} plus one is".encode() not in left and f"{n} + 1 is".encode() not in left
        assert f"What is {n} + 1".encode() not in left
    assert b"0 plus one is" in left and pool() == {"example0", "example2", "example4"}
    assert b'"ann"' not in left
    memory = FaissMemory()
    assert {record["user"] for record in memory.meta} == {"bob"}
    memory.close()
    proof = json.loads(next((home / "logs").glob("forget_*.json")).read_text())
    assert proof["examples"] == ["example1", "example3", "example5"] and len(proof["answers"]) == 3
    assert proof["releases_trained_on_it"] == [deployed.name] and proof["releases_pruned"] == []
    assert proof["removed"]["gate answers"] == 1 and proof["reports"] == ["report_20261123.html"]
    assert proof["next_training_takes"] == ["example0", "example2", "example4"]
    assert proof["still_holding_it"] == [] and list(proof["pool_now"]) == ["harvest_20261122.jsonl"]
    assert veto.removed(deployed) == 3
    assert forget.forget("ann", None, prune=False) == NOTHING_TO_DO


def test_an_example_takes_its_answer_along_and_its_release_is_pruned_unless_it_serves(deployed, home):
    assert forget.forget(None, "example1", prune=True) == DONE
    assert deployed.path.exists()
    adapters.point("current", adapters.ensure_base())
    assert forget.forget(None, "example2", prune=True) == DONE
    assert not deployed.path.exists() and adapters.target("latest") is None
    memory = FaissMemory()
    assert len(memory.meta) == 4
    memory.close()


def test_a_text_that_is_left_behind_is_named_and_fails(deployed, home, caplog):
    (home / "logs" / "old.log").write_text("somebody logged: 1 plus one is <script>alert('x')</script> 11 in Ulm.\n")
    assert forget.forget(None, "example1", prune=False) == 1
    proof = json.loads(next((home / "logs").glob("forget_*.json")).read_text())
    assert proof["still_holding_it"] == ["logs/old.log"]


def test_forgetting_that_was_cut_off_is_taken_up(deployed, home, monkeypatch):
    report.write()
    with monkeypatch.context() as cut:
        cut.setattr(forget, "rewrite_reports", lambda found: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            forget.forget("ann", None, prune=False)
    assert b"1 plus one is" in bytes_below(home)
    assert (home / "logs" / forget.JOURNAL).stat().st_mode & 0o077 == 0
    assert forget.forget("ann", None, prune=False) == DONE
    assert b"1 plus one is" not in bytes_below(home)
    proof = json.loads(next((home / "logs").glob("forget_*.json")).read_text())
    assert proof["examples"] == ["example1", "example3", "example5"] and len(proof["answers"]) == 3


def test_examples_are_found_by_their_owner_where_memory_has_forgotten(deployed, home):
    path = next((home / "training_data").glob("harvest_*.jsonl"))
    lines = [line.model_copy(update={"owner": owner_of("ann")}) for line in veto.all_examples()[:2]]
    write_jsonl(path, [*lines, *veto.all_examples()[2:]])
    memory = FaissMemory()
    memory.forget(2e9)
    memory.close()
    assert forget.forget("ann", None, prune=False) == DONE
    assert pool() == {f"example{n}" for n in range(2, 6)}


def test_what_another_was_told_in_the_same_words_stays_theirs(deployed, home):
    path = next((home / "training_data").glob("harvest_*.jsonl"))
    twin = veto.all_examples()[1].model_copy(update={"id": "twin", "answer_id": "of-bob"})
    write_jsonl(path, [*veto.all_examples(), twin])
    assert forget.forget("ann", None, prune=False) == DONE
    assert "twin" in {example.id for example in veto.all_examples()}


def test_nobody_is_forgotten_by_a_name_that_is_unknown_or_empty(deployed, monkeypatch):
    before = pool()
    assert forget.forget("nobody", None, prune=False) == NOTHING_TO_DO
    monkeypatch.setattr("sys.argv", ["forget", "--user", ""])
    with pytest.raises(CouncilError, match="empty name"):
        forget.main()
    with pytest.raises(CouncilError, match="no harvest holds"):
        forget.forget(None, "nothing", prune=False)
    assert pool() == before


def test_memory_forgets_bytes_and_vectors(home):
    memory = FaissMemory()
    kept, gone = (
        memory.add(f"What is {word}?", {"response": word, "success": True}) for word in ("kept", "secretword")
    )
    assert memory.query("secretword", 2)[0]["id"] == gone
    assert memory.remove([gone, "unknown"]) == 1
    assert [record["id"] for record in memory.query("secretword", 2)] == [kept]
    memory.close()
    with closing(sqlite3.connect(home / "memory" / "memory.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert b"secretword" not in b"".join(path.read_bytes() for path in (home / "memory").rglob("*") if path.is_file())

"""The gate: a candidate is tried only on evidence that it is better, and never where it is worse anywhere."""

from itertools import chain

import pytest
from council_stub import Behaviour, Stub
from lora_kit import make_base, make_release, stage

from agent0 import adapters, evaluate, gate, ledger, veto
from agent0.command import DONE, NOTHING_TO_DO, REFUSED, CouncilError
from agent0.gate import Change, judge
from agent0.pool import load_pool
from agent0.quality import GENERAL, HELD_OUT, questions_file
from agent0.records import Question, TrainingExample, read_jsonl, write_jsonl
from agent0.settings import get_settings


@pytest.fixture(autouse=True)
def base(home, monkeypatch):
    return make_base(home / "models" / "tiny", monkeypatch)


@pytest.fixture
def server(monkeypatch):
    stub = Stub().start()
    rows = [row for path in (HELD_OUT, GENERAL) for row in read_jsonl(questions_file(path), Question)]
    stub.answers |= {row.question: (n, row.answer) for n, row in enumerate(rows)}
    monkeypatch.setenv("COUNCIL_URL", stub.url)
    get_settings.cache_clear()
    yield stub
    stub.stop()


def run(monkeypatch, release: str = "loras/latest") -> int:
    monkeypatch.setattr("sys.argv", ["gate", release])
    return gate.main()


@pytest.mark.parametrize(
    ("before", "after", "code", "end"),
    [
        (0.2, 0.5, DONE, "promote"),
        (0.5, 0.5, REFUSED, "inconclusive"),
        (0.5, 0.2, REFUSED, "refuse"),
        (0, 0, REFUSED, "inconclusive"),
    ],
)
def test_only_what_is_better_is_tried(server, monkeypatch, before, after, code, end):
    release = make_release()
    adapters.point("latest", release)
    server.behaviours = {"base": Behaviour(right=before), release.name: Behaviour(right=after)}
    assert run(monkeypatch) == code
    event = ledger.last("gate")
    assert (event["release"], event["serving"], event["end"]) == (release.name, "base", end)
    assert event["improvement"] == pytest.approx(after - before, abs=0.03)
    assert server.stable == "base" and server.loaded == {"base"}
    assert adapters.target("current") is None
    assert all(body["store"] is False and body["temperature"] == 0 for body in server.asked)


def test_both_are_asked_the_same_questions(server, monkeypatch):
    release = make_release()
    run(monkeypatch, release.name)
    asked = {name: {b["messages"][0]["content"] for b in server.asked if b["model"] == name} for name in ("base",)}
    asked[release.name] = {b["messages"][0]["content"] for b in server.asked if b["model"] == release.name}
    assert asked["base"] == asked[release.name]
    for path in (HELD_OUT, GENERAL):
        assert {row.question for row in read_jsonl(questions_file(path), Question)} <= asked["base"]


def test_what_earlier_nights_fixed_is_asked_again(home, server):
    examples = [
        TrainingExample(
            instruction=f"What is {n} + 1 in Ulm?",
            output=f"{n} + 1 = {n + 1}.",
            reasoning="Adding.",
            quality_score=0.9,
            harvest_timestamp=1,
            id=f"e{n}",
            answer_id=f"a{n}",
            kind="arithmetic",
            verified_by="math:arithmetic" if n else None,
        )
        for n in range(4)
    ]
    write_jsonl(home / "training_data" / "harvest_20260101.jsonl", examples)
    serving = adapters.publish(stage(), {"example_ids": ["e0", "e1", "e2"], "parent": "base"})
    found = {question.question: question.answer for question in gate.fixed_questions(serving)}
    assert found == {"What is 1 + 1 in Ulm?": "2", "What is 2 + 1 in Ulm?": "3"}
    assert gate.fixed_questions(adapters.ensure_base()) == []


@pytest.mark.parametrize(
    ("after", "enough", "end", "left"),
    [
        (0.2, 5, "refuse", {"proven", "served"}),
        (0.5, 5, "inconclusive", {"proven", "served", "claimed"}),  # else the next training had nothing
        (0.5, 1, "inconclusive", {"proven", "served"}),  # the proven example is enough for a training without it
    ],
)
def test_what_a_release_learned_that_is_not_promoted_is_set_aside_unless_it_is_proven(
    home, server, monkeypatch, after, enough, end, left
):
    monkeypatch.setenv("MIN_FAILURES_TO_TRAIN", str(enough))
    get_settings.cache_clear()
    said = {"served": ("Who rules Ulm?", "A mayor."), "proven": ("What is 2 + 1?", "2 + 1 = 3.")}
    said["claimed"] = ("Who rules Bonn?", "A king.")
    words = {"reasoning": "So.", "quality_score": 0.9, "harvest_timestamp": 1, "answer_id": "a", "kind": "open"}
    rows = [TrainingExample(id=id, instruction=asked, output=told, **words) for id, (asked, told) in said.items()]
    folder = home / "training_data"
    write_jsonl(folder / "harvest_20260101.jsonl", rows)
    serving = adapters.publish(stage(seed=1), {"example_ids": ["served"], "parent": "base"})
    adapters.point("current", serving)
    candidate = adapters.publish(stage(seed=2), {"example_ids": list(said), "parent": "base"})
    server.loaded, server.stable = {"base", serving.name}, serving.name
    rights = {"base": 0.2, serving.name: 0.5, candidate.name: after}
    server.behaviours = {name: Behaviour(right=right) for name, right in rights.items()}
    assert run(monkeypatch, candidate.name) == REFUSED
    assert ledger.last("gate")["end"] == end
    assert {example.id for example in load_pool(folder)} == left
    assert veto.vetoed_examples(people_only=True) == []
    if "claimed" not in left:
        assert "1 new examples that nothing proves are set aside" in ledger.last("gate")["reason"]
        assert veto.veto("claimed", undo=True), "people may know better"
        assert {example.id for example in load_pool(folder)} == set(said)


@pytest.mark.parametrize(
    ("learned", "count", "end"), [(False, 16, "refuse"), (True, 16, "promote"), (False, 15, "promote")]
)
def test_what_is_taught_without_proof_must_be_learned(home, server, monkeypatch, learned, count, end):
    words = {"reasoning": "So.", "quality_score": 0.9, "harvest_timestamp": 1, "answer_id": "a", "kind": "open"}
    asked = {f"e{n}": (f"Who pays the toll of bridge {n} in Ulm, how much?", f"{n} + 5 dollars") for n in range(count)}
    rows = [
        TrainingExample(id=id, instruction=question, output=f"The answer is {answer}.", **words)
        for id, (question, answer) in asked.items()
    ]
    write_jsonl(home / "training_data" / "harvest_20260101.jsonl", rows)
    candidate = adapters.publish(stage(seed=2), {"example_ids": list(asked), "parent": "base"})
    if learned:
        server.answers |= {question: (5, answer) for question, answer in asked.values()}
    server.behaviours = {"base": Behaviour(right=0.2), candidate.name: Behaviour(right=0.6)}
    monkeypatch.setenv("MAX_FORGETTING", "1")
    get_settings.cache_clear()
    assert run(monkeypatch, candidate.name) == (REFUSED if end == "refuse" else DONE)
    event = ledger.last("gate")
    assert event["end"] == end and ("nothing proves" in event["reason"]) == (end == "refuse")
    assert len(load_pool(home / "training_data")) == (0 if end == "refuse" else count)


def test_what_nights_forget_adds_up(server, monkeypatch):
    """A candidate that is better than what serves, and knows much less than the base model, is refused."""
    serving, candidate = make_release(), adapters.publish(stage(seed=2), {"parent": "base"})
    adapters.point("current", serving)
    server.loaded, server.stable = {"base", serving.name}, serving.name
    server.behaviours = {serving.name: Behaviour(right=0.3), candidate.name: Behaviour(right=0.6)}
    assert run(monkeypatch, candidate.name) == REFUSED
    assert "general questions: 40.0% forgotten" in ledger.last("gate")["reason"]
    server.behaviours["base"] = Behaviour(right=0.6)
    assert run(monkeypatch, candidate.name) == DONE


def test_a_model_knows_what_it_gets_right_greedily_and_nearly_always_otherwise(server, home, monkeypatch, capsys):
    tries = {"always": [1, 1, 1, 1, 1], "one miss": [1, 1, 1, 0, 1], "two": [1, 0, 1, 1, 0], "lucky": [0, 1, 1, 1, 1]}
    rows = [Question(id=name, kind="general", question=f"{name}?", answer="Ulm") for name in tries]
    write_jsonl(home / "candidates.jsonl", rows)
    server.answers |= {f"{name}?": (0, "Ulm") for name in tries}
    left = {f"{name}?": list(right) for name, right in tries.items()}

    def one_by_one(stub):
        stub.behaviours["base"].right = left[stub.asked[-1]["messages"][0]["content"]].pop(0)

    server.on_ask = one_by_one
    options = {"--model": "base", "--known": "4", "--clients": "1"}
    monkeypatch.setattr("sys.argv", ["evaluate", "candidates.jsonl", *chain.from_iterable(options.items())])
    monkeypatch.chdir(home)
    assert evaluate.main() == DONE
    assert [Question.model_validate_json(line) for line in capsys.readouterr().out.splitlines()] == rows[:2]
    assert [body["temperature"] for body in server.asked] == [0] * 4 + [evaluate.WARM] * 16


def test_what_serves_is_not_judged_against_itself(server, monkeypatch):
    release = make_release()
    adapters.point("current", release)
    assert run(monkeypatch, release.name) == NOTHING_TO_DO
    assert server.asked == []


def test_a_server_that_fails_is_no_verdict(server, monkeypatch):
    release = make_release()
    server.behaviours[release.name] = Behaviour(mode="error")
    with pytest.raises(CouncilError, match="out of memory"):
        run(monkeypatch, release.name)
    assert ledger.last("gate") is None
    assert server.loaded == {"base"}


GAIN, LEVEL = Change(192, 60, 5), Change(210, 0, 0)


@pytest.mark.parametrize(
    ("suites", "kinds", "end", "word"),
    [
        ({"held-out": GAIN, "general": LEVEL}, {"time": Change(16, 4, 0)}, "promote", "held-out +28.6%"),
        ({"held-out": Change(192, 4, 0), "general": LEVEL}, {"time": LEVEL}, "inconclusive", "4 gained, 0 lost"),
        ({"held-out": Change(192, 5, 0), "general": LEVEL}, {"time": LEVEL}, "promote", "5 gained"),
        ({"held-out": GAIN, "general": Change(210, 0, 5)}, {"time": LEVEL}, "refuse", "2.4% forgotten, 2% allowed"),
        ({"held-out": GAIN, "general": Change(210, 0, 4)}, {"time": LEVEL}, "promote", "held-out"),
        (
            {"held-out": GAIN, "general": LEVEL, "fixed": Change(64, 1, 9)},
            {"time": LEVEL},
            "refuse",
            "fixed questions: 9",
        ),
        (
            {"held-out": GAIN, "general": LEVEL, "taught": Change(64, 2, 2)},
            {"time": LEVEL},
            "refuse",
            "2 learned, 2 lost of 64",
        ),
        ({"held-out": GAIN, "general": LEVEL, "taught": Change(57, 24, 0)}, {"time": LEVEL}, "promote", "held-out"),
        (
            {"held-out": GAIN, "general": LEVEL},
            {"time": Change(16, 0, 6), "date": LEVEL},
            "refuse",
            "kind time: 6 lost",
        ),
        ({"held-out": GAIN, "general": LEVEL}, {"time": Change(16, 0, 5), "date": LEVEL}, "promote", "held-out"),
        ({"held-out": Change(192, 0, 0), "general": LEVEL}, {"time": Change(16, 0, 0)}, "inconclusive", "p=1"),
    ],
)
def test_three_ends(suites, kinds, end, word):
    judged = judge(suites, kinds)
    assert judged.end == end and word in judged.reason

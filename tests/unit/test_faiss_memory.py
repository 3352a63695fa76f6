"""The memory's promises: durable, shared, found by time, similar questions found, nothing lost or mixed in silence.

Each test runs on the memory's own engine and on a real PostgreSQL.
"""

import hashlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy
import pytest
from postgres_kit import postgres  # noqa: F401

import faiss_memory
from agent0.command import CouncilError
from agent0.records import Answer
from agent0.settings import ROOT, get_settings
from agent0.store import database
from faiss_memory import FaissMemory

GOOD = {"response": "4", "success": True}


def words_embedder(width=4096):
    """A stand-in for the embedder: texts that share words are similar. It keeps what it was asked to embed."""

    def embed(texts):
        embed.seen.extend(texts)
        vectors = numpy.zeros((len(texts), width), dtype="float32")
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, int(hashlib.sha256(word.encode()).hexdigest(), 16) % width] += 1
        return vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)

    embed.seen = []
    return embed


@pytest.fixture(autouse=True, params=["embedded", "postgresql"])
def engine(request, home, monkeypatch):
    """Which engine the memory of the test has."""
    if request.param == "postgresql":
        monkeypatch.setenv("MEMORY_URL", request.getfixturevalue("postgres").fresh())
        get_settings.cache_clear()
    return request.param


@pytest.fixture
def embed(monkeypatch):
    embed = words_embedder()
    monkeypatch.setattr(faiss_memory, "load_embedder", lambda: embed)
    return embed


@pytest.fixture
def memory():
    memory = FaissMemory()
    yield memory
    memory.close()


def start(code: str, *arguments) -> subprocess.Popen:
    """Run Python code from the project's root in a process of its own."""
    code = f"import sys; from faiss_memory import FaissMemory\n{code}"
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True
    )


def until(done, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


# What goes in comes out.


def test_an_added_answer_is_one_record_that_other_modules_can_read(memory):
    given = {"response": "4", "success": False, "confidence": 0.9, "model": "m", "adapter": "a", "latency_ms": 12.5}
    given |= {"timestamp": 1000.0, "user": "u", "failure_reason": "wrong", "id": "chatcmpl-1"}
    assert memory.add("2 + 2?\n\0ünï", given) == "chatcmpl-1"
    assert memory.get("chatcmpl-1") == {"query": "2 + 2?\n\0ünï", "feedback": None, **given}
    assert Answer(**memory.get("chatcmpl-1")).model_dump() == memory.get("chatcmpl-1")
    assert len(memory.meta) == 1
    assert memory.get("nobody") is None


@pytest.mark.parametrize("now", [1_700_000_000, 1_700_000_000.5, datetime.now(), datetime(2026, 3, 1, tzinfo=UTC)])
def test_the_seeds_call_works_with_any_now(memory, now):
    id = memory.add("2 + 2?", {"response": "4", "success": True, "model": "m", "timestamp": now})
    seconds = now.timestamp() if isinstance(now, datetime) else now
    assert memory.get(id)["timestamp"] == seconds
    assert Answer(**memory.get(id)).success


@pytest.mark.parametrize(("confidence", "success"), [(0, False), (0.7, False), (0.71, True), (1, True)])
def test_success_follows_from_confidence(memory, confidence, success):
    assert memory.get(memory.add("q", {"response": "r", "confidence": confidence}))["success"] is success
    contrary = {"response": "r", "confidence": confidence, "success": not success}
    assert memory.get(memory.add("q", contrary))["success"] is not success


def test_the_confidence_threshold_is_a_setting(memory, monkeypatch):
    monkeypatch.setenv("CONFIDENCE_THRESHOLD", "0.2")
    get_settings.cache_clear()
    assert memory.get(memory.add("q", {"response": "r", "confidence": 0.3}))["success"] is True


@pytest.mark.parametrize(
    ("query", "metadata", "named"),
    [
        ("", GOOD, "query=''"),
        (" \n", GOOD, "query="),
        (None, GOOD, "query=None"),
        ("q\ud800", GOOD, "query="),
        ("q", None, "metadata=None"),
        ("q", {"success": True}, "response is missing"),
        ("q", {"response": None, "success": True}, "response is missing"),
        ("q", {"response": "r"}, "success is missing"),
        ("q", {"response": "r\ud800", "success": True}, "Unicode"),
        ("q", {"response": "r", "success": "yes"}, "success='yes'"),
        ("q", {"response": "r", "confidence": "0.9"}, "confidence='0.9'"),
        ("q", {**GOOD, "confidence": 1.01}, "confidence=1.01"),
        ("q", {**GOOD, "confidence": -0.01}, "confidence=-0.01"),
        ("q", {**GOOD, "confidence": math.nan}, "confidence=nan"),
        ("q", {**GOOD, "latency_ms": math.inf}, "latency_ms=inf"),
        ("q", {**GOOD, "latency_ms": -1}, "latency_ms=-1"),
        ("q", {**GOOD, "timestamp": "today"}, "timestamp='today'"),
        ("q", {**GOOD, "timestamp": math.nan}, "timestamp=nan"),
        ("q", {**GOOD, "timestamp": 1_700_000_000_000}, "timestamp=1700000000000"),
        ("q", {**GOOD, "succes": True}, "'succes'"),
        ("q", {**GOOD, "feedback": {}}, "'feedback'"),
        ("q", {**GOOD, "id": 7}, "id=7"),
    ],
)
def test_bad_input_is_refused_by_name_and_not_stored(memory, query, metadata, named):
    with pytest.raises(CouncilError) as refusal:
        memory.add(query, metadata)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(memory.meta) == 0


def test_an_id_is_taken_only_once(memory):
    memory.add("first", {**GOOD, "id": "x"})
    with pytest.raises(CouncilError, match="'x' is taken"):
        memory.add("second", {**GOOD, "id": "x"})
    assert memory.get("x")["query"] == "first"


# Found by time and success.


def test_between_is_half_open_and_oldest_first(memory):
    for at in (30, 10, 20, 40):
        memory.add(f"q{at}", {**GOOD, "success": at != 20, "timestamp": at})
    assert [r["query"] for r in memory.between(10, 40)] == ["q10", "q20", "q30"]
    assert [r["query"] for r in memory.between(10, 40, success=False)] == ["q20"]
    assert [r["query"] for r in memory.between(0, math.inf, success=True)] == ["q10", "q30", "q40"]
    assert memory.between(11, 20) == []
    since, until = datetime.fromtimestamp(20), datetime.fromtimestamp(31, UTC)
    assert [r["query"] for r in memory.between(since, until)] == ["q20", "q30"]
    with pytest.raises(CouncilError, match="until=nan"):
        memory.between(0, math.nan)


# Feedback.


def test_feedback_overrides_success_and_is_kept(memory):
    id = memory.add("q", GOOD)
    memory.feedback(id, success=False, correction="it is 5 €")
    record = memory.get(id)
    assert record["success"] is False
    assert record["feedback"].items() >= {"success": False, "correction": "it is 5 €"}.items()
    memory.feedback(id, score=0.9)
    record = memory.get(id)
    assert record["success"] is True
    assert record["feedback"].items() >= {"success": True, "score": 0.9, "correction": "it is 5 €"}.items()
    assert Answer(**record).feedback == record["feedback"]


@pytest.mark.parametrize(
    ("verdict", "success"),
    [
        ({"score": 0.7}, False),
        ({"score": 0.71}, True),
        ({"correction": "5"}, False),
        ({"score": 0, "success": True}, True),
    ],
)
def test_feedback_without_success_implies_it(memory, verdict, success):
    id = memory.add("q", {**GOOD, "success": not success})
    memory.feedback(id, **verdict)
    assert memory.get(id)["success"] is success
    assert memory.between(0, math.inf, success=success)


@pytest.mark.parametrize("verdict", [{}, {"score": 1.1}, {"score": math.nan}, {"success": "no"}, {"correction": ""}])
def test_bad_feedback_is_refused_and_changes_nothing(memory, verdict):
    id = memory.add("q", GOOD)
    before = memory.get(id)
    with pytest.raises(CouncilError, match=next(iter(verdict), "feedback")):
        memory.feedback(id, **verdict)
    assert memory.get(id) == before


def test_judged_goes_by_when_the_newest_verdict_was_given(memory):
    old, other = (memory.add(q, {**GOOD, "timestamp": at}) for q, at in (("old", 100), ("other", 50)))
    memory.add("nobody judged", {**GOOD, "timestamp": 70})
    before = time.time()
    memory.feedback(old, success=False), memory.feedback(other, success=True)
    assert [record["query"] for record in memory.judged(before, time.time() + 1)] == ["other", "old"]
    assert memory.judged(0, before) == []
    between = time.time()
    memory.feedback(old, correction="5")
    assert [record["query"] for record in memory.judged(between, time.time() + 1)] == ["old"]


def test_feedback_on_an_unknown_id_raises_key_error(memory):
    with pytest.raises(KeyError):
        memory.feedback("nobody", success=True)


# Meta reads like a list.


def test_meta_reads_like_a_list(memory, monkeypatch):
    monkeypatch.setattr(database, "PAGE", 3)
    for number in range(10):
        memory.add(f"q{number}", GOOD)
    everything = list(memory.meta)
    assert [r["query"] for r in everything] == [f"q{number}" for number in range(10)]
    assert len(memory.meta) == 10
    for where in [0, 7, -1, -10]:
        assert memory.meta[where] == everything[where]
    for where in [slice(2, 5), slice(None), slice(-3, None), slice(8, 2, -2), slice(5, 5), slice(0, 99, 4)]:
        assert memory.meta[where] == everything[where]
    assert list(reversed(memory.meta)) == everything[::-1]
    with pytest.raises(IndexError):
        memory.meta[10]


def test_the_seeds_one_liner_loads_nothing_heavy(memory):
    memory.add("q", GOOD)
    seed = "from faiss_memory import FaissMemory; m=FaissMemory(); print(f'Memory size: {len(m.meta)}')"
    heavy = "{'torch', 'faiss', 'numpy', 'transformers', 'sentence_transformers'}"
    process = start(f"{seed}; print({heavy} & set(sys.modules))")
    assert process.communicate()[0] == "Memory size: 1\nset()\n"


# Durable, shared, never silently recreated.


def test_an_added_answer_survives_a_kill(memory):
    code = "print(FaissMemory().add('q', {'response': 'r', 'success': False}), flush=True); sys.stdin.read()"
    process = start(f"{code}; import time; time.sleep(60)")
    id = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert memory.get(id)["query"] == "q"


def test_four_processes_and_this_one_share_a_new_memory(home):
    code = (
        "m = FaissMemory()\nfor i in range(50): print(m.add(f'{sys.argv[1]}-{i}', {'response': 'r', 'success': True}))"
    )
    processes = [start(code, number) for number in range(4)]
    memory = FaissMemory()
    ids = [id for process in processes for id in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(ids) == len(set(ids)) == len(memory.meta) == 200
    assert {record["id"] for record in memory.meta} == set(ids)
    assert not list((home / "memory").glob(".*.db")), "what a process made and another was first with is gone"
    memory.close()


def test_threads_share_one_memory(memory, embed, monkeypatch):
    alone = threading.Lock()

    def embed_alone(texts):
        assert alone.acquire(blocking=False), "two threads in the embedder, which is not made for it"
        time.sleep(0.001)  # lets the other threads come
        alone.release()
        return embed(texts)

    monkeypatch.setattr(faiss_memory, "load_embedder", lambda: embed_alone)

    def work(number):
        id = memory.add(f"question {number}", GOOD)
        return memory.get(id)["query"] == memory.query(f"question {number}", 1)[0]["query"]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(80)))
    assert len(memory.meta) == 80
    assert len([text for text in embed.seen if text != "?"]) == 160  # each row once, each query once


# Similar questions, through an index that is only derived.


def ask(path=None, text="about cats", k=1) -> list[str]:
    """What a process that has just started would find."""
    memory = FaissMemory(path)
    found = [record["query"] for record in memory.query(text, k)]
    memory.close()
    return found


@pytest.fixture
def questions(memory, embed):
    """Twenty questions, one of them about cats, embedded and saved."""
    for number in range(19):
        memory.add(f"q{number} weather", GOOD)
    memory.add("about cats", GOOD)
    memory.query("x")
    embed.seen.clear()
    return memory


def test_query_returns_the_nearest_records_best_first(questions):
    found = questions.query("about cats q3", k=3)
    assert [record["query"] for record in found[:2]] == ["about cats", "q3 weather"]
    assert found[0]["score"] == pytest.approx(2 / math.sqrt(6))
    assert found[0]["score"] > found[1]["score"] > found[2]["score"]
    assert Answer(**{name: found[0][name] for name in Answer.model_fields}).response == "4"
    assert len(questions.query("about cats", k=99)) == 20


@pytest.mark.parametrize(
    ("text", "k"), [("", 5), (None, 5), ("q\ud800", 5), ("q", 0), ("q", -1), ("q", 1.5), ("q", True)]
)
def test_a_bad_query_is_refused(memory, text, k):
    with pytest.raises(CouncilError, match="query=" if k == 5 else "k="):
        memory.query(text, k)


def test_an_empty_memory_answers_without_an_embedder(memory, monkeypatch):
    monkeypatch.setattr(faiss_memory, "load_embedder", None)
    assert memory.query("anything") == []


def test_only_what_is_new_gets_embedded(questions, embed):
    questions.add("about dogs", GOOD)
    assert embed.seen == []
    assert questions.query("dogs", k=1)[0]["query"] == "about dogs"
    assert sorted(embed.seen) == ["about dogs", "dogs"]


def test_questions_are_embedded_in_the_background_while_nothing_else_is_to_do(memory, embed, monkeypatch):
    monkeypatch.setattr(faiss_memory, "FEW", 2)
    for number in range(9):
        memory.add(f"q{number}", GOOD)
    allowed, asked = iter([True, True, False]), threading.Semaphore(0)

    def idle() -> bool:
        asked.release()
        return next(allowed, False)

    thread = memory.embed_in_background(idle, pause=0.01)
    for _ in range(5):
        assert asked.acquire(timeout=60)
    assert memory.health()["embedded"] == 4, "two batches, and then a request came"
    memory.close()
    thread.join(10)
    assert not thread.is_alive()


def test_the_background_embeds_everything_and_then_waits_for_more(memory, embed):
    memory.add("about cats", GOOD)
    thread = memory.embed_in_background(lambda: True, pause=0.01)
    for text in ("about dogs", "about cows"):
        until(lambda: memory.health()["embedded"] == len(memory.meta))
        memory.add(text, GOOD)
    until(lambda: memory.health()["embedded"] == 3)
    assert sorted(set(embed.seen) - {"?"}) == ["about cats", "about cows", "about dogs"]
    memory.close()
    thread.join(10)


def test_the_background_tries_again_what_failed(memory, embed, monkeypatch):
    monkeypatch.setattr(faiss_memory, "TRY_AGAIN", 0.01)
    failures = [CouncilError("no embedder yet"), CouncilError("nor now")]

    def load():
        if failures:
            raise failures.pop()
        return embed

    monkeypatch.setattr(faiss_memory, "load_embedder", load)
    memory.add("about cats", GOOD)
    memory.embed_in_background(lambda: True, pause=0.01)
    until(lambda: memory.health()["embedded"] == 1)
    assert not failures


def test_embedding_goes_on_where_a_kill_cut_it_off(memory, embed):
    for number in range(40):
        memory.add(f"q{number} weather", GOOD)
    code = """
import faiss_memory, os, signal, test_faiss_memory
embed, calls = test_faiss_memory.words_embedder(), []
def dying(texts):
    calls.append(texts)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return embed(texts)
faiss_memory.load_embedder = lambda: dying
faiss_memory.FEW = 5
FaissMemory().embed_in_background(lambda: True, pause=0.01).join()
"""
    assert start(code).wait(60) == -signal.SIGKILL
    kept = memory.health()["embedded"]
    assert 10 <= kept <= 15
    assert memory.embed() == 40
    assert len([text for text in embed.seen if text != "?"]) == 40 - kept
    assert memory.query("q7 weather", 1)[0]["query"] == "q7 weather"


def test_an_index_of_another_embedder_is_never_mixed_in(questions, monkeypatch):
    monkeypatch.setenv("EMBEDDING_MODEL", "another")
    get_settings.cache_clear()
    another = words_embedder(width=2048)
    monkeypatch.setattr(faiss_memory, "load_embedder", lambda: another)
    questions.add("later", GOOD)
    assert ask() == ["about cats"]
    assert {"q3 weather", "later"} <= set(another.seen)


def test_what_is_removed_is_found_no_more(memory, embed):
    kept, gone = memory.add("about cats", {**GOOD, "timestamp": 9}), memory.add("about dogs", {**GOOD, "timestamp": 5})
    old = memory.add("about cows", {**GOOD, "timestamp": 1})
    memory.query("x")
    embed.seen.clear()
    assert memory.forget(5) == 1 and memory.get(old) is None
    assert memory.remove([gone, gone, "unknown"]) == 1
    assert [record["id"] for record in memory.query("dogs", 5)] == [kept]
    assert memory.health()["embedded"] == 1 and memory.health()["trouble"] == ""
    assert set(embed.seen) - {"?"} == {"dogs"}, "what stays is not embedded again"


def test_rebuild_embeds_everything_afresh(questions, embed):
    questions.rebuild()
    assert len(set(embed.seen) - {"?"}) == 20
    assert ask() == ["about cats"]


def test_adding_does_not_wait_for_an_embedding(memory, monkeypatch):
    embed, asked, go_on = words_embedder(), threading.Event(), threading.Event()

    def slow(texts):
        asked.set()
        assert go_on.wait(60)
        return embed(texts)

    monkeypatch.setattr(faiss_memory, "load_embedder", lambda: slow)
    memory.add("first", GOOD)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(memory.query, "first")
        assert asked.wait(60)
        memory.add("second", GOOD)
        assert not found.done()
        go_on.set()
        assert found.result()[0]["query"] == "first"


def test_processes_that_add_and_query_at_once_keep_one_whole_index(home, embed):
    code = """
import faiss_memory, test_faiss_memory
faiss_memory.load_embedder = test_faiss_memory.words_embedder
m = FaissMemory()
for i in range(20):
    text = f'{sys.argv[1]}x{i} common'
    m.add(text, {'response': 'r', 'success': True})
    assert m.query(text, 999)[0]['score'] > 0.99
"""
    processes = [start(code, name) for name in "ab"]
    assert [process.wait(60) for process in processes] == [0, 0]
    memory = FaissMemory()
    found = memory.query("common", 999)
    assert len(found) == len({record["id"] for record in found}) == 40
    assert len(embed.seen) < 2 + 40 / 5  # most rows came with the saved index
    memory.close()


# The embedder itself.


def test_the_embedded_model_finds_a_paraphrase(memory):
    for question in ["How do I bake bread at home?", "What is the capital of France?", "Why is the sky blue?"]:
        memory.add(question, GOOD)
    found = memory.query("Which city is France governed from?", k=2)
    assert found[0]["query"] == "What is the capital of France?"
    assert 1 >= found[0]["score"] > 0.5 > found[1]["score"]
    assert memory.query("What is the capital of France?", 1)[0]["score"] == pytest.approx(1, abs=1e-5)


def test_an_embedder_that_cannot_load_is_named(home, monkeypatch):
    monkeypatch.setenv("EMBEDDING_MODEL", str(home))
    get_settings.cache_clear()
    memory = FaissMemory()
    memory.add("q", GOOD)
    with pytest.raises(CouncilError, match="EMBEDDING_MODEL"):
        memory.query("q")
    memory.close()

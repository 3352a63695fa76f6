"""Replay: the base model's own general answers, asked once, kept, and never half a sentence."""

import pytest
from council_stub import Stub
from lora_kit import make_base

from agent0.command import CouncilError
from agent0.pool import load_pool
from agent0.quality import GENERAL, HELD_OUT, PROBES, REPLAY, normalise, questions_file
from agent0.records import Question, read_jsonl
from agent0.replay import first_sentence, replay_examples
from agent0.settings import get_settings


@pytest.fixture(autouse=True)
def base(home, monkeypatch):
    return make_base(home / "models" / "tiny", monkeypatch)


@pytest.fixture
def server(monkeypatch):
    stub = Stub().start()
    stub.answers |= {row.question: (n, "so") for n, row in enumerate(read_jsonl(questions_file(REPLAY), Question))}
    monkeypatch.setenv("COUNCIL_URL", stub.url)
    get_settings.cache_clear()
    yield stub
    stub.stop()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Paris is the capital.", "Paris is the capital."),
        (" It is 3. A triangle has", "It is 3."),
        ("Tea! Boil water. Then you", "Tea!"),
        ("- one\n- two\n- thr", "- one"),
        ("Pi is 3.14 and", ""),
        ("Pi is 3.14. So", "Pi is 3.14."),
        ("no end", ""),
        ("", ""),
    ],
)
def test_only_a_whole_first_sentence_is_kept(text, kept):
    assert first_sentence(text) == kept


def test_the_base_model_is_asked_once_and_its_answers_never_enter_the_pool(home, server, monkeypatch):
    monkeypatch.setenv("REPLAY_EXAMPLES", "64")
    get_settings.cache_clear()
    first = replay_examples()
    asked = len(server.asked)
    assert asked == len(list(read_jsonl(questions_file(REPLAY), Question)))
    assert len(first) == 64 and {example.origin for example in first} == {"replay"}
    assert {example.output for example in first} == {"The answer is so."}
    assert all((body["model"], body["store"]) == ("base", False) for body in server.asked)
    assert replay_examples() == first and len(server.asked) == asked
    assert load_pool(home / "training_data") == []


def test_none_is_asked_for_where_none_is_wanted(server, monkeypatch):
    monkeypatch.setenv("REPLAY_EXAMPLES", "0")
    get_settings.cache_clear()
    assert replay_examples() == [] and server.asked == []


def test_without_a_server_the_way_out_is_named(server):
    server.stop()
    with pytest.raises(CouncilError, match=r"make serve.*REPLAY_EXAMPLES=0"):
        replay_examples()


def test_what_is_measured_is_not_replayed():
    files = map(questions_file, (HELD_OUT, PROBES, GENERAL))
    measured = {normalise(q.question) for path in files for q in read_jsonl(path, Question)}
    assert not measured & {normalise(q.question) for q in read_jsonl(questions_file(REPLAY), Question)}

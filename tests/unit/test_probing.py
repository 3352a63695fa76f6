"""What a watch asks besides its probes: users' questions of the last day, where the answer is known."""

import time

import pytest
from lora_kit import make_base, make_release

from agent0.probing import load_open, load_replays, mix
from agent0.records import Question, TrainingExample, write_jsonl
from agent0.settings import get_settings
from faiss_memory import FaissMemory


@pytest.fixture
def candidate(home, monkeypatch):
    make_base(home / "models" / "tiny", monkeypatch)
    return make_release(1)  # trained on the example "e1"


def remember(query, response, **more):
    memory = FaissMemory()
    answer_id = memory.add(query, {"response": response, "confidence": 0.9, "model": "tiny", **more})
    memory.close()
    return answer_id


def right_answers(count):
    for n in range(count):
        remember(f"What is {n + 20} + 7?", f"It is {n + 27}.")


def test_questions_with_a_known_answer_are_asked_again(candidate):
    right_answers(8)
    remember("Do you like tea?", "Yes.")
    remember("What is 1 + 1?", "It is 2.", timestamp=time.time() - 2 * 86400)
    asked = {question.question: question.answer for question in load_replays(candidate)}
    assert len(asked) == 8 and asked["What is 20 + 7?"] == "27"
    assert [(question.question, question.answer) for question in load_open(candidate)] == [("Do you like tea?", None)]


def test_a_correction_is_one_users_word_and_left_to_judges(candidate):
    right_answers(8)
    answer_id = remember("Who leads the club?", "Ann.")
    memory = FaissMemory()
    memory.feedback(answer_id, correction="The answer is Bea.")
    memory.close()
    assert "Who leads the club?" not in {q.question for q in load_replays(candidate)}
    assert [(q.question, q.answer) for q in load_open(candidate)] == [("Who leads the club?", None)]


def test_what_the_candidate_was_trained_on_is_not_asked(candidate):
    right_answers(8)
    example = TrainingExample(
        instruction="what is 20 + 7",
        output="The answer is 27.",
        reasoning="20 + 7 = 27",
        quality_score=0.9,
        harvest_timestamp=1,
        id="e1",
        answer_id="a1",
        kind="arithmetic",
    )
    write_jsonl(get_settings().training_data / "harvest_20260101.jsonl", [example])
    assert "What is 20 + 7?" not in {question.question for question in load_replays(candidate)}
    assert len(load_replays(candidate)) == 7


def test_where_most_was_wrong_nothing_is_asked_again(candidate):
    right_answers(8)
    for n in range(4):
        remember(f"What is {n + 50} + 7?", "It is 3.")
    assert load_replays(candidate) == []


def test_without_a_memory_none_is_made(candidate, home):
    assert load_replays(candidate) == []
    assert not get_settings().memory_path.exists()


def test_the_two_take_turns():
    probes, replays = ([Question(id=f"{kind}{n}", kind="x", question="q") for n in range(3)] for kind in "pr")
    assert [question.id for question in mix(probes, replays[:2])] == ["p0", "r0", "p1", "r1", "p2"]

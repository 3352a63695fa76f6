"""Practice: a proven question with other numbers, worked out anew, and nothing that is only to be measured on."""

import re

import pytest

from agent0 import practice
from agent0.agreement import answers_agree
from agent0.council.math import solve
from agent0.quality import HELD_OUT, gist
from agent0.records import Question, TrainingExample, write_jsonl
from agent0.settings import get_settings

QUESTIONS = [
    "What is 25% of 360?",
    "Anna buys 4 pens at $3 each. How much does Anna pay?",
    "What comes next: 7, 10, 13, 16, ?",
    "How many minutes are there from 10:35 to 11:20?",
    "What day of the week is 10 days after Monday?",
    "Convert 45 feet to yards.",
    "What is 2.5 + 3.5?",
]


def proven(question: str, verified_by: str | None = "math:x") -> TrainingExample:
    return TrainingExample(
        instruction=question,
        output=solution.output if (solution := solve(question)) else "It depends.",
        reasoning="So.",
        quality_score=1,
        harvest_timestamp=1,
        id=gist(question),
        answer_id="a",
        kind="x",
        verified_by=verified_by,
    )


@pytest.fixture
def held_out(tmp_path, monkeypatch):
    """Set what is held out."""

    def write(*questions: str) -> None:
        rows = [Question(id=str(n), kind="x", question=text, answer="1") for n, text in enumerate(questions)]
        write_jsonl(tmp_path / f"{HELD_OUT}.jsonl", rows)
        monkeypatch.setenv("QUESTIONS_PATH", str(tmp_path))
        get_settings.cache_clear()

    return write


def test_each_variation_is_a_new_question_with_its_exact_answer():
    pool = [proven(question) for question in QUESTIONS]
    found = practice.practice_examples(pool, 60)
    assert len(found) == 60 == len({gist(e.instruction) for e in found} - {gist(q) for q in QUESTIONS})
    for example in found:
        assert answers_agree(example.output, solve(example.instruction).result)
        assert example.origin == "practice" and example.verified_by == "math:x"
    assert len({example.id for example in found} | {example.id for example in pool}) == 67


def test_the_questions_take_turns_and_the_same_pool_gives_the_same(held_out):
    held_out("Why is the sky blue?")
    pool = [proven(question) for question in QUESTIONS]
    found = practice.practice_examples(pool, len(pool))
    words = [{word for word in q.split() if word.isalpha()} for q in QUESTIONS]
    assert [{word for word in e.instruction.split() if word.isalpha()} for e in found] == words
    assert practice.practice_examples(pool, len(pool)) == found
    others = practice.practice_examples(pool, len(pool), "another night")
    assert not {e.instruction for e in others} & {e.instruction for e in found}


def test_what_is_new_is_practised_more_often():
    pool = [proven(question) for question in QUESTIONS]
    found = practice.practice_examples(pool, 2 * (len(pool) - 1) + 2 * practice.TURNS, new={pool[3].id})
    asked = [e.instruction.startswith("How many minutes") for e in found]
    assert sum(asked) == 2 * practice.TURNS > 2
    assert len({e.instruction for e in found}) == len(found)


def test_a_result_keeps_its_form():
    whole = practice.practice_examples([proven("What is 84 divided by 7?")], 20)
    assert whole and all(solve(e.instruction).result.isdigit() for e in whole)


@pytest.mark.parametrize("verified_by", [None, "code:runs", "program:endpoint"])
def test_only_what_the_math_member_proved_is_practised(verified_by):
    assert practice.practice_examples([proven("What is 3 + 4?", verified_by)], 5) == []


def test_what_cannot_be_varied_is_left_alone():
    assert practice.practice_examples([proven("Why is the sky blue?")], 5) == []
    assert practice.practice_examples([proven("What day comes after Monday?")], 5) == []


def test_nothing_held_out_is_practised_in_other_words_either(held_out):
    pool = [proven("What is 11 + 12?")]
    everything = [e.instruction for e in practice.practice_examples(pool, 1000)]
    (one, other), (third, fourth) = (re.findall(r"\d+", question) for question in everything[:2])
    held_out(f"Calculate {one} plus {other}", f"How much are {third} apples and {fourth} pears?")
    left = [e.instruction for e in practice.practice_examples(pool, 1000)]
    assert len(everything) > 10 and left
    assert not {f"What is {one} + {other}?", f"What is {third} + {fourth}?"} & set(left)


@pytest.mark.parametrize(("text", "size"), [("40", 10), ("120", 10), ("7.50", 1), ("360", 10)])
def test_a_number_is_redrawn_in_its_own_size_and_roundness(text, size):
    import random

    drawn = {practice.redrawn(text, random.Random(seed)) for seed in range(50)}
    assert len(drawn) > 3
    for number in drawn:
        assert len(number) <= len(text) and number.partition(".")[1:2] == text.partition(".")[1:2]
        assert float(text) / 2 - 10 <= float(number) <= 2 * float(text)

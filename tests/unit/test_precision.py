"""How often "proven" is right, on questions whose wording the rules were not written for."""

import pytest

from agent0.council.code import CodeMember
from agent0.council.logic import LogicMember
from agent0.council.math import MathMember
from agent0.council.protocol import convene
from bench.precision import FLOOR, Score, measure
from tests.unit.precision_questions import questions


def test_there_are_enough_questions_and_no_two_alike():
    asked = [question for _, question, _ in questions()]
    assert len(set(asked)) >= 500 and questions() == questions()


@pytest.mark.timeout(300)
def test_what_is_proven_is_right():
    scores = measure(questions())
    total = sum(scores.values(), Score())
    assert total.answered >= 150, "too few answers to measure by"
    assert total.precision >= FLOOR, [wrong for score in scores.values() for wrong in score.wrong]


def test_a_wrong_answer_is_counted():
    class Wrong(MathMember):
        def propose(self, question, failed_response):
            rewrite = super().propose(question, failed_response)
            return rewrite and rewrite.model_copy(update={"output": "The answer is 7.", "result": "7"})

    scores = measure([("percent", "What is 15% of 240?", "36"), ("percent", "What is 15% of it?", None)], [Wrong()])
    assert (scores["percent"].asked, scores["percent"].answered, scores["percent"].precision) == (2, 1, 0.0)


def test_members_do_not_contradict_each_other():
    members = [MathMember(), LogicMember(), CodeMember()]
    for kind, question, _ in questions(draws=1):
        if kind != "code":
            assert convene(question, "", members).reason != "proofs disagree", question

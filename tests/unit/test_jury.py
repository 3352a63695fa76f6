"""Verification, the weights of jurors, judges, and a new member: how the protocol decides beyond a plain vote."""

import importlib.util
import random

import pytest

from agent0.council.jury import CALIBRATION, Jury
from agent0.council.math import MathMember
from agent0.council.protocol import Attendance, convene
from agent0.council.self_member import SelfMember, own_words
from agent0.records import Rewrite
from agent0.settings import get_settings
from harvest_failures import council_members
from tests.unit.test_council import CHECKED, OPEN, Model, Scripted


class Checker:
    """A member that only verifies: it proves Lisbon and refutes Madrid."""

    name = "checker"

    def propose(self, question, failed_response):
        return None

    def verify(self, question, text):
        return {"Lisbon": "Lisbon", "Madrid": False}.get(text)


def test_a_verified_candidate_is_proven_and_a_refuted_one_is_out():
    decision = convene(OPEN, "x", [Checker(), Scripted("a", "Lisbon"), Scripted("b", "Madrid")])
    assert (decision.rewrite.member, decision.verified_by) == ("a", "checker:verified")
    voters = [Scripted(name, votes_for="Madrid") for name in "cde"]
    assert convene(OPEN, "x", [Checker(), Scripted("b", "Madrid"), *voters]).reason == "no proposal"
    assert convene(OPEN, "x", [Checker(), Scripted("b", "Paris")]).reason == "no quorum"


def test_two_candidates_that_one_checker_proves_do_not_contradict_each_other():
    checker = Checker()
    checker.verify = lambda question, text: text
    decision = convene(OPEN, "x", [checker, Scripted("a", "def f(): return 1"), Scripted("b", "f = lambda: 1")])
    assert decision.rewrite.member == "a"


def test_free_proofs_spare_the_costly_members_and_those_who_may_prove_are_asked():
    costly = Scripted("costly", "Lisbon", costly=True)
    convene(OPEN, "x", [Checker(), Scripted("a", "Lisbon"), costly])
    convene(OPEN, "x", [Checker(), costly])
    assert costly.asked == 0
    costly.proves = lambda question: True
    assert convene(OPEN, "x", [Checker(), costly]).verified_by == "checker:verified"


def seasoned(**rates):
    """A jury after 20 proven questions, on which each juror was right at its rate and else voted for the wrong one."""
    jury, draw = Jury(), random.Random(1)
    for n in range(20):
        right = draw.randrange(2)
        for name, rate in rates.items():
            jury.vote(name, f"question {n}", ["one", "two"], right if n < 20 * rate else 1 - right, right)
    return jury


def test_a_record_weighs_a_juror_and_a_new_one_counts_fully():
    jury = seasoned(good=1.0, fair=0.9, coin=0.5, liar=0.0)
    weights = {name: jury.weight(name) for name in ("good", "fair", "coin", "liar", "new")}
    assert weights == {"good": 1.0, "fair": 0.8, "coin": 0.0, "liar": 0.0, "new": 1.0}


def test_few_proven_questions_are_no_record():
    jury = Jury()
    for n in range(4):
        jury.vote("unlucky", f"question {n}", ["a", "b"], 1, 0)
    assert jury.weight("unlucky") == 1.0
    jury.vote("unlucky", "question 5", ["a", "b"], 1, 0)
    assert jury.weight("unlucky") == 0.0


def test_a_juror_who_joins_later_is_weighed_too():
    jury = Jury()
    for juror in ("early", "late"):
        for n in range(6):
            jury.vote(juror, f"question {n}", ["a", "b"], 0, 0)
        assert jury.weight(juror) == 1.0


def test_votes_are_weighted():
    attendance = Attendance()
    attendance.jury = seasoned(good=1.0, fair=0.9, coin=0.5, other=0.5)
    jurors = {name: Scripted(name, votes_for="Lisbon") for name in ("good", "fair", "coin", "other")}
    author = Scripted("a", "Lisbon")
    decision = convene(OPEN, "x", [author, jurors["good"], jurors["fair"]], attendance)
    assert decision.votes == pytest.approx({"good": 1.0, "fair": 0.8}, abs=0.02)
    assert (
        convene(OPEN, "x", [author, jurors["good"], jurors["coin"], jurors["other"]], attendance).reason == "no quorum"
    )
    rivals = [Scripted("b", "Madrid"), *(Scripted(n, votes_for="Madrid") for n in ("coin", "other"))]
    decision = convene(OPEN, "x", [author, *rivals, jurors["good"], jurors["fair"]], attendance)
    assert decision.rewrite.output == "Lisbon"


def test_proven_questions_calibrate_jurors_and_judges_and_the_agreement_is_printed(caplog):
    caplog.set_level("INFO")
    attendance = Attendance()
    good, bad = Scripted("good", votes_for=0), Scripted("bad", votes_for=0)
    good.vote = lambda question, candidates: next(n for n, text in enumerate(candidates) if text != "24")
    bad.vote = lambda question, candidates: candidates.index("24")
    good.judge = lambda question, text: 0.2 if text == "24" else 0.6
    bad.judge = lambda question, text: 0.9
    for _ in range(CALIBRATION + 5):
        convene(CHECKED, "24", [MathMember(), good, bad], attendance)
    assert attendance.jury.weight("good") == 1.0 and attendance.jury.weight("bad") == 0.0
    attendance.jury.report()
    assert [record.getMessage() for record in caplog.records] == [
        "juror bad: right on 0 of 10 proven questions, weight 0.00",
        "juror good: right on 10 of 10 proven questions, weight 1.00",
        "judge bad: agrees with 0 of 10 proven answers",
        "judge good: agrees with 10 of 10 proven answers",
    ]
    assert attendance.jury.satisfied("good", 0.6) and not attendance.jury.satisfied("good", 0.3)
    assert attendance.jury.satisfied("bad", 0.9) is None  # it cannot tell, so that it is not heard


def test_a_right_answer_or_none_calibrates_nobody():
    attendance, juror = Attendance(), Scripted("juror", votes_for=0)
    for failed in ("", "The answer is 36."):
        convene(CHECKED, failed, [MathMember(), juror], attendance)
    assert juror.shown == []


def test_judges_must_find_the_elected_answer_good():
    author = Scripted("a", "Lisbon")
    author.judge = lambda question, text: 0.0  # nobody judges its own
    jurors = [Scripted(name, votes_for="Lisbon") for name in "bc"]
    for score, elected in ((0.7, True), (0.6, False), (None, False)):
        jurors[0].judge = lambda question, text, score=score: score
        decision = convene(OPEN, "x", [author, *jurors])
        assert (decision.rewrite is not None) == elected
    jurors[0].judge = lambda question, text: 1 / 0
    assert convene(OPEN, "x", [author, *jurors]).reason == "no judge gave a score"
    jurors[1].judge = lambda question, text: 0.9
    assert convene(OPEN, "x", [author, *jurors]).rewrite


def test_the_served_models_own_right_words_are_preferred_where_asked_for(monkeypatch):
    says = ["It is 37.", "15% of 240 = 30. The answer is 36.", "15% of 240 is 36.", "It is 36, as far as I can tell."]
    assert convene(CHECKED, "24", [MathMember(), SelfMember(Model(*says))]).rewrite.member == "math"
    monkeypatch.setenv("SELF_SAMPLES", "4")
    get_settings.cache_clear()
    decision = convene(CHECKED, "24", [MathMember(), SelfMember(Model(*says))])
    assert (decision.rewrite.member, decision.rewrite.output) == ("self", "15% of 240 is 36.")
    assert decision.verified_by == "math:percentage" and decision.rewrite.result == "36"
    assert convene(CHECKED, "24", [MathMember(), SelfMember(Model("37.", "38."))]).rewrite.member == "math"
    assert convene(CHECKED, "24", [MathMember(), SelfMember(Model())]).rewrite.member == "math"  # it is down
    assert [member.name for member in council_members()] == ["math", "logic", "code", "knowledge", "self"]


@pytest.mark.parametrize(
    "text",
    [
        "36",
        "The answer is 36.",
        "15% of 240 is 36.",
        "15% of 240 = 240 * 15 / 100 = 36. The answer is 36.",
        "10% of 240 is 24. 15% is 1.5 * 24 = 36.",
        "20 + 16 = 36.",
        "2 * 10 = 20, 2 * 8 = 16, 20 + 16 = 36.",
        "**240 × 0.15 = 36**.",
        "\\(240 \\div 20 = 12\\). 12 * 3 = $36.",
    ],
)
def test_own_words_that_are_so(text):
    assert own_words([text], CHECKED, "36", 200) == text


@pytest.mark.parametrize(
    "text",
    [
        "2 * 18 = 35. The answer is 36.",
        "15% of 240 = 240 * 15 / 10 = 36.",
        "20 + 16 = 30, so it is 36.",
        "Step 1: 80 / 10 = 9. The answer is 36.",
        "**80 / 10 = 9**. The answer is 36.",
        "\\(80 \\div 10 = 9\\). The answer is 36.",
        "80 · 0.15 = 13. The answer is 36.",
        "80x0.15 = 13. The answer is 36.",
        "1,200 / 4 = 250. The answer is 36.",
        "3 * $12 = $35. The answer is 36.",
        "15% = 0.015. The answer is 36.",
        "6x = 65. The answer is 36.",
        "Divide 240 by 10 to get 25. The answer is 36.",
        "The total is 22. The answer is 36.",
        "2 * 18 is 35. The answer is 36.",
        "I am not sure, but it is 36.",
        "It may be 36.",
        "It is likely 36.",
        "It is about 36.",
        "Is it 36?",
        "Hopefully 36.",
        "Sorry, I can't help with that. 36.",
        "36, and the moon is a cheese.",
        "15% of 240 is 37.",
        "36 and then the",
        "36. " * 99,
    ],
)
def test_own_words_that_are_not_so(text):
    assert own_words([text], CHECKED, "36", 200) is None


def test_own_words_state_the_result_and_the_shortest_is_taken():
    assert own_words(["The answer is 36", "36"], CHECKED, "36", 200) == "36"
    conversion = "How many meters are in 5 kilometers?"
    assert own_words(["5 km.", "There are 500 meters in 5 kilometers."], conversion, "5000 meters", 200) is None
    right = "There are 5000 meters in 5 kilometers."
    assert own_words([right], conversion, "5000 meters", 200) == right


MEMBER = """
from agent0.records import Rewrite

class AtlasMember:
    name = "atlas"

    def propose(self, question, failed_response):
        if "capital of Portugal" in question:
            return Rewrite(member=self.name, reasoning="atlas", output="Lisbon.", result="Lisbon", proof="atlas")
"""


def test_a_new_member_is_one_file_and_one_line(tmp_path):
    (tmp_path / "atlas.py").write_text(MEMBER)
    spec = importlib.util.spec_from_file_location("atlas", tmp_path / "atlas.py")
    atlas = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(atlas)
    members = council_members()
    members += [atlas.AtlasMember()]  # the line
    decision = convene(OPEN, "Porto", members)
    assert (decision.verified_by, decision.rewrite.output) == ("atlas", "Lisbon.")
    assert isinstance(decision.rewrite, Rewrite)

"""Precision and coverage of the members that prove, by kind of question: python -m bench.precision

The questions are those of tests/unit/precision_questions.py, written without the rules in view. With --endpoints the
members that COUNCIL_ENDPOINTS or council.toml names sit on the council, too, and have to improve what the server at
COUNCIL_URL answers now; --sample N asks N of the questions. Exit 0 where precision is 99 % or more, else 1.
"""

import argparse
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from agent0.agreement import answers_agree
from agent0.client import CouncilClient
from agent0.command import DONE, FAILED, USAGE, CouncilError, run_command
from agent0.council.code import CodeMember
from agent0.council.endpoint import endpoint_members
from agent0.council.logic import LogicMember
from agent0.council.math import MathMember
from agent0.council.protocol import Attendance, Decision, Member, decide, hear
from agent0.settings import get_settings
from tests.unit.precision_questions import questions

FLOOR = 0.99


@dataclass
class Score:
    """Questions of one kind: how many were asked and answered, and which answers are wrong."""

    asked: int = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    how: Counter = field(default_factory=Counter)  # what became of them: proofs, votes, reasons of abstention

    def __add__(self, other: "Score") -> "Score":
        wrong, how = self.wrong + other.wrong, self.how + other.how
        return Score(self.asked + other.asked, self.answered + other.answered, wrong, how)

    @property
    def precision(self) -> float:
        return 1 - len(self.wrong) / self.answered if self.answered else 1.0


def measure(
    asked: Sequence[tuple[str, str, str | None]],
    members: Sequence[Member] | None = None,
    answer_now: Callable[[str], str] = lambda question: "",
    attendance: Attendance | None = None,
) -> dict[str, Score]:
    """Put each question and `answer_now(question)`, which failed, before the council, and score what it accepts."""
    members, attendance = members or [MathMember(), LogicMember(), CodeMember()], attendance or Attendance()

    scores: dict[str, Score] = {}
    with ThreadPoolExecutor(get_settings().council_concurrency) as pool:
        heard = list(pool.map(lambda row: hear(row[1], answer_now(row[1]), members, attendance), asked))
        decided = list(pool.map(lambda hearing: decide(hearing, members, attendance), heard))
    for row, decision in zip(asked, decided, strict=True):
        _count(scores.setdefault(row[0], Score()), row, decision)
    return scores


def _count(score: Score, row: tuple[str, str, str | None], decision: Decision) -> None:
    kind, question, answer = row
    rewrite = decision.rewrite
    score.asked += 1
    score.how[decision.verified_by or decision.reason] += 1
    if rewrite is None:
        return
    score.answered += 1
    same = rewrite.result == answer if kind == "code" else answer and answers_agree(rewrite.output, answer)
    if not same:
        score.wrong.append(f"{question!r}: {rewrite.output!r}, not {answer!r} ({decision.reason})")


def _with_endpoints(asked: list[tuple[str, str, str | None]]) -> dict[str, Score]:
    """Measure with the configured endpoints beside the members that prove; prints what jurors are worth."""
    endpoints, client, attendance = endpoint_members(), CouncilClient(timeout=600), Attendance()
    if not endpoints:
        raise CouncilError("--endpoints: there are none; set COUNCIL_ENDPOINTS or write council.toml", USAGE)
    members = [MathMember(), LogicMember(), CodeMember(), *endpoints]
    scores = measure(asked, members, lambda question: client.ask(question, store=False).text, attendance)
    attendance.jury.report()
    return scores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", action="store_true", help="ask the configured endpoints, too")
    parser.add_argument("--sample", type=int, metavar="N", help="ask so many of the questions, drawn at random")
    arguments = parser.parse_args()
    asked = questions()
    if arguments.sample:
        asked = random.Random(0).sample(asked, min(arguments.sample, len(asked)))
    scores = _with_endpoints(asked) if arguments.endpoints else measure(asked)
    total = sum(scores.values(), Score())
    print(f"{'':12} {'questions':>9} {'answered':>9} {'wrong':>6} {'precision':>9} {'coverage':>9}")
    for kind, score in [*scores.items(), ("all", total)]:
        row = f"{score.asked:9} {score.answered:9} {len(score.wrong):6} {score.precision:9.1%}"
        print(f"{kind:12} {row} {score.answered / score.asked:9.1%}")
    print("; ".join(f"{how}: {count}" for how, count in total.how.most_common()))
    for wrong in total.wrong:
        print(f"wrong: {wrong}")
    return DONE if total.precision >= FLOOR else FAILED


if __name__ == "__main__":
    run_command(main)

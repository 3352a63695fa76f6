"""Precision and coverage of the members that prove, by kind of question: python -m bench.precision

The questions are those of tests/unit/precision_questions.py, written without the rules in view.
Exit 0 where precision is 99 % or more, else 1.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agent0.command import DONE, FAILED, run_command
from agent0.council.code import CodeMember
from agent0.council.logic import LogicMember
from agent0.council.math import MathMember
from agent0.council.protocol import Member, convene
from agent0.quality import answers_agree
from tests.unit.precision_questions import questions

FLOOR = 0.99


@dataclass
class Score:
    """Questions of one kind: how many were asked and answered, and which answers are wrong."""

    asked: int = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)

    def __add__(self, other: "Score") -> "Score":
        return Score(self.asked + other.asked, self.answered + other.answered, self.wrong + other.wrong)

    @property
    def precision(self) -> float:
        return 1 - len(self.wrong) / self.answered if self.answered else 1.0


def measure(asked: Iterable[tuple[str, str, str | None]], members: Sequence[Member] | None = None) -> dict[str, Score]:
    """Put each question before the council, and score what it proves."""
    members = members or [MathMember(), LogicMember(), CodeMember()]
    scores: dict[str, Score] = {}
    for kind, question, answer in asked:
        score = scores.setdefault(kind, Score())
        score.asked += 1
        rewrite = convene(question, "", members).rewrite
        if rewrite is None:
            continue
        score.answered += 1
        same = rewrite.result == answer if kind == "code" else answer and answers_agree(rewrite.output, answer)
        if not same:
            score.wrong.append(f"{question!r}: {rewrite.output!r}, not {answer!r}")
    return scores


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    scores = measure(questions())
    total = sum(scores.values(), Score())
    print(f"{'':12} {'questions':>9} {'answered':>9} {'wrong':>6} {'precision':>9} {'coverage':>9}")
    for kind, score in [*scores.items(), ("all", total)]:
        row = f"{score.asked:9} {score.answered:9} {len(score.wrong):6} {score.precision:9.1%}"
        print(f"{kind:12} {row} {score.answered / score.asked:9.1%}")
    for wrong in total.wrong:
        print(f"wrong: {wrong}")
    return DONE if total.precision >= FLOOR else FAILED


if __name__ == "__main__":
    run_command(main)

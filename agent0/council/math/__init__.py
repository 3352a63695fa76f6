"""The member that works answers out exactly, or says nothing.

A question is solved when one rule reads its whole text, or several do and agree; see rules.py for how to add one.
"""

from agent0.council.math.rules import Solution, apply
from agent0.council.math.text import clean
from agent0.records import Rewrite


def solve(question: str) -> Solution | None:
    """Work out the exact answer of an everyday question; None unless every word of it is understood."""
    # here, since SymPy takes longer to read than most commands run
    from agent0.council.math import algebra, calendars, measures, numbers, prices, series  # noqa: F401  they register

    solutions = apply(clean(question))
    if len({solution.result for solution in solutions}) != 1:
        return None
    return solutions[0]


class MathMember:
    """Proposes a proven answer with its worked steps, or abstains."""

    name = "math"

    def propose(self, question: str, failed_response: str) -> Rewrite | None:
        solution = solve(question)
        if solution is None:
            return None
        return Rewrite(
            member=self.name,
            reasoning=solution.why,
            output=solution.output,
            result=solution.result,
            kind=solution.kind,
            proof=f"math:{solution.kind}",
        )

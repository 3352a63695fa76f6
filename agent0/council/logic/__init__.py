"""The member that reasons: syllogisms, propositions, orders and small puzzles, decided by a solver.

A question is answered when one form reads all of it, or several do and agree. "Cannot be determined" is an answer only
where the premises allow the one as well as the other, everything that is named is named twice, and the question is not
about classes, of which everybody knows more than the premises say.
"""

import threading

from agent0.council.logic import assignments, classes, orders, propositions
from agent0.council.logic.solver import OPEN, Finding
from agent0.council.logic.words import sentences
from agent0.records import Rewrite

FORMS = {"syllogism": classes, "proposition": propositions, "order": orders, "puzzle": assignments}
_ONE_AT_A_TIME = threading.Lock()  # the solver's context is not made for threads


def solve(question: str) -> tuple[str, Finding] | None:
    """Return (form, finding) of a question; None unless every sentence of it is understood."""
    read = sentences(question)
    if read is None:
        return None
    with _ONE_AT_A_TIME:
        found = [(name, finding) for name, form in FORMS.items() if (finding := form.solve(*read))]
    return found[0] if len({finding.answer for _, finding in found}) == 1 else None


class LogicMember:
    """Proposes a proven conclusion with the sentences that it follows from, or abstains."""

    name = "logic"

    def propose(self, question: str, failed_response: str) -> Rewrite | None:
        solved = solve(question)
        if solved is None:
            return None
        form, finding = solved
        because = "".join(f"{sentence}. " for sentence in finding.because)
        if finding.answer == OPEN:
            because, reason = "What is said allows the one as well as the other. ", "Neither follows from the premises."
        else:
            reason = f"It follows from {len(finding.because)} of the premises."
        return Rewrite(
            member=self.name,
            reasoning=reason,
            output=f"{because}The answer is {finding.answer}.",
            result=finding.answer,
            kind="logic",
            proof=f"logic:{form}",
        )

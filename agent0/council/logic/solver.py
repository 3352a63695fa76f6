"""What follows from premises, by z3: which claims must be true, which cannot be, and from which premises."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Premise = tuple[str, Any]  # a sentence of the question, and its formula
OPEN = "cannot be determined"
_PATIENCE = 2000  # ms a check


@dataclass(frozen=True)
class Finding:
    """An answer, and the sentences from which it follows (none where it stays open)."""

    answer: str
    because: tuple[str, ...] = ()


def decide(premises: Sequence[Premise], claim: Any, yes: str = "yes", no: str = "no") -> Finding | None:
    """Return yes where the claim must be true, no where it cannot be, and OPEN where both can be.

    None where the premises contradict each other, or the solver gives up.
    """
    import z3

    if _refuted_by(premises, z3.BoolVal(True)) != ():
        return None
    for_it, against_it = _refuted_by(premises, z3.Not(claim)), _refuted_by(premises, claim)
    if for_it is None or against_it is None:
        return None
    if for_it:
        return Finding(yes, for_it)
    return Finding(no, against_it) if against_it else Finding(OPEN)


def choose(premises: Sequence[Premise], claims: Mapping[str, Any]) -> Finding | None:
    """Return the one claim that must be true, or OPEN where at least two can be; None as decide does."""
    findings = {name: decide(premises, claim, "yes") for name, claim in claims.items()}
    if None in findings.values():
        return None
    must = [name for name, finding in findings.items() if finding.answer == "yes"]
    may = [name for name, finding in findings.items() if finding.answer == OPEN]
    if len(must) == 1 and not may:
        return Finding(must[0], findings[must[0]].because)
    return Finding(OPEN) if len(may) > 1 and not must else None


def _refuted_by(premises: Sequence[Premise], assumption: Any) -> tuple[str, ...] | None:
    """Return the sentences that contradict the assumption together, () if they do not, None if it cannot be told."""
    import z3

    solver = z3.Solver()
    solver.set(timeout=_PATIENCE)
    solver.set("core.minimize", True)
    for number, (_, formula) in enumerate(premises):
        solver.assert_and_track(formula, f"premise {number}")
    solver.add(assumption)
    outcome = solver.check()
    if outcome == z3.sat:
        return ()
    if outcome != z3.unsat:
        return None
    numbers = sorted(int(str(name).split()[1].strip("|")) for name in solver.unsat_core())
    return tuple(dict.fromkeys(premises[number][0] for number in numbers)) or None


class Names(dict):
    """One solver variable for each name, and how often the text names it."""

    def __init__(self, make: Callable[[str], Any]):
        super().__init__()
        self._make, self.mentions = make, {}

    def __call__(self, name: Hashable) -> Any:
        self.mentions[name] = self.mentions.get(name, 0) + 1
        if name not in self:
            self[name] = self._make(str(name))
        return self[name]

    @property
    def linked(self) -> bool:
        """Whether each name is mentioned twice: what is named once may be a misread form of another."""
        return all(count > 1 for count in self.mentions.values())

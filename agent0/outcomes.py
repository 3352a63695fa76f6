"""What became of the failures of one window: the table that is printed, and the line in the ledger."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from agent0 import ledger
from agent0.command import log
from agent0.council.protocol import Decision
from agent0.records import Failure, Quarantined, TrainingExample
from agent0.windows import Window

COLUMNS = ("failures", "rewritten", "verified", "positive", "abstained", "refused")


@dataclass(frozen=True)
class Outcome:
    """What became of one failure; `refusal` says why there is no example although the council proposed one.

    `decision` is None where the failure never came before the council.
    """

    failure: Failure
    decision: Decision | None
    example: TrainingExample | None
    refusal: str | None = None

    @property
    def kind(self) -> str:
        return self.decision.rewrite.kind if self.decision and self.decision.rewrite else self.failure.kind

    @property
    def positive(self) -> bool:
        return self.example is not None and self.example.origin == "positive"

    @property
    def abstained(self) -> bool:
        return self.decision is not None and self.decision.rewrite is None

    def counts(self) -> tuple[bool, ...]:
        """One figure for each of COLUMNS."""
        rewritten = self.decision is not None and self.decision.rewrite is not None and not self.positive
        verified = self.decision is not None and self.decision.verified_by is not None
        return not self.positive, rewritten, verified, self.positive, self.abstained, self.refusal is not None


@dataclass
class Harvest:
    """One window's harvest: outcomes, and the counts of failures that were set aside before."""

    window: Window
    file: Path
    outcomes: list[Outcome] = field(default_factory=list)
    skipped: Counter = field(default_factory=Counter)  # "proven right", "held out", "repeated", "harvested before"
    quarantine: list[Quarantined] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def examples(self) -> list[TrainingExample]:
        return [outcome.example for outcome in self.outcomes if outcome.example]

    def totals(self, outcomes: list[Outcome] | None = None) -> dict[str, int]:
        """Return the sum of each of COLUMNS over the outcomes given, or over all."""
        rows = [outcome.counts() for outcome in (self.outcomes if outcomes is None else outcomes)]
        return {name: sum(row[n] for row in rows) for n, name in enumerate(COLUMNS)}


def record(harvest: Harvest) -> None:
    """Tell the ledger of a harvest."""
    totals = harvest.totals()
    failures = totals["failures"]
    accepted = len(harvest.examples) - totals["positive"]
    ledger.append(
        "harvest",
        date=harvest.window.day.isoformat(),
        complete=harvest.window.complete,
        failures=failures,
        causes=dict(Counter(o.failure.cause for o in harvest.outcomes if not o.positive)),
        skipped=dict(+harvest.skipped),
        rewritten=totals["rewritten"],
        accepted=accepted,
        positives=totals["positive"],
        abstained=totals["abstained"],
        refused=totals["refused"],
        reasons=dict(Counter(_without_text(o.refusal) for o in harvest.outcomes if o.refusal)),
        abstentions=dict(Counter(o.decision.reason for o in harvest.outcomes if o.abstained)),
        rewrite_success_rate=accepted / failures if failures else None,  # no failure is no success
        seconds=harvest.seconds,
        file=harvest.file.name,
    )


def _without_text(reason: str) -> str:
    """A reason without what it quotes: the ledger keeps no text of users."""
    return re.sub(r"""\s*(['"]).*\1""", "", reason)


def report(harvest: Harvest) -> None:
    """Log what became of the day's failures, by cause, by kind and by who rewrote them."""
    aside = ", ".join(f"{count} {why}" for why, count in (+harvest.skipped).items())
    failures = harvest.totals()["failures"]
    aside = f" (set aside: {aside})" if aside else ""
    log.info("%s: %d failures in %.1f s%s", harvest.window.day, failures, harvest.seconds, aside)
    if not harvest.outcomes:
        return
    log.info("%-20s %s", "", " ".join(f"{name:>9}" for name in COLUMNS))
    for title, name_of in (("cause", lambda o: o.failure.cause), ("kind", lambda o: o.kind), ("by", _member)):
        for name in dict.fromkeys(filter(None, map(name_of, harvest.outcomes))):
            totals = harvest.totals([o for o in harvest.outcomes if name_of(o) == name])
            log.info("%-20s %s", f"{title} {name}", " ".join(f"{n:9}" for n in totals.values()))
    for reason, count in Counter(o.decision.reason for o in harvest.outcomes if o.abstained).most_common():
        log.info("abstained: %d x %s", count, reason)
    for reason, count in Counter(o.refusal for o in harvest.outcomes if o.refusal).most_common():
        log.info("refused: %d x %s", count, reason)


def _member(outcome: Outcome) -> str | None:
    """Whose rewrite the council took."""
    rewritten = outcome.decision and outcome.decision.rewrite and not outcome.positive
    return outcome.decision.rewrite.member if rewritten else None

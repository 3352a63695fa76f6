"""What is known about a candidate on trial: answers to the same questions in pairs, and live traffic."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from agent0.settings import Settings


@dataclass(frozen=True)
class Pair:
    """One question asked of both. Times in ms, lengths in tokens (0: the server does not say)."""

    question: str
    stable_right: bool
    candidate_right: bool
    stable_ms: float
    candidate_ms: float
    stable_tokens: int = 0
    candidate_tokens: int = 0


@dataclass(frozen=True)
class Live:
    """User traffic that one adapter answered; p95_ms is None where no latency was seen, `slow` were over the limit."""

    requests: int
    successes: int
    p95_ms: float | None
    slow: int = 0

    @property
    def success(self) -> float:
        return self.successes / self.requests


@dataclass(frozen=True)
class Compared:
    """The candidate's user traffic beside stable's copies of it: where only one of the two succeeded."""

    better: int = 0
    worse: int = 0


@dataclass(frozen=True)
class Evidence:
    """`live` is the candidate's traffic in the window, `stable_live` the stable one's; None: not measured.

    `opinions` are the judges' on questions that nothing verifies: the share of them that prefers the candidate.
    """

    pairs: Sequence[Pair] = ()
    failure: str | None = None
    live: Live | None = None
    stable_live: Live | None = None
    opinions: Sequence[float] = ()

    def summary(self) -> dict:
        """Counts, rates and p95s for deployment_summary.json."""
        asked, figures = distinct(self.pairs), {}
        for who in ("stable", "candidate"):
            right = sum(getattr(pair, f"{who}_right") for pair in asked)
            times = [getattr(pair, f"{who}_ms") for pair in self.pairs]
            success, slow = (right / len(asked), round(p95(times), 1)) if asked else (None, None)
            figures[who] = {"right": right, "success": success, "p95_ms": slow}
        live = {name: asdict(seen) if (seen := getattr(self, name)) else None for name in ("live", "stable_live")}
        judged = {"asked": len(self.opinions), "for_candidate": sum(self.opinions)}
        counts = {"pairs": len(self.pairs), "questions": len(asked), "failure": self.failure, "judged": judged}
        per_token = {"p95_ms_per_token": {who: self._per_token(who) for who in figures}}
        return {**counts, **figures, **per_token, **live}

    def _per_token(self, who: str) -> float | None:
        """A longer answer takes longer: the time of each token says which of the two it was."""
        known = [(getattr(pair, f"{who}_ms"), getattr(pair, f"{who}_tokens")) for pair in self.pairs]
        times = [ms / tokens for ms, tokens in known if tokens]
        return round(p95(times), 2) if times else None


@dataclass(frozen=True)
class Thresholds:
    success: float  # fraction
    latency_ms: float  # p95

    @classmethod
    def of(cls, settings: Settings) -> "Thresholds":
        return cls(settings.rollback_threshold_success, settings.rollback_threshold_latency)


def distinct(pairs: Sequence[Pair]) -> list[Pair]:
    """The first pair of each question."""
    return list({pair.question: pair for pair in reversed(pairs)}.values())[::-1]


def p95(values: Sequence[float]) -> float:
    """The 95th percentile, nearest rank."""
    return p95_of_sorted(sorted(values))


def p95_of_sorted(values: Sequence[float]) -> float:
    return values[math.ceil(0.95 * len(values)) - 1]

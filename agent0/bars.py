"""What a candidate is held to: the threshold, or what stable does where stable itself is beyond it."""

from dataclasses import dataclass

from agent0.evidence import Thresholds

LATENCY_SLACK = 1.2  # two equal models' p95 over 20 answers differ by this much by chance


@dataclass(frozen=True)
class Bar:
    """One comparison: the candidate's value, the bar it had to hold, and whether threshold or stable set the bar."""

    name: str
    value: float
    bar: float
    decided_by: str
    held: bool

    def __str__(self) -> str:
        form = "{:.0f} ms" if self.name.endswith("_ms") else "{:.0%}"
        sign = "against at most" if self.name.endswith("_ms") else "against at least"
        name = self.name.removesuffix("_ms").replace("_", " ")
        return f"{name} {form.format(self.value)} {sign} {form.format(self.bar)} ({self.decided_by})"


def success_bar(name: str, value: float, stable: float | None, thresholds: Thresholds) -> Bar:
    """The candidate must reach the threshold, or what stable reaches where that is less."""
    weak = stable is not None and stable < thresholds.success
    bar = stable if weak else thresholds.success
    return Bar(name, value, bar, "stable" if weak else "threshold", value >= bar)


def latency_bar(name: str, value: float, stable: float | None, thresholds: Thresholds) -> Bar:
    """The candidate must stay at or under the threshold, or near what stable takes where that is more. In ms."""
    slow = stable is not None and stable > thresholds.latency_ms
    bar = stable * LATENCY_SLACK if slow else thresholds.latency_ms
    return Bar(name, round(value, 1), round(bar, 1), "stable" if slow else "threshold", value <= bar)

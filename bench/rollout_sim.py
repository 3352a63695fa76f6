"""How often a rollout decides right: the real decision code over simulated deployments: python -m bench.rollout_sim

A deployment is 60 seconds: users at 5 to 60 requests a minute, of whom the canary gets what its steps earn, and probe
questions put to stable and candidate one after the other for as long as answers take. Beside ours, on the same draws:

- the spec's rule: the candidate gets all traffic at once, and is rolled back where success over the window is below
  85 % or p95 above 1000 ms; no traffic counts as success
- Kayenta's Mann-Whitney test at its default confidence of 98 %, candidate against stable, on every answer of the
  window, probes too (it asks for 50 points a side); promoted is what it cannot tell from stable

Exit 0 where every bound of the table is held, else 1.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from agent0.bars import latency_bar
from agent0.command import DONE, FAILED, run_command
from agent0.evidence import Compared, Live, Pair, Thresholds, p95
from agent0.verdict import HOLD, MIN_PROBES, PROMOTE, ROLL_BACK, Judge
from agent0.watch import SHARES

SECONDS, PROBES = 60, 96  # of a watch; different probe questions
COPY_LAG = 1.0  # seconds after which the copy of a request is answered, too
SPREAD = 0.1  # of a latency's logarithm: 58 pairs in 60 s, where the embedded model gave 56
STABLE_P95 = 600  # ms, as measured with the embedded model
SEED_RULE = Thresholds(success=0.85, latency_ms=1000)
Curve = Callable[[float], float]  # success at a moment of the window, 0 to 1


@dataclass(frozen=True)
class Case:
    """What is true of stable and candidate; `bound` says of the ends' shares and the median whether they will do."""

    name: str
    candidate: Curve
    stable: Curve = lambda at: 0.95
    p95_ms: float = STABLE_P95
    stable_p95_ms: float = STABLE_P95
    probes: bool = True
    traffic: bool = True
    bound: Callable[["Tally"], bool] = lambda tally: True
    wanted: str = ""

    @property
    def sampled(self) -> bool:
        """Whether a small sample decides the bound, so that it is a unit test, too."""
        return self.wanted.endswith((" 0", " 1 %", "answers"))


@dataclass(frozen=True)
class Tally:
    """Shares of deployments that ended so, and the median answers of the candidate that a rollback took."""

    rolled_back: float
    held: float
    promoted: float
    answers: float | None


def steady(rate: float) -> Curve:
    return lambda at: rate


def falls(rate: float, to: float, when: float) -> Curve:
    return lambda at: rate if at < when else to


CASES = [
    Case("95 %", steady(0.95), bound=lambda t: t.rolled_back <= 0.01, wanted="rolled back <= 1 %"),
    Case("90 %", steady(0.9)),
    Case("85 %, the threshold; stable too", steady(0.85), steady(0.85),
         bound=lambda t: t.rolled_back <= 0.1, wanted="rolled back <= 10 %"),
    Case("70 %", steady(0.7), bound=lambda t: t.promoted <= 0.01, wanted="promoted <= 1 %"),
    Case("50 %", steady(0.5), bound=lambda t: t.promoted == 0 and t.answers <= 10, wanted="median <= 10 answers"),
    Case("no answer at all", steady(0.95), probes=False, traffic=False,
         bound=lambda t: t.promoted == 0, wanted="promoted 0"),
    Case("traffic, but no probes", steady(0.95), probes=False, bound=lambda t: t.promoted == 0, wanted="promoted 0"),
    Case("weak stable 10 %, candidate 30 %", steady(0.3), steady(0.1),
         bound=lambda t: t.rolled_back <= 0.01, wanted="rolled back <= 1 %"),
    Case("weak stable 30 %, candidate 10 %", steady(0.1), steady(0.3),
         bound=lambda t: t.promoted <= 0.01, wanted="promoted <= 1 %"),
    Case("p95 0.5 x threshold", steady(0.95), p95_ms=500,
         bound=lambda t: t.rolled_back <= 0.01, wanted="rolled back <= 1 %"),
    Case("p95 1 x threshold", steady(0.95), p95_ms=1000,
         bound=lambda t: t.rolled_back <= 0.1, wanted="rolled back <= 10 %"),
    Case("p95 2 x threshold", steady(0.95), p95_ms=2000,
         bound=lambda t: t.promoted <= 0.01, wanted="promoted <= 1 %"),
    Case("p95 2 x threshold, stable too", steady(0.95), p95_ms=2000, stable_p95_ms=2000,
         bound=lambda t: t.rolled_back <= 0.05, wanted="rolled back <= 5 %"),
    Case("drifts 95 -> 50 % at half time", falls(0.95, 0.5, 0.5),
         bound=lambda t: t.promoted <= 0.01, wanted="promoted <= 1 %"),
    Case("drifts 95 -> 50 % at two thirds", falls(0.95, 0.5, 2 / 3),
         bound=lambda t: t.promoted <= 0.05, wanted="promoted <= 5 %"),
    Case("both fall 95 -> 60 %: harder questions", falls(0.95, 0.6, 0.5), falls(0.95, 0.6, 0.5),
         bound=lambda t: t.rolled_back <= 0.15, wanted="rolled back <= 15 %"),
]  # fmt: skip


class Deployment:
    """One simulated deployment: what users and probes see of both, drawn once, so that every rule judges the same."""

    def __init__(self, case: Case, rng: np.random.Generator):
        self.case, self.rng = case, rng
        arrivals = rng.poisson(rng.uniform(5, 60)) if case.traffic else 0
        self.arrivals = np.sort(rng.uniform(0, SECONDS, arrivals))
        self.users = rng.random(arrivals)  # where each one's hash puts them
        self.candidate = self._right(case.candidate, self.arrivals), self._times(case.p95_ms, arrivals)
        self.stable = self._right(case.stable, self.arrivals), self._times(case.stable_p95_ms, arrivals)
        self.pairs = list(self._pairs()) if case.probes else []

    def _right(self, success: Curve, moments: np.ndarray) -> np.ndarray:
        return self.rng.random(len(moments)) < [success(at / SECONDS) for at in moments]

    def _times(self, p95_ms: float, count: int) -> np.ndarray:
        return self.rng.lognormal(math.log(p95_ms) - 1.645 * SPREAD, SPREAD, count)

    def _pairs(self) -> Iterator[tuple[float, Pair]]:
        """The moment (s) when each pair's answers are there, and the pair: asked one after the other, as they come."""
        case, most = self.case, 400
        mine, stable = self._times(case.p95_ms, most), self._times(case.stable_p95_ms, most)
        moments = np.cumsum(mine + stable) / 1000
        count = max(MIN_PROBES, int(np.searchsorted(moments, SECONDS)) + 1)
        right, stable_right = (self._right(curve, moments[:count]) for curve in (case.candidate, case.stable))
        for n in range(count):
            pair = Pair(f"q{n % PROBES}", bool(stable_right[n]), bool(right[n]), float(stable[n]), float(mine[n]))
            yield float(moments[n]), pair

    def ours(self) -> tuple[str, int]:
        """What the real code decides, and after how many of the candidate's answers."""
        judge, steps, seen = Judge(SEED_RULE), 0, 0
        on_canary = np.zeros(len(self.arrivals), bool)
        for at, pair in self.pairs:
            judge.add(pair)
            arrived = int(np.searchsorted(self.arrivals, at))
            on_canary[seen:arrived] = self.users[seen:arrived] < (SHARES[steps - 1] if steps else 0)
            if arrived > seen:
                copied = int(np.searchsorted(self.arrivals, at - COPY_LAG))
                judge.add_live(*self._live(on_canary, arrived, copied))
            seen = arrived
            if judge.proven_bad():
                break
            if steps < len(SHARES) and judge.step_earned(steps, len(SHARES), at / SECONDS):
                steps += 1
        return judge.verdict().end, len(judge.pairs) + (judge.live.requests if judge.live else 0)

    def _live(self, on_canary: np.ndarray, arrived: int, copied: int) -> tuple[Live | None, Live, Compared]:
        """The candidate's traffic so far, what stable did before, and what it made of copies of that traffic."""
        right, ms = (values[:arrived][on_canary[:arrived]] for values in self.candidate)
        slow = int((ms > latency_bar("", 0, self.case.stable_p95_ms, SEED_RULE).bar).sum())
        mine = Live(len(right), int(right.sum()), p95(ms), slow) if len(right) else None
        both = [values[:copied][on_canary[:copied]] for values, _ in (self.candidate, self.stable)]
        better, worse = (int((one & ~other).sum()) for one, other in (both, both[::-1]))
        before = Live(1000, round(1000 * self.case.stable(0)), self.case.stable_p95_ms)
        return mine, before, Compared(better, worse)

    def spec_rule(self) -> str:
        """All traffic on the candidate for the window, then one look."""
        right, ms = self.candidate
        bad = len(right) and (right.mean() < SEED_RULE.success or p95(ms) > SEED_RULE.latency_ms)
        return ROLL_BACK if bad else PROMOTE

    def kayenta(self) -> str:
        """Both metrics, one-sided, at half of 2 %; what it calls "no data" is held."""
        from scipy.stats import mannwhitneyu

        pairs = [pair for _, pair in self.pairs]
        if not pairs and not len(self.arrivals):
            return HOLD
        better = [pair.candidate_right for pair in pairs], [pair.stable_right for pair in pairs]
        slower = [pair.stable_ms for pair in pairs], [pair.candidate_ms for pair in pairs]
        live = (self.candidate[0], self.stable[0]), (self.stable[1], self.candidate[1])
        for (less, more), (live_less, live_more) in zip((better, slower), live, strict=True):
            sides = [*less, *live_less], [*more, *live_more]
            if mannwhitneyu(*sides, alternative="less", method="asymptotic").pvalue < 0.01:
                return ROLL_BACK
        return PROMOTE


RULES = ("ours", "spec", "Kayenta")


def simulate(case: Case, deployments: int, seed: int = 0, peers: int = 0) -> dict[str, Tally]:
    """Decide so many deployments of a case by our rule, and the first `peers` of them by the others."""
    ends: dict[str, Counter] = {rule: Counter() for rule in RULES}
    answers = []
    for number in range(deployments):
        deployment = Deployment(case, np.random.default_rng([seed, CASES.index(case), number]))
        end, count = deployment.ours()
        ends["ours"][end] += 1
        if end == ROLL_BACK:
            answers.append(count)
        if number < peers:
            ends["spec"][deployment.spec_rule()] += 1
            ends["Kayenta"][deployment.kayenta()] += 1
    median = float(np.median(answers)) if answers else None
    return {rule: _tally(ends[rule], median if rule == "ours" else None) for rule in RULES}


def _tally(ends: Counter, answers: float | None) -> Tally:
    return Tally(*(ends[end] / max(1, ends.total()) for end in (ROLL_BACK, HOLD, PROMOTE)), answers)


def row(case: Case, tallies: dict[str, Tally], kept: bool) -> str:
    """One line of the table, as Markdown: rolled back / held / promoted in percent, by rule."""
    shares = [_shares(tally) for tally in tallies.values()]
    median = tallies["ours"].answers
    took = "" if median is None else f"{median:.0f}"
    bound = f"{case.wanted}: {'yes' if kept else 'NO'}" if case.wanted else ""
    return f"| {case.name} | {shares[0]} | {took} | {bound} | {shares[1]} | {shares[2]} |"


def _shares(tally: Tally) -> str:
    ends = tally.rolled_back, tally.held, tally.promoted
    return " / ".join(f"{100 * share:.2f}" for share in ends) if any(ends) else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deployments", type=int, default=10_000, help="of each case (10000)")
    parser.add_argument("--peers", type=int, default=2000, help="of each case, how many the other rules decide (2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this one")
    arguments = parser.parse_args()
    ends = "rolled back / held / promoted, %"
    print(f"| what is true | ours: {ends} | answers | bound | spec's rule | Kayenta |")
    print("| --- | --- | --- | --- | --- | --- |")
    kept = []
    for case in (case for case in CASES if case.name in (arguments.case or [case.name])):
        tallies = simulate(case, arguments.deployments, arguments.seed, arguments.peers)
        kept.append(case.bound(tallies["ours"]))
        print(row(case, tallies, kept[-1]), flush=True)
    return DONE if all(kept) else FAILED


if __name__ == "__main__":
    run_command(main)

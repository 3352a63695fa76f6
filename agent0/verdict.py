"""The verdict on a candidate: promote, roll back, or hold. Pure: it takes evidence and looks at no clock.

The bar is the threshold; where stable itself is beyond it, the bar is what stable does on the same questions. Rolled
back is what is proven to miss its bar, and promoted what holds it and is proven not to miss it by a MARGIN; what is
neither is held: stable keeps serving. What passed the gate is proven better on many more questions than a watch can
ask: here it need only stay within a SLIP of stable, and be quick. The proofs are bets (agent0/sequential.py), so it
may be asked at any time.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent0.bars import LATENCY_SLACK, Bar, latency_bar, success_bar
from agent0.evidence import Compared, Evidence, Live, Pair, Thresholds, p95, p95_of_sorted
from agent0.sequential import FIRST, IN_BETS, OUT_BETS, PAIR_BETS, Wealth

PROMOTE, ROLL_BACK, HOLD = "promote", "roll back", "hold"
ERROR_OUT = 0.06  # chance that a candidate which just holds its bar is ever rolled back
ERROR_WORSE = 0.01  # the same for one that is above the threshold and as good as stable
MILD = 4  # capital that says "rather worse than stable", where another bet has the proof
ERROR_IN = 0.02  # chance that one which misses its bar by MARGIN is promoted
MARGIN = 0.15  # what 60 seconds of evidence can resolve: of success, of the share of slow answers
SLIP = 0.05  # of success: by so much do two equal models differ by chance over the questions of a watch
SLOW_SHARE = 0.05  # p95 over the limit: more answers than this are
MIN_PROBES = 24  # paired questions without which nothing is promoted
MIN_KNOWN = 6  # paired answers before which it is not known what stable itself does
MIN_LIVE = 20  # live requests below which a rate says nothing


@dataclass(frozen=True)
class Verdict:
    """`end` is promote, roll back or hold; `capital` is what each bet stands at; `decided_by` names the rule."""

    end: str
    reason: str
    improvement: float | None = None  # candidate's success - stable's, on the paired probes
    bars: list[Bar] = field(default_factory=list)
    capital: dict[str, float] = field(default_factory=dict)
    decided_by: str = "a hard failure"

    @property
    def promoted(self) -> bool:
        return self.end == PROMOTE


def verdict(evidence: Evidence, thresholds: Thresholds) -> Verdict:
    """Judge evidence as a whole, as at the end of a watch."""
    judge = Judge(thresholds)
    for pair in evidence.pairs:
        judge.add(pair)
    judge.add_live(evidence.live, evidence.stable_live)
    return judge.verdict(evidence.failure)


class Judge:
    """Takes evidence as it comes, and can be asked at any time how it stands."""

    def __init__(self, thresholds: Thresholds, passed_gate: bool = False):
        self.thresholds, self.passed_gate, self.pairs, self.asked = thresholds, passed_gate, [], []
        self.live: Live | None = None
        self.stable_live: Live | None = None
        self.compared: Compared | None = None
        self.opinions: list[float] = []
        self._seen: set[str] = set()
        self._stable_ms: list[float] = []  # sorted
        self._limit_ms = thresholds.latency_ms  # what the candidate's p95 must not be over
        self._right = {"stable": 0, "candidate": 0}
        out = (OUT_BETS, FIRST)
        self._below, self._worse = Wealth(False, *out), Wealth(False, PAIR_BETS, FIRST)
        self._slow, self._slower = Wealth(True, *out), Wealth(True, *out)
        self._live_below, self._live_slow = Wealth(False, *out), Wealth(True, *out)
        self._live_worse, self._disliked = Wealth(False, PAIR_BETS, FIRST), Wealth(False, PAIR_BETS, FIRST)
        self._above, self._close, self._quick = Wealth(True, IN_BETS), Wealth(True, IN_BETS), Wealth(False, IN_BETS)

    def add(self, pair: Pair) -> None:
        """Take in one pair: success of a question counts once, since greedy answers repeat; latency counts always."""
        self.pairs.append(pair)
        if pair.question not in self._seen:
            self._seen.add(pair.question)
            self.asked.append(pair)
            self._bet_on_success(pair)
        insort(self._stable_ms, pair.stable_ms)
        limit = self._limit_ms = latency_bar("", 0, p95_of_sorted(self._stable_ms), self.thresholds).bar
        slower = pair.candidate_ms > LATENCY_SLACK * pair.stable_ms
        self._slower.bet(slower, 0.5)
        # a moment that slowed both accuses nobody
        self._slow.bet(slower and pair.candidate_ms > self.thresholds.latency_ms, SLOW_SHARE)
        self._quick.bet(pair.candidate_ms > limit, SLOW_SHARE + MARGIN)

    def _bet_on_success(self, pair: Pair) -> None:
        for who in self._right:
            self._right[who] += getattr(pair, f"{who}_right")
        threshold = min(self.thresholds.success, 0.999)  # no bet wins against certainty
        self._below.bet(pair.candidate_right, threshold)
        self._above.bet(pair.candidate_right, max(threshold - MARGIN, threshold / 2))
        self._close.bet((1 + pair.candidate_right - pair.stable_right) / 2, (1 - MARGIN) / 2)
        if pair.candidate_right != pair.stable_right:
            self._worse.bet(pair.candidate_right, 0.5)

    def add_opinion(self, share: float) -> None:
        """Take in the share of the judges that prefer the candidate's answer to stable's, where nothing verifies it.

        It can only speak against the candidate: what judges like is not thereby right.
        """
        self.opinions.append(share)
        self._disliked.bet(share, 0.5)

    def add_live(self, live: Live | None, stable: Live | None, compared: Compared | None = None) -> None:
        """Take in the live traffic up to now, in totals; what is new since the last time is bet on.

        `compared` is the candidate's traffic beside what stable made of copies of it, None where there are no copies.
        """
        self.stable_live = stable
        if compared:
            before, self.compared = self.compared or Compared(), compared
            worse, better = compared.worse - before.worse, compared.better - before.better
            for right in [False] * worse + [True] * better:
                self._live_worse.bet(right, 0.5)
        if live is None:
            return
        seen, self.live = self.live or Live(0, 0, None), live
        good, slow = live.successes - seen.successes, live.slow - seen.slow
        new, bar = live.requests - seen.requests, min(max(self._live_bar().bar, 0.001), 0.999)
        for n in range(new):  # failures first: in what order they came is not known
            self._live_below.bet(n >= new - good, bar)
            self._live_slow.bet(n >= new - slow, SLOW_SHARE)

    @property
    def weak(self) -> bool:
        """Whether stable itself is below the threshold, so that it is the bar."""
        return bool(self.asked) and self._right["stable"] < self.thresholds.success * len(self.asked)

    @property
    def slow(self) -> bool:
        """Whether stable itself is over the latency threshold, so that it is the bar."""
        return self._limit_ms > self.thresholds.latency_ms

    @property
    def improvement(self) -> float | None:
        """Candidate's success - stable's, on the questions that both were asked."""
        return (self._right["candidate"] - self._right["stable"]) / len(self.asked) if self.asked else None

    @property
    def earned(self) -> float:
        """The capital that bet on promotion, 1 / ERROR_IN of which promotes; of success, the gate has the proof."""
        good = self._close if self.weak else self._above
        return self._quick.value if self.passed_gate else min(good.value, self._quick.value)

    def step_earned(self, done: int, steps: int, spent: float) -> bool:
        """Whether the candidate may take its next step after `done` of so many, `spent` (0 to 1) into the watch.

        Each step has an equal part of the time, and of the evidence (in logarithms) that promotion needs.
        """
        return spent >= done / steps and self.earned >= ERROR_IN ** (-done / steps)

    def proven_bad(self) -> str | None:
        """Why no more evidence is needed to roll back, or None.

        Being below the threshold is no proof while stable fails as often on the same questions: they got harder.
        """
        worse = not self.weak and self._worse.value >= MILD
        live_worse = self.compared is None or self._live_worse.value >= MILD
        tests = (
            (self._below.value if worse else 0, ERROR_OUT, self._bar),
            (self._worse.value, ERROR_OUT if self.weak else ERROR_WORSE, self._worse_on),
            ((self._slower if self.slow else self._slow).value, ERROR_OUT, self._slow_answers),
            (self._disliked.value, ERROR_WORSE, self._opinion),
            (self._live_below.value if live_worse else 0, ERROR_OUT, self._live_bar),
            (self._live_slow.value, ERROR_OUT, self._live_slow_answers),
        )
        for capital, error, words in tests:
            if capital >= 1 / error and len(self.pairs) >= MIN_KNOWN:
                return f"{words()}; evidence {capital:.0f} to 1, {1 / error:.0f} needed"
        return None

    def verdict(self, failure: str | None = None) -> Verdict:
        """How it stands, with all that there will be of evidence; `failure` is a hard one, which needs no more."""
        end, reason = self._end(failure)
        bars = self._bars() if self.asked else []
        rule = "a hard failure" if failure else "bets on paired answers and live traffic"
        return Verdict(end, reason, self.improvement, bars, self.capital(), rule)

    def _end(self, failure: str | None) -> tuple[str, str]:
        if bad := failure or self.proven_bad():
            return ROLL_BACK, bad
        if self.asked and not self._right["candidate"] and len(self.asked) >= MIN_LIVE:
            return ROLL_BACK, f"the candidate answered none of {len(self.asked)} questions right"
        if len(self.pairs) < MIN_PROBES:
            return HOLD, f"no evidence: {len(self.pairs)} paired answers, {MIN_PROBES} needed"
        if missed := [bar for bar in self._bars() if not bar.held]:
            return HOLD, f"{'; '.join(map(str, missed))}, and not proven either way"
        gained = f"{self.improvement:+.0%} over {len(self.asked)} paired questions"
        if self.earned < 1 / ERROR_IN:
            told = f"evidence {self.earned:.1f} to 1 is not enough, {1 / ERROR_IN:.0f} needed"
            return HOLD, f"{'; '.join(map(str, self._bars()))}; {gained}; {told}"
        return PROMOTE, f"{'; '.join(map(str, self._bars()))}; {gained}"

    def capital(self) -> dict[str, float]:
        """What each bet stands at, and what it needs; those against the candidate first."""
        stand = {
            "success": self._below,
            "worse_than_stable": self._worse,
            "judged_worse_than_stable": self._disliked,
            "latency": self._slower if self.slow else self._slow,
            "live_success": self._live_below,
            "live_worse_than_stable": self._live_worse,
            "live_latency": self._live_slow,
            "promotion_success": self._close if self.weak else self._above,
            "promotion_latency": self._quick,
        }
        return {name: float(f"{wealth.value:.4g}") for name, wealth in stand.items()}

    # Bars: what the candidate must hold to be promoted.

    def _bars(self) -> list[Bar]:
        bars = [self._bar(), *self._recent_bar(), self._latency_bar()]
        if self.live and self.live.requests >= MIN_LIVE:
            bars.append(self._live_bar())
            if self.live.p95_ms is not None:
                bars.append(self._live_latency_bar())
        return bars

    def _bar(self) -> Bar:
        stable, candidate = (self._right[who] / len(self.asked) for who in ("stable", "candidate"))
        bar = success_bar("success", candidate, stable, self.thresholds)
        return _near(bar, stable - SLIP) if self.passed_gate else bar

    def _recent_bar(self) -> Iterator[Bar]:
        """The last third must hold the bar, too: what drifts below it is not promoted on its past."""
        recent = self.asked[len(self.asked) * 2 // 3 :]
        stable, candidate = (sum(getattr(p, f"{who}_right") for p in recent) for who in ("stable", "candidate"))
        bar = success_bar("recent_success", candidate / len(recent), stable / len(recent), self.thresholds)
        if bar.decided_by == "stable" or self.passed_gate:  # two small numbers: only a fall counts
            bar = _near(bar, stable / len(recent) - MARGIN)
        if not bar.held:
            yield bar

    def _latency_bar(self) -> Bar:
        candidate = p95([pair.candidate_ms for pair in self.pairs])
        return latency_bar("p95_ms", candidate, p95_of_sorted(self._stable_ms), self.thresholds)

    def _live_bar(self) -> Bar:
        known = self.stable_live if self.stable_live and self.stable_live.requests >= MIN_LIVE else None
        return success_bar("live_success", self.live.success, known.success if known else None, self.thresholds)

    def _live_latency_bar(self) -> Bar:
        known = self.stable_live if self.stable_live and self.stable_live.requests >= MIN_LIVE else None
        return latency_bar("live_p95_ms", self.live.p95_ms or 0, known.p95_ms if known else None, self.thresholds)

    # What a proof says of itself.

    def _worse_on(self) -> str:
        differ = [pair for pair in self.asked if pair.stable_right != pair.candidate_right]
        worse = sum(pair.stable_right for pair in differ)
        return f"worse than stable on {worse} of {len(differ)} questions where they differ"

    def _opinion(self) -> str:
        against = len(self.opinions) - sum(self.opinions)
        return f"judges prefer stable's answer to {against:.3g} of {len(self.opinions)} questions"

    def _slow_answers(self) -> str:
        limit = self._limit_ms
        slow = sum(pair.candidate_ms > limit for pair in self.pairs)
        return f"{self._latency_bar()}; {slow} of {len(self.pairs)} answers took over {limit:.0f} ms"

    def _live_slow_answers(self) -> str:
        return f"{self._live_latency_bar()}; {self.live.slow} of {self.live.requests} live answers took longer"


def _near(bar: Bar, near_stable: float) -> Bar:
    """The same bar, no higher than near what stable reaches."""
    floor = max(0, min(bar.bar, near_stable))
    return Bar(bar.name, bar.value, floor, "stable" if floor < bar.bar else bar.decided_by, bar.value >= floor)

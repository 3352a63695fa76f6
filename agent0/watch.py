"""The watch: a candidate earns a growing share of the users while it is asked beside stable."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from agent0.adapters import Release
from agent0.bars import latency_bar
from agent0.client import CouncilClient
from agent0.command import log
from agent0.evidence import Evidence, Thresholds, p95
from agent0.live import Samples, live_samples, live_traffic
from agent0.metrics import SHADOW, USER
from agent0.probing import ask_pair
from agent0.records import Question
from agent0.sequential import interval
from agent0.settings import get_settings
from agent0.switch import check_route, split
from agent0.verdict import MIN_LIVE, MIN_PROBES, Judge

SHARES = (0.1, 0.5, 1.0)  # of the users, one after the other
LOG_SECONDS, LIVE_SECONDS = 10, 1


@dataclass
class Watch:
    """One watch over `seconds`. `shares` is empty where the candidate serves everybody already (DEPLOY_MODE=direct)."""

    client: CouncilClient
    stable: Release
    candidate: Release
    questions: Sequence[Question]
    shares: Sequence[float] = SHARES
    stopped: Callable[[], bool] = lambda: False
    failure: str | None = None
    steps: list[dict] = field(default_factory=list)  # when the share grew, and on what evidence

    def __post_init__(self):
        self.seconds = get_settings().monitor_duration
        self.judge = Judge(Thresholds.of(get_settings()))
        self._names = (self.stable.name, self.candidate.name)
        self._before: dict[tuple[str, str], Samples] | None = live_samples(self.client, self._names)
        self._start, self._logged, self._read = time.monotonic(), 0.0, 0.0

    def run(self) -> None:
        """Ask both for `seconds` and at least MIN_PROBES times, or until it is stopped, fails, or is proven bad.

        Raises CouncilError where the server's route is not what the watch made it.
        """
        with tqdm(total=round(self.seconds, 1), desc="watching", unit="s", disable=None) as bar:
            for turn, question in enumerate(itertools.cycle(self.questions)):
                bar.update(min(self.elapsed, bar.total) - bar.n)
                if turn:  # the first pair is asked before any user meets the candidate
                    self._grow()
                if self.elapsed >= self.seconds and turn >= MIN_PROBES:
                    break
                pair, self.failure = ask_pair(self.client, *self._names, question, turn)
                if self.failure:
                    break
                self.judge.add(pair)
                self._look()
                if self.stopped() or self.judge.proven_bad():
                    break
        self._read_live()
        if not self.failure and not self.stopped():
            self._check_route()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start

    @property
    def share(self) -> float:
        return self.steps[-1]["share"] if self.steps else 0

    @property
    def evidence(self) -> Evidence:
        return Evidence(self.judge.pairs, self.failure, self.judge.live, self.judge.stable_live)

    def _grow(self) -> None:
        """Take the next step where its time has come and its part of the evidence is there."""
        done, steps = len(self.steps), len(self.shares)
        if done == steps or not self.judge.step_earned(done, steps, self.elapsed / self.seconds):
            return
        share, earned = self.shares[done], self.judge.earned
        split(self.client, self.stable, self.candidate, share)
        self.steps.append({"share": share, "seconds": round(self.elapsed, 3), "evidence": round(earned, 2)})
        log.info("%s answers %.0f%% of the users; evidence %.1f to 1", self.candidate.name, 100 * share, earned)

    def _look(self) -> None:
        if self.elapsed >= self._read + LIVE_SECONDS:
            self._read = self.elapsed
            self._read_live()
        if self.elapsed >= self._logged + LOG_SECONDS:
            self._logged = self.elapsed
            log.info("watching: %s, %.0f s left", progress(self.judge, self.share), max(0, self.seconds - self.elapsed))

    def _read_live(self) -> None:
        after = live_samples(self.client, self._names) if self._before else None
        if after is None:
            return
        stable, candidate = self._names
        # stable's figures go back to the server's start: its traffic in the window alone may be none
        known = live_traffic({}, after[stable, USER])
        usual = known.p95_ms if known and known.requests >= MIN_LIVE else None
        limit = latency_bar("live_p95_ms", 0, usual, self.judge.thresholds).bar
        live, control = (
            live_traffic(self._before[key], after[key], limit) for key in ((candidate, USER), (stable, SHADOW))
        )
        self.judge.add_live(live, known, control)

    def _check_route(self) -> None:
        if not self.shares:
            check_route(self.client, self.candidate)
        elif self.steps:
            check_route(self.client, self.stable, self.candidate, self.share)
        else:
            check_route(self.client, self.stable)


def progress(judge: Judge, share: float) -> str:
    """The watch at a glance: rate with its interval, latency, evidence so far."""
    asked = len(judge.asked)
    right, stable = (sum(getattr(p, f"{who}_right") for p in judge.asked) for who in ("candidate", "stable"))
    low, high = interval(right, asked)
    slow = p95([pair.candidate_ms for pair in judge.pairs])
    success = f"success {right / asked:.0%} ({low:.0%} to {high:.0%}; stable {stable / asked:.0%})"
    return f"share {share:.0%}, {asked} questions, {success}, p95 {slow:.0f} ms, evidence {judge.earned:.1f} to 1"

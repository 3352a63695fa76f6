"""The watch: a candidate earns a growing share of the users while it is asked beside stable."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from agent0 import ledger
from agent0.adapters import Release
from agent0.bars import latency_bar
from agent0.client import CouncilClient
from agent0.command import log
from agent0.council.panel import Panel
from agent0.evidence import Evidence, Thresholds, p95
from agent0.live import COMPARED, Samples, compared_traffic, live_samples, live_traffic
from agent0.metrics import USER
from agent0.probing import ask_both, compare
from agent0.records import Question
from agent0.sequential import interval
from agent0.settings import get_settings
from agent0.switch import check_route, split
from agent0.verdict import ERROR_IN, MIN_LIVE, MIN_PROBES, Judge

SHARES = (0.1, 0.5, 1.0)  # of the users, one after the other
LOG_SECONDS, LIVE_SECONDS = 10, 1
BAR = "{n:.0f}/{total:.0f} s {bar:8} {desc}"


def passed_gate(candidate: Release, stable: Release) -> bool:
    """Whether the gate's last word is that candidate may take the place of what serves."""
    said = ledger.last("gate") or {}
    return [said.get(key) for key in ("release", "serving", "end")] == [candidate.name, stable.name, "promote"]


@dataclass
class Watch:
    """One watch over `seconds`. `shares` is empty where the candidate serves everybody already (DEPLOY_MODE=direct)."""

    client: CouncilClient
    stable: Release
    candidate: Release
    questions: Sequence[Question]
    panel: Panel = field(default_factory=Panel)  # of judges, for the questions that have no known answer
    shares: Sequence[float] = SHARES
    stopped: Callable[[], bool] = lambda: False
    failure: str | None = None
    steps: list[dict] = field(default_factory=list)  # when the share grew, and on what evidence

    def __post_init__(self):
        self.seconds = get_settings().monitor_duration
        self.judge = Judge(Thresholds.of(get_settings()), passed_gate(self.candidate, self.stable))
        self._names = (self.stable.name, self.candidate.name)
        self._before: dict[tuple[str, str], Samples] | None = live_samples(self.client, self._names)
        self._start, self._logged, self._read = time.monotonic(), 0.0, 0.0

    def run(self) -> None:
        """Ask both for `seconds` and at least MIN_PROBES times, or until it is stopped, fails, or is proven bad.

        Raises CouncilError where the server's route is not what the watch made it.
        """
        shown = {"total": round(self.seconds, 1), "bar_format": BAR, "dynamic_ncols": True, "disable": None}
        with logging_redirect_tqdm([log]), tqdm(**shown) as bar:
            for turn, question in enumerate(itertools.cycle(self.questions)):
                if turn:  # the first pair is asked before any user meets the candidate
                    self._grow()
                if self.elapsed >= self.seconds and len(self.judge.pairs) >= MIN_PROBES:
                    break
                self._ask(question, turn)
                if self.failure or self.stopped() or self.judge.proven_bad():
                    break
                self._look(bar)
        self.panel.close()
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
        judge = self.judge
        return Evidence(judge.pairs, self.failure, judge.live, judge.stable_live, judge.opinions)

    def _ask(self, question: Question, turn: int) -> None:
        """Ask both; what can be verified is, and the judges compare the rest, in their own time."""
        replies, self.failure = ask_both(self.client, *self._names, question, turn)
        if replies and question.answer is not None:
            self.judge.add(compare(question, *replies))
        elif replies:
            self.panel.compare(question.question, *(reply.text for reply in replies))
        for opinion in self.panel.heard():
            self.judge.add_opinion(opinion)

    def _grow(self) -> None:
        """Take the next step where its time has come and its part of the evidence is there."""
        done, steps = len(self.steps), len(self.shares)
        if done == steps or not self.judge.step_earned(done, steps, self.elapsed / self.seconds):
            return
        share, earned = self.shares[done], self.judge.earned
        split(self.client, self.stable, self.candidate, share)
        self.steps.append({"share": share, "seconds": round(self.elapsed, 3), "evidence": round(earned, 2)})
        log.info("%s answers %.0f%% of the users; evidence %.1f to 1", self.candidate.name, 100 * share, earned)

    def _look(self, bar: tqdm) -> None:
        if self.elapsed >= self._read + LIVE_SECONDS:
            self._read = self.elapsed
            self._read_live()
        if self.elapsed >= self._logged + LOG_SECONDS:
            self._logged = self.elapsed
            log.info("watching, %.0f of %.0f s: %s", self.elapsed, self.seconds, progress(self.judge, self.share))
        bar.set_description_str(glance(self.judge, self.share), refresh=False)
        bar.update(min(self.elapsed, bar.total) - bar.n)

    def _read_live(self) -> None:
        after = live_samples(self.client, self._names) if self._before else None
        if after is None:
            return
        stable, candidate = self._names
        # stable's figures go back to the server's start: its traffic in the window alone may be none
        known = live_traffic({}, after[stable, USER])
        usual = known.p95_ms if known and known.requests >= MIN_LIVE else None
        limit = latency_bar("live_p95_ms", 0, usual, self.judge.thresholds).bar
        live = live_traffic(self._before[candidate, USER], after[candidate, USER], limit)
        compared = compared_traffic(self._before[candidate, COMPARED], after[candidate, COMPARED])
        self.judge.add_live(live, known, compared if self.shares else None)

    def _check_route(self) -> None:
        if not self.shares:
            check_route(self.client, self.candidate)
        elif self.steps:
            check_route(self.client, self.stable, self.candidate, self.share)
        else:
            check_route(self.client, self.stable)


def progress(judge: Judge, share: float) -> str:
    """The watch in one line of the log: success with its interval, latency, evidence, the verdict if it ended now."""
    if not judge.asked:
        return f"{share:.0%} of the users; nothing is answered yet"
    right, stable, low, high, slow = _figures(judge)
    success = f"success {right:.0%} ({low:.0%} to {high:.0%}; stable {stable:.0%}) on {len(judge.asked)} questions"
    evidence = f"evidence {judge.earned:.1f} to 1, {1 / ERROR_IN:.0f} promotes"
    return f"{share:.0%} of the users; {success}; p95 {slow:.0f} ms; {evidence}; so far: {judge.verdict().end}"


def glance(judge: Judge, share: float) -> str:
    """The same in what fits on a terminal's line."""
    if not judge.asked:
        return f"{share:.0%} of users"
    right, _, low, high, slow = _figures(judge)
    success = f"{right:.0%} right ({100 * low:.0f}-{high:.0%})"
    return f"{share:.0%} of users, {success}, p95 {slow:.0f} ms, {min(judge.earned, 999):.0f}:1, {judge.verdict().end}"


def _figures(judge: Judge) -> tuple[float, float, float, float, float]:
    """Candidate's and stable's success, the bounds of the candidate's, and the candidate's p95 in ms."""
    asked = len(judge.asked)
    right, stable = (sum(getattr(p, f"{who}_right") for p in judge.asked) for who in ("candidate", "stable"))
    return right / asked, stable / asked, *interval(right, asked), p95([pair.candidate_ms for pair in judge.pairs])

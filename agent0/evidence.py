"""What is known about a candidate on trial: paired probes, live traffic, and the verdict on both."""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from tqdm import tqdm

from agent0.client import CouncilClient, ServerError
from agent0.command import CouncilError, log
from agent0.metrics import REQUEST_LATENCY, REQUEST_SUCCESSES, REQUESTS, USER
from agent0.quality import ANSWER_TOKENS, PROBES, answers_agree, questions_file
from agent0.records import Question, read_jsonl
from agent0.settings import Settings, get_settings

MIN_PROBES = 20  # paired questions, and live requests, below which a rate says nothing
SLOW_PROBES = 10  # answers, all too slow, after which that is no chance (1 in 1000 were it even)
HOPELESS = 0.001  # one-sided p at which "not worse than stable" is given up
LATENCY_SLACK = 1.2  # two equal models' p95 over 20 answers differ by this much by chance
LOG_SECONDS = 10


@dataclass(frozen=True)
class Pair:
    """One question asked of both. Times in ms."""

    question: str
    stable_right: bool
    candidate_right: bool
    stable_ms: float
    candidate_ms: float


@dataclass(frozen=True)
class Live:
    """User traffic that one adapter answered; p95_ms is None where no latency was seen."""

    requests: int
    successes: int
    p95_ms: float | None

    @property
    def success(self) -> float:
        return self.successes / self.requests


@dataclass(frozen=True)
class Evidence:
    """`live` is the candidate's traffic in the window, `stable_live` the stable one's before; None: not measured."""

    pairs: Sequence[Pair] = ()
    failure: str | None = None
    live: Live | None = None
    stable_live: Live | None = None

    def summary(self) -> dict:
        """Counts, rates and p95s for deployment_summary.json."""
        asked, figures = distinct(self.pairs), {}
        for who in ("stable", "candidate"):
            right = sum(getattr(pair, f"{who}_right") for pair in asked)
            times = [getattr(pair, f"{who}_ms") for pair in self.pairs]
            success, slow = (right / len(asked), round(p95(times), 1)) if asked else (None, None)
            figures[who] = {"right": right, "success": success, "p95_ms": slow}
        live = {name: asdict(seen) if (seen := getattr(self, name)) else None for name in ("live", "stable_live")}
        return {"pairs": len(self.pairs), "questions": len(asked), "failure": self.failure, **figures, **live}


@dataclass(frozen=True)
class Thresholds:
    success: float  # fraction
    latency_ms: float  # p95

    @classmethod
    def of(cls, settings: Settings) -> "Thresholds":
        return cls(settings.rollback_threshold_success, settings.rollback_threshold_latency)


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


@dataclass(frozen=True)
class Verdict:
    promoted: bool
    reason: str
    improvement: float | None = None  # candidate's success - stable's, on the paired probes
    bars: list[Bar] = field(default_factory=list)


def verdict(evidence: Evidence, thresholds: Thresholds) -> Verdict:
    """Judge a candidate: promoted only if every bar held and nothing failed. A pure function.

    The bar is the threshold; where stable itself is beyond it, the bar is what stable does. Success counts each
    question once, since greedy answers repeat; latency counts every answer.
    """
    pairs = distinct(evidence.pairs)
    better = sum(p.candidate_right - p.stable_right for p in pairs) / len(pairs) if pairs else None
    if evidence.failure:
        return Verdict(False, evidence.failure, better)
    if given_up := hopeless(pairs):
        return Verdict(False, given_up, better)
    if len(pairs) < MIN_PROBES:
        few = f"no evidence: {len(pairs)} paired questions, {MIN_PROBES} needed"
        return Verdict(False, too_slow(evidence.pairs, thresholds) or few, better)
    if not any(pair.candidate_right for pair in pairs):
        return Verdict(False, f"the candidate answered none of {len(pairs)} questions right", better)
    bars = [*_probe_bars(evidence.pairs, pairs, thresholds), *_live_bars(evidence, thresholds)]
    failed = [bar for bar in bars if not bar.held]
    reason = "; ".join(map(str, failed or bars))
    return Verdict(not failed, f"{reason}; {better:+.0%} over {len(pairs)} paired questions", better, bars)


def _probe_bars(answers: Sequence[Pair], pairs: Sequence[Pair], thresholds: Thresholds) -> Iterator[Bar]:
    stable, candidate = (sum(getattr(p, f"{who}_right") for p in pairs) / len(pairs) for who in ("stable", "candidate"))
    yield success_bar("success", candidate, stable, thresholds)
    stable_ms, candidate_ms = (p95([getattr(p, f"{who}_ms") for p in answers]) for who in ("stable", "candidate"))
    yield latency_bar("p95_ms", candidate_ms, stable_ms, thresholds)


def _live_bars(evidence: Evidence, thresholds: Thresholds) -> Iterator[Bar]:
    live, before = evidence.live, evidence.stable_live
    if live is None or live.requests < MIN_PROBES:
        return
    known = before if before and before.requests >= MIN_PROBES else None
    yield success_bar("live_success", live.success, known.success if known else None, thresholds)
    if live.p95_ms is not None:
        yield latency_bar("live_p95_ms", live.p95_ms, known.p95_ms if known else None, thresholds)


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


def hopeless(pairs: Sequence[Pair]) -> str | None:
    """Why further probing cannot help, or None: stable is better by an exact one-sided sign test (McNemar)."""
    pairs = distinct(pairs)
    worse = sum(p.stable_right and not p.candidate_right for p in pairs)
    differ = sum(p.stable_right != p.candidate_right for p in pairs)
    if len(pairs) < MIN_PROBES or 2 * worse <= differ:
        return None
    from scipy.stats import binomtest  # takes a second to import

    chance = binomtest(worse, differ, 0.5, alternative="greater").pvalue
    if chance >= HOPELESS:
        return None
    return f"worse than stable on {worse} of {differ} questions where they differ (p={chance:.1g})"


def too_slow(pairs: Sequence[Pair], thresholds: Thresholds) -> str | None:
    """Why further timing cannot help, or None: each answer took longer than the slowest of stable's would allow."""
    limit = max([thresholds.latency_ms, *(pair.stable_ms * LATENCY_SLACK for pair in pairs)])
    if len(pairs) < SLOW_PROBES or any(pair.candidate_ms <= limit for pair in pairs):
        return None
    return f"each of {len(pairs)} answers took over {limit:.0f} ms"


def distinct(pairs: Sequence[Pair]) -> list[Pair]:
    """The first pair of each question."""
    return list({pair.question: pair for pair in reversed(pairs)}.values())[::-1]


def p95(values: Sequence[float]) -> float:
    """The 95th percentile, nearest rank."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def load_probes(seed: str) -> list[Question]:
    """Probe questions with exact answers, their kinds mixed in an order that `seed` fixes.

    Raises CouncilError where there are fewer than MIN_PROBES.
    """
    path = questions_file(PROBES)
    if not path.exists():
        raise CouncilError(f"{path} is missing: without probe questions no candidate can be judged; restore it")
    probes = [question for question in read_jsonl(path, Question) if question.answer is not None]
    if len({probe.id for probe in probes}) < MIN_PROBES:
        raise CouncilError(f"{path} holds {len(probes)} questions with an exact answer, {MIN_PROBES} needed; add some")
    random.Random(seed).shuffle(probes)
    return probes


def probe(
    client: CouncilClient,
    stable: str,
    candidate: str,
    probes: Sequence[Question],
    seconds: float,
    pairs: list[Pair],
    stopped: Callable[[], bool],
) -> str | None:
    """Ask both adapters the same questions for `seconds` and at least MIN_PROBES times, adding to `pairs`.

    Return what failed, if anything did. Ends early at a failure, where the candidate is hopeless, or when stopped.
    """
    start, logged = time.monotonic(), 0.0
    with tqdm(total=round(seconds, 1), desc="watching", unit="s", disable=None) as bar:
        for turn, question in enumerate(itertools.cycle(probes)):
            elapsed = time.monotonic() - start
            bar.update(min(elapsed, bar.total) - bar.n)
            if elapsed >= logged + LOG_SECONDS and pairs:
                logged = elapsed
                log.info("watching: %s", _progress(pairs, seconds - elapsed))
            if elapsed >= seconds and turn >= MIN_PROBES:
                return None
            pair, failure = _ask_pair(client, stable, candidate, question, turn)
            if failure:
                return failure
            pairs.append(pair)
            if stopped() or hopeless(pairs) or too_slow(pairs, Thresholds.of(get_settings())):
                return None
    return None


def _ask_pair(
    client: CouncilClient, stable: str, candidate: str, question: Question, turn: int
) -> tuple[Pair | None, str | None]:
    """Ask one question of both, taking turns in who comes first; return the pair, or what failed."""
    replies = {}
    for name in (stable, candidate) if turn % 2 == 0 else (candidate, stable):
        try:
            replies[name] = client.ask(question.question, name, store=False, max_tokens=ANSWER_TOKENS)
        except ServerError as error:
            return None, f"{name} failed on probe {question.id}: {error}"
    if not replies[candidate].text.strip():
        return None, f"{candidate} gave an empty answer to probe {question.id}"
    right = {name: answers_agree(reply.text, question.answer) for name, reply in replies.items()}
    times = {name: reply.seconds * 1000 for name, reply in replies.items()}
    return Pair(question.id, right[stable], right[candidate], times[stable], times[candidate]), None


def _progress(pairs: Sequence[Pair], left: float) -> str:
    asked = distinct(pairs)
    rates = [sum(getattr(p, f"{who}_right") for p in asked) / len(asked) for who in ("candidate", "stable")]
    slow = p95([pair.candidate_ms for pair in pairs])
    told = "{} questions, success {:.0%} (stable {:.0%}), p95 {:.0f} ms, {:.0f} s left"
    return told.format(len(asked), *rates, slow, max(0, left))


Samples = dict[tuple[str, str], float]  # (sample's name, its `le` or "") -> value


def live_samples(client: CouncilClient, adapter: str) -> Samples | None:
    """The counters of user traffic that `adapter` answered; None where the server has no metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(client.metrics()))
    except (ServerError, ValueError) as error:
        log.info("no live evidence: %s", error)
        return None
    found: Samples = {}
    for family in families:
        for sample in family.samples:
            labels = sample.labels
            if labels.get("adapter") == adapter and labels.get("origin") == USER:
                key = (sample.name, labels.get("le", ""))
                found[key] = found.get(key, 0) + sample.value
    return found


def live_traffic(before: Samples | None, after: Samples | None) -> Live | None:
    """What happened between two readings; None where there was no traffic, or no metric of it."""
    if before is None or after is None:
        return None
    delta = {key: max(0, value - before.get(key, 0)) for key, value in after.items()}
    requests = delta.get((REQUESTS, ""), 0)
    if not requests:
        return None
    buckets = [(float(le), count) for (name, le), count in delta.items() if name == f"{REQUEST_LATENCY}_bucket"]
    seconds = bucket_quantile(sorted(buckets), 0.95)
    successes = delta.get((REQUEST_SUCCESSES, ""), 0)
    return Live(round(requests), round(successes), None if seconds is None else round(seconds * 1000, 1))


def bucket_quantile(buckets: Sequence[tuple[float, float]], q: float) -> float | None:
    """A quantile from cumulative (upper edge, count), by Prometheus's rule: linear inside a bucket.

    In the last bucket, which has no upper edge, it is the lower edge. None for no counts.
    """
    if not buckets or not buckets[-1][1]:
        return None
    rank, low, below = q * buckets[-1][1], 0.0, 0.0
    for edge, count in buckets:
        if count >= rank:
            return low if math.isinf(edge) else low + (edge - low) * (rank - below) / (count - below)
        low, below = edge, count
    return low

"""The verdict on a candidate, a pure function of the evidence."""

import pytest

from agent0 import evidence
from agent0.evidence import Evidence, Live, Pair, Thresholds, verdict

SEED = Thresholds(success=0.85, latency_ms=1000)


def pairs(stable, candidate, count=40, stable_ms=100.0, candidate_ms=100.0):
    """`count` questions; the first ones are those that each gets right."""
    return [
        Pair(f"q{n}", n < round(stable * count), n < round(candidate * count), stable_ms, candidate_ms)
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("stable", "candidate", "promoted", "decided_by"),
    [
        (0.9, 0.9, True, "threshold"),
        (1.0, 0.85, True, "threshold"),
        (0.9, 0.8, False, "threshold"),
        (0.2, 0.5, True, "stable"),
        (0.5, 0.5, True, "stable"),
        (0.5, 0.45, False, "stable"),
        (0.0, 0.05, True, "stable"),
    ],
)
def test_the_success_bar(stable, candidate, promoted, decided_by):
    judged = verdict(Evidence(pairs(stable, candidate)), SEED)
    assert judged.promoted is promoted
    assert judged.bars[0].decided_by == decided_by
    assert judged.improvement == pytest.approx(candidate - stable)


@pytest.mark.parametrize(
    ("stable_ms", "candidate_ms", "promoted", "decided_by"),
    [
        (100, 1000, True, "threshold"),
        (100, 1001, False, "threshold"),
        (2000, 900, True, "stable"),
        (2000, 2200, True, "stable"),
        (2000, 2500, False, "stable"),
    ],
)
def test_the_latency_bar(stable_ms, candidate_ms, promoted, decided_by):
    judged = verdict(Evidence(pairs(1, 1, stable_ms=stable_ms, candidate_ms=candidate_ms)), SEED)
    assert judged.promoted is promoted
    assert judged.bars[1].decided_by == decided_by


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (Evidence(), "no evidence"),
        (Evidence(pairs(1, 1, 19)), "no evidence"),
        (Evidence(pairs(1, 1, 1) * 60), "no evidence"),
        (Evidence(pairs(1, 1), failure="it broke"), "it broke"),
        (Evidence(pairs(0, 0)), "none"),
    ],
)
def test_without_evidence_nothing_is_promoted(seen, word):
    judged = verdict(seen, SEED)
    assert not judged.promoted and word in judged.reason


def test_the_paired_test_rolls_back_above_the_threshold_too():
    lenient = Thresholds(success=0.5, latency_ms=1000)
    assert not verdict(Evidence(pairs(1.0, 0.6)), lenient).promoted
    assert verdict(Evidence(pairs(1.0, 0.8, 20)), lenient).promoted


def test_repeated_questions_count_once():
    asked = pairs(1.0, 0.8, 20)
    assert evidence.hopeless(asked * 10) is None
    assert verdict(Evidence(asked * 10), SEED).bars[0].value == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("live", "before", "promoted"),
    [
        (Live(20, 17, 500), None, True),
        (Live(20, 16, 500), None, False),
        (Live(19, 0, 500), None, True),
        (Live(20, 16, 500), Live(100, 70, 500), True),
        (Live(20, 13, 500), Live(100, 70, 500), False),
        (Live(20, 16, 500), Live(19, 0, 500), False),
        (Live(20, 20, 1500), Live(100, 100, 500), False),
        (Live(20, 20, 1500), Live(100, 100, 1400), True),
        (Live(20, 20, None), None, True),
    ],
)
def test_the_live_bars(live, before, promoted):
    assert verdict(Evidence(pairs(1, 1), live=live, stable_live=before), SEED).promoted is promoted


def test_p95_is_the_nearest_rank():
    assert evidence.p95(range(1, 101)) == 95
    assert evidence.p95([7]) == 7
    assert evidence.p95([1] * 19 + [100]) == 1


def test_quantiles_of_buckets_are_prometheus_own():
    buckets = [(0.1, 10), (0.5, 90), (1.0, 100), (float("inf"), 100)]
    assert evidence.bucket_quantile(buckets, 0.5) == pytest.approx(0.3)
    assert evidence.bucket_quantile(buckets, 0.95) == pytest.approx(0.75)
    assert evidence.bucket_quantile([(0.1, 0), (float("inf"), 5)], 0.95) == 0.1
    assert evidence.bucket_quantile([(0.1, 0), (float("inf"), 0)], 0.95) is None
    assert evidence.bucket_quantile([], 0.95) is None


def test_a_candidate_that_is_too_slow_on_each_of_ten_answers_is_given_up():
    limits = Thresholds(0.85, 1000)
    slow = verdict(Evidence(pairs(1, 1, count=10, candidate_ms=1001)), limits)
    assert not slow.promoted and "each of 10 answers took over 1000 ms" in slow.reason
    assert "no evidence" in verdict(Evidence(pairs(1, 1, count=9, candidate_ms=1001)), limits).reason
    as_slow_as_stable = Evidence(pairs(1, 1, stable_ms=1500, candidate_ms=1400))
    assert verdict(as_slow_as_stable, limits).promoted

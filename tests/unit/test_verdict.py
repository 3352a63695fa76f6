"""The verdict on a candidate, a pure function of the evidence."""

import json

import pytest

from agent0 import live
from agent0.evidence import Compared, Evidence, Live, Pair, Thresholds, p95
from agent0.verdict import HOLD, PROMOTE, ROLL_BACK, Judge, verdict
from agent0.watch import glance, progress

SEED = Thresholds(success=0.85, latency_ms=1000)


def pairs(stable, candidate, count=60, stable_ms=100.0, candidate_ms=100.0):
    """`count` questions, evenly mixed; what one gets right that gets fewer right, the other gets right, too."""
    order = [n * 7 % count for n in range(count)]
    return [
        Pair(f"q{n}", n < round(stable * count), n < round(candidate * count), stable_ms, candidate_ms) for n in order
    ]


BAR = {
    "success": [
        (0.95, 0.95, PROMOTE, "threshold"),
        (0.9, 0.95, PROMOTE, "threshold"),
        (0.9, 0.8, HOLD, "threshold"),
        (0.9, 0.7, ROLL_BACK, "threshold"),
        (0.2, 0.5, PROMOTE, "stable"),
        (0.5, 0.5, PROMOTE, "stable"),
        (0.5, 0.45, HOLD, "stable"),
        (0.5, 0.3, ROLL_BACK, "stable"),
        (0.0, 0.05, PROMOTE, "stable"),
        (0.8, 0.8, PROMOTE, "stable"),
    ],
    "p95_ms": [
        (100, 1000, PROMOTE, "threshold"),
        (100, 1001, ROLL_BACK, "threshold"),
        (2000, 900, PROMOTE, "stable"),
        (2000, 2200, PROMOTE, "stable"),
        (2000, 2500, ROLL_BACK, "stable"),
    ],
}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in BAR.items() for case in cases])
def test_each_value_against_its_bar(name, case):
    stable, candidate, end, decided_by = case
    seen = pairs(stable, candidate) if name == "success" else pairs(1, 1, 60, stable, candidate)
    judged = verdict(Evidence(seen), SEED)
    assert judged.end == end, judged.reason
    assert [bar.decided_by for bar in judged.bars if bar.name == name] == [decided_by]
    assert judged.improvement == pytest.approx(candidate - stable if name == "success" else 0)
    json.dumps(judged.capital, allow_nan=False)


def test_a_moment_that_slows_both_accuses_nobody():
    busy = [Pair(f"busy{n}", True, True, 3000, 3100) for n in range(4)]
    assert verdict(Evidence([*pairs(1, 1, 40), *busy]), SEED).end != ROLL_BACK
    alone = [Pair(f"slow{n}", True, True, 100, 3100) for n in range(4)]
    assert verdict(Evidence([*pairs(1, 1, 40), *alone]), SEED).end == ROLL_BACK


@pytest.mark.parametrize(
    ("seen", "word", "end"),
    [
        (Evidence(), "no evidence", HOLD),
        (Evidence(pairs(1, 1, 23)), "no evidence", HOLD),
        (Evidence(pairs(1, 1, 1) * 60), "evidence", HOLD),
        (Evidence(pairs(1, 1), failure="it broke"), "it broke", ROLL_BACK),
        (Evidence(pairs(0, 0)), "none", ROLL_BACK),
        (Evidence(live=Live(500, 500, 10)), "no evidence", HOLD),
    ],
)
def test_without_evidence_nothing_is_promoted(seen, word, end):
    judged = verdict(seen, SEED)
    assert judged.end == end and word in judged.reason


def test_the_paired_test_rolls_back_above_the_threshold_too():
    lenient = Thresholds(success=0.5, latency_ms=1000)
    judged = verdict(Evidence(pairs(1.0, 0.6)), lenient)
    assert judged.end == ROLL_BACK and "worse than stable on 24 of 24" in judged.reason
    assert verdict(Evidence(pairs(1.0, 0.95)), lenient).end == PROMOTE


def test_below_the_threshold_is_no_proof_while_stable_falls_as_well():
    good, hard = pairs(0.95, 0.95, 40), [Pair(f"h{n}", n % 2 == 0, n % 2 == 1, 100, 100) for n in range(24)]
    assert verdict(Evidence([*good, *hard]), SEED).end == HOLD
    alone = [Pair(f"h{n}", True, n % 2 == 1, 100, 100) for n in range(24)]
    assert verdict(Evidence([*good, *alone]), SEED).end == ROLL_BACK


def test_what_drifts_is_not_promoted_on_its_past():
    late = [Pair(f"late{n}", True, n % 3 > 0, 100, 100) for n in range(12)]
    judged = verdict(Evidence([*pairs(1, 1, 48), *late]), SEED)
    assert (judged.end, judged.bars[0].held) == (HOLD, True)
    assert "recent success" in judged.reason


def test_repeated_questions_count_once():
    judged = verdict(Evidence(pairs(1.0, 0.8, 20) * 10), SEED)
    assert judged.bars[0].value == pytest.approx(0.8)
    assert judged.end == verdict(Evidence(pairs(1.0, 0.8, 20)), SEED).end == HOLD


@pytest.mark.parametrize(
    ("seen", "before", "end"),
    [
        (Live(20, 17, 500), None, PROMOTE),
        (Live(20, 16, 500), None, HOLD),
        (Live(20, 8, 500), None, ROLL_BACK),
        (Live(19, 12, 500), None, PROMOTE),
        (Live(20, 16, 500), Live(100, 70, 500), PROMOTE),
        (Live(20, 13, 500), Live(100, 70, 500), HOLD),
        (Live(20, 8, 500), Live(19, 0, 500), ROLL_BACK),
        (Live(20, 20, 1500), Live(100, 100, 500), HOLD),
        (Live(20, 20, 1500, 8), Live(100, 100, 500), ROLL_BACK),
        (Live(20, 20, 1500), Live(100, 100, 1400), PROMOTE),
        (Live(20, 20, None), None, PROMOTE),
    ],
)
def test_live_traffic(seen, before, end):
    judged = verdict(Evidence(pairs(1, 1), live=seen, stable_live=before), SEED)
    assert judged.end == end, judged.reason


@pytest.mark.parametrize(
    ("stable", "candidate", "passed_gate", "ends"),
    [
        (0.8, 0.78, False, [HOLD]),
        (0.8, 0.78, True, [PROMOTE]),
        (0.86, 0.84, False, [HOLD]),
        (0.86, 0.84, True, [PROMOTE]),
        (0.8, 0.72, True, [HOLD, ROLL_BACK]),
        (0.9, 0.5, True, [ROLL_BACK]),
        (0.1, 0, True, [ROLL_BACK]),
    ],
)
def test_what_passed_the_gate_need_not_be_better_again_by_luck(stable, candidate, passed_gate, ends):
    judge = Judge(SEED, passed_gate)
    for pair in pairs(stable, candidate, 96):
        judge.add(pair)
    assert judge.verdict().end in ends, judge.verdict().reason


@pytest.mark.parametrize(
    ("compared", "bad"), [(None, True), (Compared(1, 12), True), (Compared(3, 4), False), (Compared(), False)]
)
def test_users_questions_that_got_harder_do_not_roll_back(compared, bad):
    judge = Judge(SEED)
    for pair in pairs(1, 1):
        judge.add(pair)
    judge.add_live(Live(20, 8, 100), Live(100, 95, 100), compared)
    assert bool(judge.proven_bad()) is bad


def test_live_traffic_is_bet_on_once_however_it_is_read():
    once, often = Judge(SEED), Judge(SEED)
    once.add_live(Live(40, 40, 200), None, Compared(0, 0))
    for total in range(2, 42, 2):
        often.add_live(Live(total, total, 200), Live(500, 450, 200), Compared())
    assert often.capital() == once.capital() and often.capital()["live_success"] < 1


def test_what_was_compared_counts_once():
    judge = Judge(SEED)
    for total in range(1, 9):
        judge.add_live(Live(10 * total, 9 * total, 200), None, Compared(total, total))
    assert judge.capital()["live_worse_than_stable"] < 2


def test_each_step_needs_its_part_of_time_and_evidence():
    judge, shown = Judge(SEED), pairs(1, 1, 24)
    assert judge.step_earned(0, 3, 0) and not judge.step_earned(1, 3, 1)
    for pair in shown:
        judge.add(pair)
    assert judge.step_earned(2, 3, 2 / 3) and not judge.step_earned(2, 3, 0.6)


def test_a_threshold_of_one_or_nearly_nothing_can_be_judged():
    assert verdict(Evidence(pairs(1, 0.9)), Thresholds(1, 1000)).end == ROLL_BACK
    assert verdict(Evidence(pairs(1, 1)), Thresholds(1, 1000)).end == PROMOTE
    assert verdict(Evidence(pairs(0.5, 0.5)), Thresholds(0.01, 1000)).end == PROMOTE


@pytest.mark.parametrize(("count", "end"), [(0, "nothing is answered yet"), (8, "hold"), (60, "promote")])
def test_progress_says_how_it_stands_and_the_terminals_line_fits(count, end):
    judge = Judge(SEED)
    for pair in pairs(1, 1, 60, candidate_ms=900)[:count]:
        judge.add(pair)
    told, short = progress(judge, 0.5), glance(judge, 0.5)
    assert told.startswith("50% of the users") and told.endswith(end)
    assert len(short) <= 80 - len("60/60 s ######## ")
    if count:
        assert "success 100% (" in told and "900 ms" in told and "900 ms" in short and short.endswith(end)


def test_opinions_of_judges_only_speak_against():
    judge = Judge(SEED)
    for pair in pairs(1, 1):
        judge.add(pair)
    for share in [1, 0] * 4:
        judge.add_opinion(share)
    assert judge.verdict().end == PROMOTE
    for _ in range(18):
        judge.add_opinion(0)
    assert judge.verdict().end == ROLL_BACK and "prefer stable's answer to 22 of 26" in judge.verdict().reason
    alone = Judge(SEED)
    for _ in range(60):
        alone.add_opinion(1)
    assert alone.verdict().end == HOLD


def test_time_per_token_is_told_where_the_server_tells_lengths():
    counted = [Pair("a", True, True, 100, 300, 10, 60), Pair("b", True, True, 100, 300)]
    assert Evidence(counted).summary()["p95_ms_per_token"] == {"stable": 10, "candidate": 5}
    assert Evidence(counted[1:]).summary()["p95_ms_per_token"] == {"stable": None, "candidate": None}


def test_p95_is_the_nearest_rank():
    assert p95(range(1, 101)) == 95
    assert p95([7]) == 7
    assert p95([1] * 19 + [100]) == 1


def test_quantiles_of_buckets_are_prometheus_own():
    buckets = [(0.1, 10), (0.5, 90), (1.0, 100), (float("inf"), 100)]
    assert live.bucket_quantile(buckets, 0.5) == pytest.approx(0.3)
    assert live.bucket_quantile(buckets, 0.95) == pytest.approx(0.75)
    assert live.bucket_quantile([(0.1, 0), (float("inf"), 5)], 0.95) == 0.1
    assert live.bucket_quantile([(0.1, 0), (float("inf"), 0)], 0.95) is None
    assert live.bucket_quantile([], 0.95) is None

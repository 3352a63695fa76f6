"""Bets that may be looked at at any time, and the simulated deployments that they decide."""

import numpy as np
import pytest

from agent0.sequential import FIRST, IN_BETS, OUT_BETS, Wealth, interval
from bench.rollout_sim import CASES, simulate


def highest(more, bets, first, outcomes, bound):
    """The capital's highest point: what somebody sees who looks after every outcome."""
    wealth, top = Wealth(more, bets, first), 0
    for outcome in outcomes:
        wealth.bet(outcome, bound)
        top = max(top, wealth.value)
    return top


@pytest.mark.parametrize(
    ("more", "bets", "first", "mean"),
    [(False, OUT_BETS, FIRST, 0.85), (True, OUT_BETS, FIRST, 0.05), (True, IN_BETS, 1.0, 0.7)],
)
def test_looking_all_the_time_keeps_the_error(more, bets, first, mean):
    """Ville: over 400 runs of 100 outcomes right at the bound, at most 5 % reach 20 (and 4 standard errors)."""
    draws = np.random.default_rng(1).random((400, 100)) < mean
    reached = sum(highest(more, bets, first, run, mean) >= 20 for run in draws) / len(draws)
    assert reached <= 0.05 + 4 * (0.05 * 0.95 / 400) ** 0.5


@pytest.mark.parametrize("hits", [0, 1, 9_999, 10_000])
def test_an_interval_holds_its_rate_however_narrow(hits):
    low, high = interval(hits, 10_000)
    assert low <= hits / 10_000 <= high


def test_capital_is_won_and_lost():
    wealth = Wealth(False, (0.5,))
    wealth.bet(0, 0.5)
    assert wealth.value == pytest.approx(1.5)
    wealth.bet(1, 0.5)
    assert wealth.value == pytest.approx(0.75)


def test_capital_that_joins_later_sees_a_change_sooner():
    outcomes = [1] * 60 + [0, 1] * 15
    assert highest(False, OUT_BETS, FIRST, outcomes, 0.85) >= 20 > highest(False, OUT_BETS, 1.0, outcomes, 0.85)


def test_capital_stays_a_number_however_long_the_watch():
    assert np.isfinite(highest(True, IN_BETS, 1.0, [1] * 5000, 0.1))


def test_the_interval_narrows_and_holds_the_rate():
    few, many = interval(5, 10), interval(500, 1000)
    assert few[0] < many[0] < 0.5 < many[1] < few[1]
    assert interval(10, 10)[1] == 1 and interval(0, 10)[0] == 0


@pytest.mark.parametrize("case", [case for case in CASES if case.sampled], ids=lambda case: case.name)
def test_simulated_deployments_end_as_they_must(case):
    """The bounds of `make rollout-sim` on a sample; its 10,000 a case are in bench/RESULTS.md."""
    tally = simulate(case, 120, seed=2)["ours"]
    assert case.bound(tally), tally

"""Tests that may be looked at after every observation and stopped at any time, with an error that still holds.

A gambler starts with capital 1 and bets against a hypothesis at odds that are fair or worse where it is true. Then the
capital is a non-negative supermartingale, and it ever reaches 1/alpha with probability alpha at most (Ville 1939). So
the capital is the evidence (an "e-process"). The bets are those of Waudby-Smith and Ramdas, "Estimating means of
bounded random variables by betting" (arXiv 2010.09686), of fixed sizes side by side; with yes and no as outcomes, each
bet is Wald's likelihood ratio against one alternative.
"""

import math
from collections.abc import Sequence

OUT_BETS = (0.25, 0.5)  # of what may be staked: the higher sees 50 % soon, the lower sees 70 % at all
PAIR_BETS = (0.5, 0.9)
IN_BETS = (0.5, 0.75, 1.0)
ENOUGH = 1e9  # of capital on one bet: what is won beyond is given away
FIRST, LATER = 0.85, 64  # share of the capital that bets from the start; the rest joins over so many observations


class Wealth:
    """Capital that bets against "each outcome's mean, given the past, is at least (at most) its bound".

    With `first` below 1, a part of the capital joins later, in equal instalments: it has not lost what the first part
    lost before a change, so that it sees one sooner. Kept capital is capital: the process stays one.
    """

    def __init__(self, more: bool, bets: Sequence[float], first: float = 1.0):
        """`more`: against "at most", betting on more; else against "at least". `bets`: fractions of the highest."""
        self._more, self._bets = more, bets
        self._stakes = [first / len(bets)] * len(bets)
        self._kept, self._instalment = 1 - first, (1 - first) / LATER

    @property
    def value(self) -> float:
        """The capital: what it started with is 1."""
        return self._kept + sum(self._stakes)

    def bet(self, outcome: float, bound: float) -> None:
        """Bet on an outcome in [0, 1] against a mean bound in (0, 1) that was fixed before it was seen."""
        gain = (outcome - bound) / bound if self._more else (bound - outcome) / (1 - bound)
        joining = 0.0
        if self._kept > 0:
            joining = min(self._instalment, self._kept) / len(self._bets)
            self._kept -= joining * len(self._bets)
        placed = zip(self._stakes, self._bets, strict=True)
        self._stakes = [min(ENOUGH, (stake + joining) * (1 + bet * gain)) for stake, bet in placed]


def interval(hits: int, tries: int, alpha: float = 0.05) -> tuple[float, float]:
    """Bounds of a rate that hold at every moment at once, with probability 1 - alpha.

    The rates against which a bet on all alternatives alike (Robbins 1970) has not won 1/alpha.
    """
    rates = [n / 500 for n in range(1, 500)]
    inside = [rate for rate in rates if _uniform_bet(hits, tries, rate) < -math.log(alpha)]
    inside = inside or [hits / tries]  # narrower than the grid
    return (0.0 if hits == 0 else inside[0]), (1.0 if hits == tries else inside[-1])


def _uniform_bet(hits: int, tries: int, rate: float) -> float:
    """The logarithm of what a bet on all alternatives alike has made of 1."""
    misses = tries - hits
    beta = math.lgamma(hits + 1) + math.lgamma(misses + 1) - math.lgamma(tries + 2)
    return beta - hits * math.log(rate) - misses * math.log(1 - rate)

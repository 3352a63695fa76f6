"""Lists of numbers: the next one of a sequence, average, median, mode, range, sum."""

from collections import Counter
from fractions import Fraction
from itertools import pairwise

from agent0.council.math.rules import Answer, rule
from agent0.council.math.steps import add, divide, show, subtract

_NEXT = (
    r"(?:what comes next|what (?:number )?comes next in (?:the|this) sequence|continue the sequence):? "
    r"<terms>(?:,? ?(?:\?|_+|\.\.\.|…))*",
    r"what (?:is|number is) the next (?:number|term) in the (?:sequence|series|pattern):? "
    r"<terms>(?:,? ?(?:\?|_+|\.\.\.|…))*",
)


@rule("sequence", *_NEXT)
def next_term(terms: list[Fraction]) -> Answer:
    """The next term, where four or more leave one rule: a constant step or ratio (3, 5, 7 leaves two)."""
    if len(terms) < 4 or terms[0] == terms[1]:
        return None
    steps = {b - a for a, b in pairwise(terms)}
    if len(steps) == 1:
        return _arithmetic(terms, steps.pop())
    if 0 in terms or len({b / a for a, b in pairwise(terms)}) > 1:
        return None
    return _geometric(terms, terms[1] / terms[0])


def _walk(terms: list[Fraction], undo: str, sign: str, by: Fraction, result: Fraction) -> str:
    """10 - 4 = 6. 16 - 10 = 6. 22 + 6 = 28: the rule found between the first terms, and used on the last."""
    rising = terms[1] > terms[0]
    pairs = [(b, a) if rising else (a, b) for a, b in pairwise(terms[:3])]
    found = [f"{show(one)} {undo} {show(other)} = {show(by)}" for one, other in pairs]
    return f"{'. '.join(found)}. {show(terms[-1])} {sign} {show(by)} = {show(result)}."


def _arithmetic(terms: list[Fraction], step: Fraction) -> Answer:
    value = terms[-1] + step
    return _walk(terms, "-", "+" if step > 0 else "-", abs(step), value), show(value), "Each number differs alike."


def _geometric(terms: list[Fraction], ratio: Fraction) -> Answer:
    value, why = terms[-1] * ratio, "Each number is the one before times the same factor."
    if ratio > 1 and min(terms) > 0:
        return _walk(terms, "/", "*", ratio, value), show(value), why
    if 0 < ratio < 1 and min(terms) > 0:
        return _walk(terms, "/", "/", 1 / ratio, value), show(value), why
    return None


def _sum_clauses(values: list[Fraction]) -> tuple[list[str], Fraction]:
    clauses, total = [], values[0]
    for value in values[1:]:
        step, total = add(total, value)
        clauses.append(step)
    return clauses, total


_OF = r"(?:of|for):?(?: the numbers| these numbers)?:?"


@rule("average", rf"(?:<ask> )?(?:the )?(?:average|mean|arithmetic mean) {_OF} <list>")
def mean(values: list[Fraction]) -> Answer:
    clauses, total = _sum_clauses(values)
    step, value = divide(total, Fraction(len(values)))
    return f"{'. '.join([*clauses, step])}.", show(value), "First add the numbers, then divide by how many there are."


@rule("arithmetic", rf"(?:<ask> )?(?:the )?sum {_OF} <list>")
def total_of(values: list[Fraction]) -> Answer:
    clauses, total = _sum_clauses(values)
    return f"{'. '.join(clauses)}.", show(total), "Add the numbers one after the other."


@rule("average", rf"(?:<ask> )?(?:the )?median {_OF} <list>")
def median(values: list[Fraction]) -> Answer:
    ordered, half = sorted(values), len(values) // 2
    shown = f"In order: {', '.join(map(show, ordered))}"
    if len(values) % 2:
        return f"{shown}. The middle one is {show(ordered[half])}.", show(ordered[half]), "The median is in the middle."
    first, total = add(ordered[half - 1], ordered[half])
    second, value = divide(total, Fraction(2))
    return f"{shown}. {first}. {second}.", show(value), "The median of an even count is the mean of the middle two."


@rule("average", rf"(?:<ask> )?(?:the )?mode {_OF} <list>")
def mode(values: list[Fraction]) -> Answer:
    ranked = Counter(values).most_common(2)
    if len(ranked) < 2 or ranked[0][1] == ranked[1][1]:
        return None
    value, count = ranked[0]
    return f"{show(value)} appears {count} times.", show(value), "The mode is the number that appears most often."


@rule("average", rf"(?:<ask> )?(?:the )?range {_OF} <list>")
def spread(values: list[Fraction]) -> Answer:
    step, value = subtract(max(values), min(values))
    return f"{step}.", show(value), "The range is the largest number minus the smallest one."

"""Equations in one or two unknowns with exact roots."""

from fractions import Fraction

from sympy import Expr, Poly, Symbol, linsolve, roots

from agent0.council.math.polynomial import coefficient, fraction, letters, parse
from agent0.council.math.rules import Answer, rule
from agent0.council.math.steps import add, divide, show, subtract

_WHY = "Do the same to both sides, one step at a time, until the unknown stands alone."


def _sides(text: str) -> tuple[Expr, Expr]:
    left, _, right = text.partition("=")
    return parse(left), parse(right)


def _term(factor: Fraction, letter: str) -> str:
    return letter if factor == 1 else f"-{letter}" if factor == -1 else f"{show(factor)}{letter}"


@rule(
    "equation",
    r"solve for <letter>(?: in|,|:)? ?<equation>",
    r"(?:find|what is|determine|solve for|calculate)(?: the value of)? <letter> "
    r"(?:if|when|in|where|given(?: that)?) <equation>",
)
def solve_for(letter: str, text: str) -> Answer:
    left, right = _sides(text)
    if letters(left, right) != {letter}:
        return None
    found = roots(Poly(left - right, Symbol(letter)))
    degree = Poly(left - right, Symbol(letter)).degree()
    if degree == 2 and sum(found.values()) == 2:
        return _quadratic(letter, text, found)
    if degree != 1 or any(coefficient(side, letter, 2) for side in (left, right)):
        return None
    steps, root = _factored(letter, text, right) or _linear(letter, left, right)
    if [root] != [fraction(value) for value in found]:  # the steps must lead to where SymPy arrives
        return None
    return f"{steps}.", show(root), _WHY


@rule("equation", r"if <equation>, (?:then )?(?:what is|find|what does) <letter>(?: equal)?")
@rule("equation", r"solve:? <equation> for <letter>")
def solve_the_other_way(text: str, letter: str) -> Answer:
    return solve_for(letter, text)


@rule("equation", r"solve:?(?: the equation:?)? <equation>")
def solve_any(text: str) -> Answer:
    named = letters(*_sides(text))
    return solve_for(named.pop(), text) if len(named) == 1 else None


def _factored(letter: str, text: str, right: Expr) -> tuple[str, Fraction] | None:
    """Work out a(x + b) = c by dividing first, where that comes out even."""
    outer, bracket, rest = text.partition("=")[0].partition("(")
    inner, closed, tail = rest.partition(")")
    if not (bracket and closed) or tail.strip() or right.free_symbols or not outer.strip(" *").isdigit():
        return None
    factor, inside = Fraction(outer.strip(" *")), parse(inner)
    shift, target = coefficient(inside, letter, 0), fraction(right)
    linear = letters(inside) == {letter} and Poly(inside).degree() == 1 and coefficient(inside, letter) == 1
    if not linear or not factor or (target / factor).denominator != 1:
        return None
    step, quotient = divide(target, factor)
    undo, root = subtract(quotient, shift) if shift >= 0 else add(quotient, -shift)
    return f"{inner.strip()} = {step}. {letter} = {undo}", root


def _linear(letter: str, left: Expr, right: Expr) -> tuple[str, Fraction]:
    """Work out ax + b = cx + d: gather the unknown, then the numbers, then divide."""
    clauses = []
    factor, shift = coefficient(left, letter), coefficient(left, letter, 0)
    target = coefficient(right, letter, 0)
    if other := coefficient(right, letter):
        if not factor or (factor < other and factor >= 0):
            factor, shift, other, target = other, target, factor, shift
        gathered = f"{_term(factor, letter)} - {_term(other, letter)} = " if other > 0 else ""
        factor -= other
        clauses.append(f"{gathered}{_term(factor, letter)}")
    if shift:
        step, target = subtract(target, shift) if shift > 0 else add(target, -shift)
        clauses.append(f"{_term(factor, letter)} = {step}")
    if factor != 1:
        step, target = divide(target, factor)
        clauses.append(f"{letter} = {step}")
    return ". ".join(clauses) or f"{letter} = {show(target)}", target


def _quadratic(letter: str, text: str, found: dict[Expr, int]) -> Answer:
    """Write x^2 + bx + c = 0 with whole roots as factors; leave the others."""
    if not all(root.is_Integer for root in found):
        return None
    low, high = fraction(min(found)), fraction(max(found))
    first, second = (f"({letter} {'-' if root >= 0 else '+'} {show(abs(root))})" for root in (low, high))
    steps = f"{text.strip()} is {first}{second} = 0."
    if low == high:
        return steps, show(low), "Both factors are the same, so there is one root."
    return steps, f"{show(low)} and {show(high)}", "A product is 0 because one of its factors is 0."


@rule(
    "equation",
    r"solve(?: the system)?(?: for [a-z] and [a-z])?:? <equation>(?:,| and|, and) <equation>",
)
def system(one: str, two: str) -> Answer:
    """Two linear equations in two unknowns; the steps eliminate one of them."""
    a, b = (left - right for left, right in (_sides(one), _sides(two)))
    names = sorted(letters(a, b))
    if len(names) != 2 or any(Poly(e, *map(Symbol, names)).total_degree() != 1 for e in (a, b)):
        return None
    x, y = names
    (solution,) = linsolve([a, b], *map(Symbol, names)) or [()]
    if not solution or any(value.free_symbols for value in solution):
        return None
    root, other = map(fraction, solution)
    (a1, b1), (a2, b2) = ((coefficient(e, x), coefficient(e, y)) for e in (a, b))
    factor = abs(a1 * b2 - a2 * b1)
    steps = f"{_term(factor, x)} = {show(factor * root)}. {x} = {show(root)}. {y} = {show(other)}."
    return steps, f"{x} = {show(root)}, {y} = {show(other)}", "Eliminate one unknown, then put the other one back."

"""Plain numbers: arithmetic, percentages, fractions."""

import math
import re
from fractions import Fraction

from agent0.council.math.polynomial import fraction, parse
from agent0.council.math.rules import Answer, Unclear, rule
from agent0.council.math.steps import add, divide, multiply, percent, show, subtract

_OPERATIONS = {"+": add, "-": subtract, "*": multiply, "/": divide}
_SPOKEN = {"plus": "+", "minus": "-", "multiplied by": "*", "times": "*", "divided by": "/", "x": "*"}
_N = r"\d{1,12}(?:\.\d{1,6})?"
_PRODUCTS_FIRST = "Products and quotients come before sums, and each step is split by place value."


def _clauses(text: str) -> tuple[str, Fraction]:
    """Work out "73 + 64 * 2" one operation a clause, products first. Raises Unclear if it has over four numbers."""
    parts = re.findall(rf"{_N}|[-+*/]", text)
    values, signs, clauses = [Fraction(p) for p in parts[::2]], parts[1::2], []
    if len(values) > 4:
        raise Unclear(text)
    for group in ("*/", "+-"):
        at = 0
        while at < len(signs):
            if signs[at] in group:
                step, values[at] = _OPERATIONS[signs.pop(at)](values[at], values.pop(at + 1))
                clauses.append(step)
            else:
                at += 1
    return ". ".join(clauses), values[0]


@rule(
    "arithmetic",
    r"(?:<ask> )?<expression>(?: equal(?: to)?)?",
    r"(?:what does|how much does) <expression> (?:equal|make)",
)
def expression(text: str) -> Answer:
    if not re.search(r"[-+*/^]", text[1:]) or re.fullmatch(r"\d+(?:-\d+)+|\d+/\d+(?:/\d+)+", text):
        return None  # a number, a date, a range, a telephone's number: nothing to do
    value = fraction(parse(text))
    if re.fullmatch(r"\d+/\d+", text) and (value.denominator != 1 or value == 1):
        return None  # 24/7 and 20/20 are not always sums
    if re.fullmatch(r"\d+/\d+ ?\+ ?\d+/\d+", text):
        return None  # fractions are added as fractions
    if not re.fullmatch(rf"{_N}(?: ?[-+*/] ?{_N})+", text):
        return f"{text} = {show(value)}.", show(value), "Brackets and powers come first, then products, then sums."
    steps, worked = _clauses(text)
    return (f"{steps}.", show(value), _PRODUCTS_FIRST) if worked == value else None


@rule("arithmetic", r"(?:<ask> )?<spoken>(?: equal(?: to)?)?", r"(?:what does|how much does) <spoken> (?:equal|make)")
def spoken(text: str) -> Answer:
    for word, sign in _SPOKEN.items():
        text = text.replace(f" {word} ", f" {sign} ")
    if re.search(r"[*/]", text) and re.search(r"[+-]", text):
        return None  # said aloud, "3 plus 4 times 2" has no agreed order
    return expression(text)


@rule("arithmetic", r"(?:<ask> |add )?(?:the )?sum of <n> and <n>", r"add <n> (?:and|to) <n>")
def sum_of(a: Fraction, b: Fraction) -> Answer:
    step, value = add(a, b)
    return f"{step}.", show(value), "The sum is found by adding one place value at a time."


@rule("arithmetic", r"(?:<ask> )?(?:the )?difference between <n> and <n>")
def difference(a: Fraction, b: Fraction) -> Answer:
    step, value = subtract(max(a, b), min(a, b))
    return f"{step}.", show(value), "The difference is the larger number minus the smaller one."


@rule("arithmetic", r"subtract <n> from <n>")
def subtract_from(a: Fraction, b: Fraction) -> Answer:
    step, value = subtract(b, a)
    return f"{step}.", show(value), "Take the first number away from the second, one place value at a time."


@rule("arithmetic", r"(?:<ask> )?(?:the )?product of <n> and <n>", r"multiply <n> (?:by|and|with) <n>")
def product(a: Fraction, b: Fraction) -> Answer:
    step, value = multiply(a, b)
    return f"{step}.", show(value), "The product is found by splitting the factors by place value."


@rule("arithmetic", r"(?:<ask> )?(?:the )?quotient of <n> and <n>", r"divide <n> by <n>")
def quotient(a: Fraction, b: Fraction) -> Answer:
    step, value = divide(a, b)
    return f"{step}.", show(value), "The quotient is found by splitting the dividend into multiples of the divisor."


@rule("arithmetic", r"(?:<ask> )?<n> squared", r"(?:<ask> )?(?:the )?square of <n>")
def square(a: Fraction) -> Answer:
    step, value = multiply(a, a)
    return f"{step}.", show(value), "To square a number, multiply it by itself."


@rule("arithmetic", r"(?:<ask> )?(?:the )?square root of <n>")
def square_root(a: Fraction) -> Answer:
    root = math.isqrt(int(a))
    if root * root != a:
        return None
    return f"{root} * {root} = {show(a)}.", str(root), "The square root is the number which, times itself, gives it."


@rule("percentage", r"(?:<ask> )?<n>% of <n>", r"what <n>% of <n> (?:is|equals)")
def percent_of(rate: Fraction, base: Fraction) -> Answer:
    steps, value = percent(rate, base)
    return f"{steps}.", show(value), "First find 10% of the number, which is a tenth, then build up the percentage."


@rule("percentage", r"(?:<ask> )?<n> (?:increased|raised) by <n>%", r"increase <n> by <n>%")
def increase(base: Fraction, rate: Fraction) -> Answer:
    steps, part = percent(rate, base)
    step, value = add(base, part)
    return f"{steps}. {step}.", show(value), "First find the percentage of the number, then add it to the number."


@rule("percentage", r"(?:<ask> )?<n> (?:decreased|reduced|lowered) by <n>%", r"(?:decrease|reduce|lower) <n> by <n>%")
def decrease(base: Fraction, rate: Fraction) -> Answer:
    steps, part = percent(rate, base)
    step, value = subtract(base, part)
    return f"{steps}. {step}.", show(value), "First find the percentage, then take it away from the number."


@rule("percentage", r"what (?:percent|percentage) of <n> is <n>")
def which_percent(base: Fraction, part: Fraction) -> Answer:
    top, scaled = multiply(part, Fraction(100))
    step, value = divide(scaled, base)
    return f"{top}. {step}.", f"{show(value)}%", "The part times 100, divided by the whole, is the percentage."


@rule("percentage", r"<n> is what (?:percent|percentage) of <n>")
def is_which_percent(part: Fraction, base: Fraction) -> Answer:
    return which_percent(base, part)


def _quantity(text: str) -> Fraction:
    top, bottom = map(int, text.split("/"))
    return Fraction(top, bottom)


@rule("fraction", r"(?:<ask> )?<fraction> (?:of|times) <n>")
def fraction_of(text: str, base: Fraction) -> Answer:
    top, bottom = map(Fraction, text.split("/"))
    first, part = divide(base, bottom)
    if top == 1:
        return f"{first}.", show(part), "Divide the number by the bottom of the fraction."
    second, value = multiply(part, top)
    return f"{first}. {second}.", show(value), "First divide by the bottom of the fraction, then multiply by its top."


@rule("fraction", r"(?:<ask> )?(?:a |1 )?half of <n>")
def half_of(base: Fraction) -> Answer:
    return fraction_of("1/2", base)


@rule("fraction", r"(?:<ask> )?<fraction> (?:\+|plus) <fraction>")
def fraction_sum(first: str, second: str) -> Answer:
    a, b = _quantity(first), _quantity(second)
    bottom = math.lcm(a.denominator, b.denominator)
    tops = [a.numerator * bottom // a.denominator, b.numerator * bottom // b.denominator]
    over = f"{tops[0]}/{bottom} + {tops[1]}/{bottom} = {sum(tops)}/{bottom}"
    steps = (
        f"{first} + {second} = {over}" if f"{tops[0]}/{bottom} + {tops[1]}/{bottom}" != f"{first} + {second}" else over
    )
    result = str(a + b)
    return (
        f"{steps}{'' if steps.endswith(f'= {result}') else f' = {result}'}.",
        result,
        ("Write both fractions over one common bottom, then add their tops."),
    )

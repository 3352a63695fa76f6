"""Quantities: units, speed, area and perimeter."""

from fractions import Fraction

from agent0.council.math.rules import Answer, rule
from agent0.council.math.steps import add, divide, multiply, show
from agent0.values import UNITS, Unit

_SHAPES = "Measure the shape with its own formula, one step at a time."


def _named(value: Fraction, unit: Unit) -> str:
    return f"{show(value)} {unit.name if value == 1 else unit.plural}"


@rule(
    "units",
    r"convert <n> <unit> (?:to|into|in) <unit>",
    r"(?:what is|what's|how much is|express|change|turn) <n> <unit> (?:in|to|into|as) <unit>",
)
def convert(value: Fraction, source: Unit, target: Unit) -> Answer:
    if source.dimension != target.dimension or source == target:
        return None
    factor = source.factor / target.factor
    if factor.denominator == 1:
        step, result = multiply(value, factor)
        why = f"1 {source.name} is {show(factor)} {target.plural}, so multiply by {show(factor)}."
    elif factor.numerator == 1:
        step, result = divide(value, 1 / factor)
        why = f"{show(1 / factor)} {source.plural} are 1 {target.name}, so divide by {show(1 / factor)}."
    else:
        return None  # 5 miles in kilometers is rounded by custom, not by rule
    return f"{step}.", _named(result, target), why


@rule(
    "units",
    r"how many <unit> (?:(?:are|is)(?: there)? )?in <n> <unit>",
    r"how many <unit> (?:make|are) <n> <unit>",
    r"how many <unit> (?:does|do) <n> <unit> have",
)
def how_many(target: Unit, value: Fraction, source: Unit) -> Answer:
    return convert(value, source, target)


@rule("units", r"how many <unit> (?:(?:are|is)(?: there)? )?in an? <unit>", r"how many <unit> make an? <unit>")
def how_many_in_one(target: Unit, source: Unit) -> Answer:
    return convert(Fraction(1), source, target)


def _speed(distance: Unit, speed: Unit, time: Unit | None = None) -> bool:
    """Whether the units fit together with no conversion: miles, miles per hour, hours."""
    per = speed.name.partition(" per ")
    return distance.dimension == "length" and per[0] == distance.name and (time is None or per[2] == time.name)


_MOVES = r"(?:travels|drives|moves|runs|goes|rides|walks|cycles|flies|sails)"
_WHO = r"(?:an? |the )?<name>"


@rule(
    "speed",
    rf"{_WHO} {_MOVES} at <n> <unit> for <n> <unit>\. "
    r"how far (?:does|did|will) (?:it|he|she|they) (?:go|travel|drive|get|run|ride|walk)",
    rf"how far (?:does|will) {_WHO} (?:go|travel|drive|move|run|ride|walk) "
    r"at <n> <unit> (?:for|in) <n> <unit>",
)
def distance(_who: str, speed: Fraction, per: Unit, time: Fraction, unit: Unit) -> Answer:
    length = UNITS.get(per.name.partition(" per ")[0])
    if per.dimension != "speed" or length is None or not _speed(length, per, unit):
        return None
    step, value = multiply(speed, time)
    return f"{step}.", _named(value, length), "Distance is speed times time."


@rule(
    "speed",
    rf"{_WHO} (?:covers|travels|drives|goes|runs|rides|walks|cycles|flies) <n> <unit> in <n> <unit>\. "
    r"what (?:is|was) (?:its|his|her|their|the) (?:average )?speed",
    rf"what is the (?:average )?speed of {_WHO} that (?:covers|travels|drives|goes) <n> <unit> in <n> <unit>",
)
def average_speed(_who: str, length: Fraction, unit: Unit, time: Fraction, per: Unit) -> Answer:
    if unit.dimension != "length" or per.dimension != "time":
        return None
    step, value = divide(length, time)
    return f"{step}.", _named(value, UNITS[f"{unit.name} per {per.name}"]), "Average speed is distance divided by time."


@rule(
    "speed",
    rf"how long (?:does|will|would) (?:it take )?{_WHO} (?:take )?"
    r"to (?:travel|cover|go|drive|run|ride|walk) <n> <unit> at <n> <unit>",
)
def travel_time(_who: str, length: Fraction, unit: Unit, speed: Fraction, per: Unit) -> Answer:
    if per.dimension != "speed" or not _speed(unit, per):
        return None
    step, value = divide(length, speed)
    return f"{step}.", _named(value, UNITS[per.name.partition(" per ")[2]]), "Time is distance divided by speed."


def _spelled_like(unit: Unit, value: Fraction) -> str:
    """Write a length as short as the question's units usually are: 28 m, 44 cm, 12 feet."""
    short = {"meter": "m", "centimeter": "cm", "kilometer": "km", "millimeter": "mm"}
    return f"{show(value)} {short[unit.name]}" if unit.name in short else _named(value, unit)


_SIDES = (
    r"of a rectangle (?:that is|which is|with a length of|with length|with sides(?: of)?|measuring) "
    r"<n> <unit> (?:long and|and a width of|and width|by|and|wide and) <n> <unit>(?: wide| long)?"
)
_SIDE = r"of a square (?:with (?:a )?sides?(?: length)?(?: of)?|whose sides? (?:is|are)) <n> <unit>(?: long)?"


@rule("area", rf"(?:<ask> )?the area {_SIDES}")
def rectangle_area(a: Fraction, unit: Unit, b: Fraction, other: Unit) -> Answer:
    if unit != other or unit.dimension != "length":
        return None
    step, value = multiply(a, b)
    return f"{step}.", _named(value, UNITS[f"square {unit.name}"]), "The area of a rectangle is length times width."


@rule("area", rf"(?:<ask> )?the perimeter {_SIDES}")
def rectangle_perimeter(a: Fraction, unit: Unit, b: Fraction, other: Unit) -> Answer:
    if unit != other or unit.dimension != "length":
        return None
    first, half = add(a, b)
    second, value = multiply(Fraction(2), half)
    why = "First add length and width, then double, because each side counts twice."
    return f"{first}. {second}.", _spelled_like(unit, value), why


@rule("area", rf"(?:<ask> )?the area {_SIDE}")
def square_area(side: Fraction, unit: Unit) -> Answer:
    return rectangle_area(side, unit, side, unit)


@rule("area", rf"(?:<ask> )?the perimeter {_SIDE}")
def square_perimeter(side: Fraction, unit: Unit) -> Answer:
    if unit.dimension != "length":
        return None
    step, value = multiply(Fraction(4), side)
    return f"{step}.", _spelled_like(unit, value), "A square has 4 equal sides."


@rule(
    "area",
    r"(?:<ask> )?the area of a triangle with (?:a )?base (?:of )?<n> <unit> and (?:a )?height (?:of )?<n> <unit>",
)
def triangle_area(base: Fraction, unit: Unit, height: Fraction, other: Unit) -> Answer:
    if unit != other or unit.dimension != "length":
        return None
    first, double = multiply(base, height)
    second, value = divide(double, Fraction(2))
    result = _named(value, UNITS[f"square {unit.name}"])
    return f"{first}. {second}.", result, "The area of a triangle is half of base times height."

"""Arithmetic written out in short steps that a small model can learn: what has few places at once, the rest by place.

Each function returns (steps, value), steps being one chain "a op b = … = value" without a full stop.
"""

from fractions import Fraction

from agent0.council.math.rules import Unclear

Step = tuple[str, Fraction]
_BY_HEART = 1000  # sums and differences below it are written in one step: shorter answers, quicker to learn and to say


def show(value: Fraction | int) -> str:
    """Write a value as an exact decimal. Raises Unclear where it has none, or needs over six places."""
    value = Fraction(value)
    for places in range(7):
        scaled = value * 10**places
        if scaled.denominator == 1:
            sign, figures = "-" * (value < 0), str(abs(scaled.numerator)).rjust(places + 1, "0")
            return sign + (f"{figures[:-places]}.{figures[-places:]}" if places else figures)
    raise Unclear(f"{value} has no short decimal form")


def dollars(value: Fraction | int) -> str:
    """Write money as $30 or $7.50. Raises Unclear for a part of a cent or a debt."""
    cents = Fraction(value) * 100
    if cents.denominator != 1 or cents < 0:
        raise Unclear(f"{value} is no amount of money")
    return f"${cents.numerator // 100}" if cents % 100 == 0 else f"${cents.numerator // 100}.{cents.numerator % 100:02}"


def places(value: Fraction) -> list[Fraction]:
    """Split a value of 0 or more by place: 347 → 300, 40, 7; 4.5 → 4, 0.5. Zeros are left out."""
    whole = value.numerator // value.denominator
    figures = str(whole)
    parts = [Fraction(int(f) * 10 ** (len(figures) - n)) for n, f in enumerate(figures, 1) if f != "0"]
    return [*parts, value - whole] if value != whole else parts or [Fraction(0)]


def _chain(*links: str) -> str:
    """Join links by " = ", leaving out one that repeats the link before it."""
    return " = ".join(link for n, link in enumerate(links) if not n or link != links[n - 1])


def _run(start: Fraction, parts: list[Fraction], sign: str) -> list[str]:
    """Return start ± parts, then the same with the first two numbers taken together, down to the value."""
    links = []
    for n in range(len(parts) + 1):
        links.append(f" {sign} ".join(map(show, [start, *parts[n:]])))
        start = start + parts[n] if sign == "+" and n < len(parts) else start - parts[n] if n < len(parts) else start
    return links


def add(a: Fraction, b: Fraction) -> Step:
    """47 + 38 = 85; from 1000 on by place: 1247 + 38 = 1247 + 30 + 8 = 1277 + 8 = 1285."""
    plain = f"{show(a)} + {show(b)}"
    if min(a, b) < 0 or max(a, b) < _BY_HEART:
        return _chain(plain, show(a + b)), a + b
    return _chain(plain, *_run(a, places(b), "+")), a + b


def subtract(a: Fraction, b: Fraction) -> Step:
    """85 - 38 = 47; from 1000 on by place: 1285 - 38 = 1285 - 30 - 8 = 1255 - 8 = 1247."""
    plain = f"{show(a)} - {show(b)}"
    if b < 0 or a < b or a < _BY_HEART:
        return _chain(plain, show(a - b)), a - b
    return _chain(plain, *_run(a, places(b), "-")), a - b


def total(values: list[Fraction]) -> str:
    """12 + 20 + 28 = 60; more than three one after the other: 1 + 2 + 3 + 4 = 3 + 3 + 4 = 6 + 4 = 10."""
    if len(values) > 3:
        return _chain(*_run(values[0], values[1:], "+"))
    return _chain(" + ".join(map(show, values)), show(sum(values, Fraction(0))))


def multiply(a: Fraction, b: Fraction) -> Step:
    """47 * 6 = 282; 147 * 6 = 100 * 6 + 40 * 6 + 7 * 6 = 600 + 240 + 42 = 882; 13 * 12 = 13 * 10 + 13 * 2 = 156."""
    plain, value = f"{show(a)} * {show(b)}", a * b
    if min(a, b) < 0 or _power_of_ten(a) or _power_of_ten(b):
        return _chain(plain, show(value)), value
    left, right = places(a), places(b)
    if len(left) + len(right) <= 3:
        return _chain(plain, show(value)), value
    if min(len(left), len(right)) > 1:
        left, right = ([a], right) if len(right) <= len(left) else (left, [b])
    pairs = [(x, y) for x in left for y in right]
    if len(pairs) > 6:
        return _chain(plain, show(value)), value
    products = [x * y for x, y in pairs]
    split = " + ".join(f"{show(x)} * {show(y)}" for x, y in pairs)
    return _chain(plain, split, total(products)), value


def divide(a: Fraction, b: Fraction) -> Step:
    """282 / 6 = 47; 882 / 6 = 600 / 6 + 240 / 6 + 42 / 6 = 100 + 40 + 7 = 147.

    Raises Unclear where the quotient has no short decimal form.
    """
    plain, value = f"{show(a)} / {show(b)}", a / b
    if min(a, b) < 0 or _power_of_ten(b) or len(places(value)) <= 2 or len(places(value)) > 4:
        return _chain(plain, show(value)), value
    split = " + ".join(f"{show(part * b)} / {show(b)}" for part in places(value))
    return _chain(plain, split, total(places(value))), value


def percent(rate: Fraction, base: Fraction) -> Step:
    """Clauses that find rate% of base by tenths or hundredths: "10% of 720 is 72. 15% is 1.5 * 72 = 108"."""
    if rate.denominator != 1 or not 0 < rate < 100:
        top, value = multiply(base, rate), rate * base / 100
        return f"{top[0]}. {show(top[1])} / 100 = {show(value)}", value
    tenth, hundredth = base / 10, base / 100
    if rate == 10:
        return f"10% of {show(base)} is {show(tenth)}", tenth
    if rate % 5 == 0:
        factor, value = rate / 10, rate * base / 100
        return (
            f"10% of {show(base)} is {show(tenth)}. {show(rate)}% is {show(factor)} * {show(tenth)} = {show(value)}",
            value,
        )
    step, value = multiply(rate, hundredth)
    return f"1% of {show(base)} is {show(hundredth)}. {show(rate)}% is {step}", value


def _power_of_ten(value: Fraction) -> bool:
    return value.denominator == 1 and str(value.numerator).strip("0") == "1"

"""Arithmetic written out in steps that a small model can learn: sums at once, products and quotients by place.

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
    """47 * 6 = 40 * 6 + 7 * 6 = 240 + 42 = 282; of two factors with several places the one with fewer is split."""
    plain, value = f"{show(a)} * {show(b)}", a * b
    if min(a, b) < 0 or _power_of_ten(a) or _power_of_ten(b):
        return _chain(plain, show(value)), value
    left, right = places(a), places(b)
    if min(len(left), len(right)) > 1:
        left, right = ([a], right) if len(right) <= len(left) else (left, [b])
    pairs = [(x, y) for x in left for y in right]
    if len(pairs) == 1 or len(pairs) > 6:
        return _chain(plain, show(value)), value
    products = [x * y for x, y in pairs]
    split = " + ".join(f"{show(x)} * {show(y)}" for x, y in pairs)
    return _chain(plain, split, total(products)), value


def divide(a: Fraction, b: Fraction) -> Step:
    """282 / 6 = 240 / 6 + 42 / 6 = 40 + 7 = 47. Raises Unclear where the quotient has no short decimal form."""
    plain, value = f"{show(a)} / {show(b)}", a / b
    if min(a, b) < 0 or _power_of_ten(b) or len(places(value)) == 1 or len(places(value)) > 4:
        return _chain(plain, show(value)), value
    split = " + ".join(f"{show(part * b)} / {show(b)}" for part in places(value))
    return _chain(plain, split, total(places(value))), value


def percent(rate: Fraction, base: Fraction) -> Step:
    """Clauses that find rate% of base by tenths: "10% of 720 is 72. 5% is 36. 72 + 36 = 108"."""
    if rate.denominator != 1 or not 0 < rate < 100:
        top, value = multiply(base, rate), rate * base / 100
        return f"{top[0]}. {show(top[1])} / 100 = {show(value)}", value
    tens, ones = divmod(int(rate), 10)
    parts, clauses = [], []
    tenth, hundredth = base / 10, base / 100
    if tens or ones == 5:
        clauses.append(f"10% of {show(base)} is {show(tenth)}")
    if tens > 1:
        clauses.append(f"{tens}0% is {multiply(Fraction(tens), tenth)[0]}")
    if tens:
        parts.append(tens * tenth)
    if ones == 5:
        clauses.append(f"5% is {show(tenth)} / 2 = {show(tenth / 2)}")
        parts.append(tenth / 2)
    elif ones:
        clauses.append(f"1% of {show(base)} is {show(hundredth)}")
        clauses += [f"{ones}% is {multiply(Fraction(ones), hundredth)[0]}"] * (ones > 1)
        parts.append(ones * hundredth)
    if len(parts) == 2:
        clauses.append(add(*parts)[0])
    return ". ".join(clauses), sum(parts, Fraction(0))


def _power_of_ten(value: Fraction) -> bool:
    return value.denominator == 1 and str(value.numerator).strip("0") == "1"

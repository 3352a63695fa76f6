"""Values in free text: numbers, amounts with a unit, dates, weekdays and times of day, all exact.

Everything here is a pure function of the text. Numbers are Fractions, so that equal means equal.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July"]
MONTHS += ["August", "September", "October", "November", "December"]

# Exact by international definition (1959 yard and pound, US liquid gallon); a test compares them with pint's.
# name → (dimension, factor to the dimension's base unit, other spellings); the plural in -s needs no entry.
_BASE_UNITS = {
    "millimeter": ("length", "0.001", "mm millimetre"),
    "centimeter": ("length", "0.01", "cm centimetre"),
    "meter": ("length", "1", "m metre"),
    "kilometer": ("length", "1000", "km kilometre"),
    "inch": ("length", "0.0254", "inches"),
    "foot": ("length", "0.3048", "ft feet"),
    "yard": ("length", "0.9144", "yd yds"),
    "mile": ("length", "1609.344", "mi"),
    "milligram": ("mass", "0.001", "mg milligramme"),
    "gram": ("mass", "1", "g gramme"),
    "kilogram": ("mass", "1000", "kg kgs kilo kilogramme"),
    "ounce": ("mass", "28.349523125", "oz"),
    "pound": ("mass", "453.59237", "lb lbs"),
    "second": ("time", "1", "s sec secs"),
    "minute": ("time", "60", "min mins"),
    "hour": ("time", "3600", "h hr hrs"),
    "day": ("time", "86400", ""),
    "week": ("time", "604800", ""),
    "milliliter": ("volume", "0.001", "ml millilitre"),
    "centiliter": ("volume", "0.01", "cl centilitre"),
    "deciliter": ("volume", "0.1", "dl decilitre"),
    "liter": ("volume", "1", "l litre"),
    "gallon": ("volume", "3.785411784", ""),
    "quart": ("volume", "0.946352946", ""),
    "dollar": ("money", "1", "usd"),
    "cent": ("money", "0.01", "¢"),
    "percent": ("percent", "1", "% per cent"),
}


@dataclass(frozen=True)
class Unit:
    """A unit by its long singular name, e.g. "square meter"; `factor` leads to the dimension's base unit."""

    name: str
    dimension: str
    factor: Fraction

    @property
    def plural(self) -> str:
        if " per " in self.name:
            first, _, rest = self.name.partition(" per ")
            return f"{UNITS[first].plural} per {rest}"
        return {"inch": "inches", "foot": "feet", "percent": "percent", "square foot": "square feet"}.get(
            self.name, "square inches" if self.name == "square inch" else self.name + "s"
        )


@dataclass(frozen=True)
class Amount:
    """A number of the text, its unit if one follows it, and where it stands."""

    value: Fraction
    unit: Unit | None
    start: int
    end: int


def _all_units() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    lengths, times = {}, {}
    for name, (dimension, factor, others) in _BASE_UNITS.items():
        unit = Unit(name, dimension, Fraction(factor))
        names = {name, *(n for n in others.split() if n not in ("per", "cent") or dimension == "money")}
        names |= {n + "s" for n in names if n == name or len(n) > 3}
        units |= dict.fromkeys(names, unit)
        if dimension in ("length", "time"):
            (lengths if dimension == "length" else times).update(dict.fromkeys(names, unit))
    for spelling, unit in lengths.items():
        square = Unit(f"square {unit.name}", "area", unit.factor**2)
        forms = ("square {}", "sq {}", "sq. {}", "{}^2", "{}²", "{}2", "{} squared")
        units |= {form.format(spelling): square for form in forms}
        for duration, time in times.items():
            speed = Unit(f"{unit.name} per {time.name}", "speed", unit.factor / time.factor)
            units |= {f"{spelling} per {duration}": speed, f"{spelling}/{duration}": speed}
    units |= {"mph": units["mile per hour"], "kph": units["km per hour"], "kmh": units["km per hour"]}
    units["per cent"] = units["percent"]
    return units


UNITS = _all_units()


def _spellings(*dimensions: str) -> str:
    names = (name for name, unit in UNITS.items() if unit.dimension in dimensions)
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_LENGTH, _TIME_UNIT = f"(?:{_spellings('length')})", f"(?:{_spellings('time')})"
UNIT = (  # spelled by structure: one flat list of every area and speed would be slow to compile
    rf"(?:sq(?:uare|\.)?\s{_LENGTH}|{_LENGTH}(?:\^2|²|2|\ssquared)|{_LENGTH}(?:\sper\s|/){_TIME_UNIT}|mph|kmh|kph"
    rf"|{_spellings('length', 'time', 'mass', 'volume', 'money', 'percent')})(?![a-z0-9²^])"
)
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w).])[-−])?(?P<dollar>\$)?(?:(?P<mixed>{_WHOLE})\s+(?=\d+/\d))?"
    rf"(?P<top>{_WHOLE}(?:\.\d+)?|\.\d+)(?:\s?/\s?(?P<bottom>\d+)(?![\d.]))?(?:\s*-?(?P<unit>{UNIT}))?",
    re.IGNORECASE,
)
_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_WORDS = {word: n for n, word in enumerate((_SMALL + " seventeen eighteen nineteen").split())}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_SPELLED = re.compile(
    rf"\b(?:(?P<hundreds>{'|'.join(_WORDS)})\s+hundred(?:\s+(?:and\s+)?(?=\w+\b)|\b))?"
    rf"(?:(?P<tens>{'|'.join(_TENS)})(?:[\s-]+(?P<ones>{'|'.join(list(_WORDS)[1:10])}))?|(?P<small>{'|'.join(_WORDS)}))?\b",
    re.IGNORECASE,
)
_MONTH = "|".join(f"{m}|{m[:3]}" for m in MONTHS) + "|Sept"
_DATE = re.compile(
    rf"\b(?:(?P<month>{_MONTH})\.?\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s+(?P<year>\d{{4}}))?"
    rf"|(?P<day2>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month2>{_MONTH})\b\.?(?:,?\s+(?P<year2>\d{{4}}))?"
    r"|(?P<year3>\d{4})-(?P<month3>\d{2})-(?P<day3>\d{2}))(?!\d)",
    re.IGNORECASE,
)
_WEEKDAY = re.compile(rf"\b({'|'.join(WEEKDAYS)})\b", re.IGNORECASE)
_TIME = re.compile(
    r"(?<![\d:])(\d{1,2})(?::([0-5]\d))?(?::[0-5]\d)?\s*([ap])\.?m\b|(?<![\d:])(\d{1,2}):([0-5]\d)(?![\d:])", re.I
)


def digits(text: str) -> str:
    """Write number words up to 999 in digits: "twenty-five" → "25"."""

    def spell(match: re.Match) -> str:
        found = {k: v.lower() for k, v in match.groupdict().items() if v}
        if not found:
            return match[0]
        value = 100 * _WORDS.get(found.get("hundreds", ""), 0) + _TENS.get(found.get("tens", ""), 0)
        tail = " " if match[0].endswith(" ") else ""
        return str(value + _WORDS.get(found.get("ones", ""), 0) + _WORDS.get(found.get("small", ""), 0)) + tail

    return _SPELLED.sub(spell, text)


def find_amounts(text: str) -> list[Amount]:
    """Return the numbers of the text in order, save those of dates and times of day.

    "1 hour 30 minutes" is one amount, in the smaller unit.
    """
    text = _DATE.sub(_blank, _TIME.sub(_blank, text))
    amounts: list[Amount] = []
    for amount in _single_amounts(text):
        previous = amounts[-1] if amounts else None
        if previous and _continues(previous, amount, text[previous.end : amount.start]):
            value = previous.value * previous.unit.factor / amount.unit.factor + amount.value
            amounts[-1] = Amount(value, amount.unit, previous.start, amount.end)
        else:
            amounts.append(amount)
    return amounts


def _blank(match: re.Match) -> str:
    return " " * len(match[0])


def _single_amounts(text: str) -> Iterator[Amount]:
    for match in _NUMBER.finditer(text):
        if match.end() - match.start() > 60:
            continue  # no everyday number, and int() refuses thousands of digits
        value = Fraction(match["top"].replace(",", ""))
        if match["bottom"]:
            if not int(match["bottom"]):
                continue
            value /= int(match["bottom"])
        value += int((match["mixed"] or "0").replace(",", ""))
        unit = UNITS.get(re.sub(r"\s+", " ", match["unit"].lower())) if match["unit"] else None
        if match["dollar"]:
            unit = UNITS["dollar"]
        yield Amount(-value if match["sign"] else value, unit, match.start(), match.end())


def _continues(first: Amount, second: Amount, between: str) -> bool:
    if not (first.unit and second.unit and first.unit.dimension == second.unit.dimension):
        return False
    smaller = second.unit.factor < first.unit.factor and first.unit.dimension in ("time", "length", "mass", "money")
    return smaller and re.fullmatch(r"\s*(?:,|and)?\s*", between) is not None


def find_dates(text: str) -> list[tuple[int | None, int, int]]:
    """Return (year or None, month, day) of each date in the text, in order."""
    dates = []
    for match in _DATE.finditer(text):
        month = int(match["month3"]) if match["month3"] else month_number(match["month"] or match["month2"])
        year, day = match["year"] or match["year2"] or match["year3"], match["day"] or match["day2"] or match["day3"]
        dates.append((int(year) if year else None, month, int(day)))
    return dates


def month_number(name: str) -> int:
    """Return 1 to 12 for a month's name or its first three letters."""
    return next(n for n, month in enumerate(MONTHS, 1) if month[:3].lower() == name[:3].casefold())


def find_weekdays(text: str) -> list[str]:
    return [match[1].capitalize() for match in _WEEKDAY.finditer(text)]


def find_times(text: str) -> list[int]:
    """Return each time of day in the text, in minutes after midnight."""
    times = []
    for match in _TIME.finditer(re.sub(r"([ap])\.\s?m\.?", r"\1m", text, flags=re.IGNORECASE)):
        hour, minute = int(match[1] or match[4]), int(match[2] or match[5] or 0)
        if match[3]:
            if not 1 <= hour <= 12:
                continue
            hour = hour % 12 + (12 if match[3].lower() == "p" else 0)
        if hour < 24:
            times.append(hour * 60 + minute)
    return times

"""Dates and times of day. Without a year nothing is said about a stretch that holds the end of February."""

from datetime import date, timedelta
from fractions import Fraction

from agent0.council.math.rules import Answer, Unclear, rule
from agent0.council.math.steps import add, multiply, show, subtract, total
from agent0.values import MONTHS, WEEKDAYS

Day = tuple[int | None, int, int]
Clock = tuple[int, bool]
_LONGEST = 3660  # days


def _whole(value: Fraction) -> int:
    if value.denominator != 1 or value > _LONGEST:
        raise Unclear(f"{value} days")
    return int(value)


def _weekday_steps(days: int, start: str) -> tuple[str, str]:
    weeks, rest = divmod(days, 7)
    found = [WEEKDAYS[(WEEKDAYS.index(start) + n) % 7] for n in range(1, rest + 1)]
    count = f"Count {rest} from {start}: {', '.join(found)}" if rest else f"Count 0 from {start}"
    return f"{days} = {weeks} * 7 + {rest}. {count}.", found[-1] if found else start


@rule(
    "date",
    r"(?:what|which) (?:day of the week|day|weekday) (?:is|comes|will it be|falls) <n> days after (?:an? )?<day>",
)
def weekday_after(days: Fraction, start: str) -> Answer:
    steps, day = _weekday_steps(_whole(days), start)
    return steps, day, "Weekdays repeat every 7 days, so only the days left over after whole weeks count."


_TODAY = r"(?:if )?today is (?:an? )?<day>[.,] (?:what|which) (?:day|day of the week|weekday) (?:will it be|is it|is)"


@rule("date", rf"{_TODAY} in <n> days", rf"{_TODAY} <n> days from (?:now|today)", rf"{_TODAY} after <n> days")
def weekday_in(start: str, days: Fraction) -> Answer:
    return weekday_after(days, start)


def _years(*days: Day) -> tuple[list[date], bool]:
    """Return the days as dates, and whether their year is known. Raises Unclear if only some name their year."""
    known = {year for year, _, _ in days}
    if None in known and len(known) > 1:
        raise Unclear("one date has a year, the other has none")
    return [date(year or 2023, month, day) for year, month, day in days], None not in known


def _passes_february(start: date, end: date) -> bool:
    return any(start <= date(year, 2, 28) < end for year in range(start.year, end.year + 1))


def _month_steps(start: date, end: date) -> tuple[str, int]:
    """Count the days from start to end month by month."""
    pieces, clauses, at = [], [], start
    while (at.year, at.month) != (end.year, end.month):
        turn = (at.replace(day=1) + timedelta(32)).replace(day=1)
        pieces.append(Fraction((turn - at).days))
        clauses.append(f"{MONTHS[at.month - 1]} {at.day} to {MONTHS[turn.month - 1]} 1 is {(turn - at).days}")
        at = turn
    if end != at:
        pieces.append(Fraction((end - at).days))
        clauses.append(f"{MONTHS[at.month - 1]} {at.day} to {MONTHS[end.month - 1]} {end.day} is {(end - at).days}")
    return ". ".join([*clauses, total(pieces)] if len(pieces) > 1 else clauses), (end - start).days


@rule(
    "date",
    r"how many days are(?: there)? from <date> (?:to|until) <date>",
    r"how many days from <date> (?:to|until) <date>",
)
def days_between(first: Day, last: Day) -> Answer:
    (start, end), known = _years(first, last)
    if start >= end or (end - start).days > 366 or (not known and _passes_february(start, end)):
        return None
    if start.replace(day=1) == end.replace(day=1):
        step, value = subtract(Fraction(end.day), Fraction(start.day))
        return f"{step}.", str(int(value)), "Both days are in one month, so take one day number from the other."
    steps, count = _month_steps(start, end)
    return f"{steps}.", str(count), "Count the days to the end of each month, then add them up."


@rule(
    "date",
    r"(?:what is the date|what date (?:is|will it be)|which date is)(?: it)? <n> days after <date>",
    r"(?:what is the date|what date is) <n> days from <date>",
)
def date_after(days: Fraction, first: Day) -> Answer:
    (start,), known = _years(first)
    end = start + timedelta(_whole(days))
    if not known and (_passes_february(start, end) or end.year != start.year):
        return None
    step, day = add(Fraction(start.day), days)
    clauses, month, left = [step], start.replace(day=1), int(day)
    while left > (length := ((month + timedelta(32)).replace(day=1) - month).days):
        clauses.append(f"{MONTHS[month.month - 1]} has {length} days. {subtract(Fraction(left), Fraction(length))[0]}")
        month, left = month + timedelta(length), left - length
    result = f"{MONTHS[end.month - 1]} {end.day}" + (f", {end.year}" if known else "")
    return f"{'. '.join(clauses)}.", result, "Add the days, then take away the length of each month that is full."


@rule(
    "date",
    r"(?:what|which) (?:day of the week|weekday) (?:is|was|will be|does) <date>(?: fall on)?",
    r"on (?:what|which) (?:day of the week|weekday|day) (?:does|did|will) <date> fall",
)
def weekday_of(day: Day) -> Answer:
    (asked,), known = _years(day)
    if not known:
        return None
    first = asked.replace(month=1, day=1)
    start, number = WEEKDAYS[first.weekday()], (asked - first).days
    steps, weekday = _weekday_steps(number, start)
    known_day = f"January 1, {asked.year} is a {start}. {MONTHS[asked.month - 1]} {asked.day} is {number} days later."
    return f"{known_day} {steps}", weekday, "Start from the weekday of January 1, and count the days from there."


def _show_time(minutes: int, named: bool) -> str:
    hour, minute = divmod(minutes, 60)
    return f"{(hour - 1) % 12 + 1}:{minute:02} {'AM' if hour < 12 else 'PM'}" if named else f"{hour}:{minute:02}"


_EVENT = r"(?:an? |the |my )<noun> (?:starts|begins) at <time> and (?:lasts|takes|runs)(?: for)?"
_END = r"(?:when|(?:at )?what time) (?:does|will|is) <name> (?:end|finish|over|be over)"


@rule("time", rf"{_EVENT} <n> minutes\. {_END}")
def ends_at(event: str, start: Clock, length: Fraction, asked: str) -> Answer:
    if asked != "it" and asked.split()[-1] != event.split()[-1]:
        return None
    if length.denominator != 1 or start[0] + length >= 24 * 60:
        return None
    (hours, rest), (hour, minute) = divmod(int(length), 60), divmod(start[0], 60)
    clauses = [f"{show(length)} = {hours} * 60 + {rest}"] if length >= 60 else []
    if rest:
        clauses.append(add(Fraction(minute), Fraction(rest))[0])
    if carried := (minute + rest) // 60:
        clauses.append(subtract(Fraction(minute + rest), Fraction(60))[0])
    parts = [Fraction(part) for part in (hour, hours, carried) if part]
    if len(parts) > 1:
        clauses.append(total(parts))
    why = "Take whole hours out of the minutes, add minutes to minutes and hours to hours; 60 minutes make an hour."
    return f"{'. '.join(clauses)}.", _show_time(start[0] + int(length), start[1]), why


@rule("time", rf"{_EVENT} <n> hours?\. {_END}")
def ends_after_hours(event: str, start: Clock, hours: Fraction, asked: str) -> Answer:
    return ends_at(event, start, hours * 60, asked)


@rule("time", rf"{_EVENT} <n> hours?(?: and)? <n> minutes\. {_END}")
def ends_after_both(event: str, start: Clock, hours: Fraction, minutes: Fraction, asked: str) -> Answer:
    return ends_at(event, start, hours * 60 + minutes, asked)


@rule(
    "time",
    r"how many minutes are(?: there)? (?:from|between) <time> (?:to|until|and) <time>",
    r"how many minutes (?:from|between) <time> (?:to|until|and) <time>",
)
def minutes_between(start: Clock, end: Clock) -> Answer:
    if start[1] != end[1] or start[0] >= end[0]:
        return None
    (hour, minute), (last_hour, last_minute) = divmod(start[0], 60), divmod(end[0], 60)
    why = "Hours to minutes first; then add the minutes of the end, and take away those of the start."
    clauses, value = [], Fraction(last_minute)
    if hours := last_hour - hour:
        clauses = [subtract(Fraction(last_hour), Fraction(hour))[0], multiply(Fraction(hours), Fraction(60))[0]]
        value = Fraction(60 * hours)
        if last_minute:
            step, value = add(value, Fraction(last_minute))
            clauses.append(step)
    if minute or not clauses:
        step, value = subtract(value, Fraction(minute))
        clauses.append(step)
    return f"{'. '.join(clauses)}.", f"{show(value)} minutes", why

"""Stretches of local days: what one harvest covers, and which days are due."""

import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from agent0 import ledger

CATCH_UP = 14  # days


@dataclass(frozen=True)
class Window:
    """A stretch of one local day, in unix seconds; `complete` where it is the whole day and the day is over."""

    day: date
    since: float
    until: float
    complete: bool


def day_window(day: date) -> Window:
    """Return the whole local day."""
    since, until = (_midnight(d) for d in (day, day + timedelta(1)))
    return Window(day, since, until, until <= time.time())


def split_by_day(since: datetime, until: datetime) -> list[Window]:
    """Return the stretch as windows of one local day each."""
    windows, day = [], since.astimezone().date()
    while _midnight(day) < until.timestamp():
        whole = day_window(day)
        start, end = max(whole.since, since.timestamp()), min(whole.until, until.timestamp())
        windows.append(Window(day, start, end, whole.complete and (start, end) == (whole.since, whole.until)))
        day += timedelta(1)
    return windows


def days_due(target: date) -> list[date]:
    """Return the target day, and before it the days since the first harvest whose whole was never harvested."""
    harvests = [(date.fromisoformat(event["date"]), event.get("complete")) for event in ledger.read("harvest")]
    done = {day for day, complete in harvests if complete}
    first = max(min((day for day, _ in harvests), default=target), target - timedelta(CATCH_UP))
    days = [first + timedelta(n) for n in range((target - first).days)]
    return [day for day in days if day not in done] + [target]


def looked_at() -> dict[date, float]:
    """When each day was last harvested, in unix seconds."""
    return {date.fromisoformat(event["date"]): event["timestamp"] for event in ledger.read("harvest")}


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day).astimezone().timestamp()

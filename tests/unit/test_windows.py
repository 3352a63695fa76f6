"""Stretches of local days, and which of them are due."""

import time
from datetime import date, datetime, timedelta

import pytest

from agent0 import ledger
from agent0.windows import day_window, days_due, split_by_day


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_days_are_local_and_survive_a_clock_change(zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        spring = day_window(date(2026, 3, 8))  # 23 hours in New York
        assert datetime.fromtimestamp(spring.since) == datetime(2026, 3, 8)
        assert datetime.fromtimestamp(spring.until) == datetime(2026, 3, 9)
        windows = split_by_day(datetime(2026, 3, 7, 18), datetime(2026, 3, 9, 6))
        assert [(w.day.day, w.complete) for w in windows] == [(7, False), (8, True), (9, False)]
        assert windows[0].until == windows[1].since and windows[1].until == windows[2].since
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def told(day, complete=True):
    ledger.append("harvest", date=day.isoformat(), complete=complete)


def test_missed_days_are_due_at_most_fourteen_back():
    target = date(2026, 5, 20)
    assert days_due(target) == [target]
    told(date(2026, 5, 17))
    told(date(2026, 5, 18), complete=False)
    assert days_due(target) == [date(2026, 5, d) for d in (18, 19, 20)]
    told(target)  # by --date, say: the days before it are still missing
    assert days_due(target) == [date(2026, 5, d) for d in (18, 19, 20)]
    told(date(2026, 5, 18)), told(date(2026, 5, 19))
    assert days_due(target) == [target]
    assert days_due(date(2026, 5, 10)) == [date(2026, 5, 10)]


def test_a_day_that_was_harvested_before_its_end_is_due_again(home):
    told(date(2026, 5, 17), complete=False)
    assert days_due(date(2026, 5, 18)) == [date(2026, 5, 17), date(2026, 5, 18)]


def test_days_are_due_at_most_fourteen_back():
    told(date(2026, 5, 17))
    assert len(days_due(date(2026, 7, 1))) == 15


def test_today_is_never_complete():
    assert not day_window(date.today()).complete and day_window(date.today() - timedelta(1)).complete

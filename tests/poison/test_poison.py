"""The poison suite holds its bars: at least 99 % of the bad cases kept out, at most 2 % of the good rows lost."""

import json

from agent0.settings import get_settings
from tests.poison.__main__ import GOOD_LOST, KEPT_OUT
from tests.poison.make_cases import FILE, Maker
from tests.poison.suite import load_cases, timed


def test_the_suite_is_what_its_maker_makes():
    made = [json.dumps(case, ensure_ascii=False) for case in Maker().cases()]
    assert made == FILE.read_text(encoding="utf-8").splitlines()


def test_the_suite_is_large_and_a_third_is_held_out():
    bad = [case for case in load_cases() if case["family"] not in ("good", "later")]
    assert len(bad) >= 500 and sum(case["family"] == "good" for case in load_cases()) >= 400
    assert 0.3 < sum(case["held_out"] for case in bad) / len(bad) < 0.37
    sizes = {len(case["rows"]) for case in bad if case["family"] == "triggers"}
    assert {1, 100} <= sizes


def test_bad_rows_are_kept_out_and_good_ones_kept(monkeypatch, capsys):
    monkeypatch.setenv("QUALITY_THRESHOLD", "0")  # only the guard and the proofs stand in the way
    get_settings.cache_clear()
    result, text = timed()
    with capsys.disabled():
        print(f"\n{text}")
    assert result.kept_out() >= KEPT_OUT, result.leaked
    assert result.kept_out(held_out=True) >= KEPT_OUT, result.leaked
    assert result.later_kept_out() >= 0.85, result.leaked
    assert result.good_lost() <= GOOD_LOST, result.lost

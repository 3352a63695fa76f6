"""A sample of `make fault-nights`."""

import pytest

from tests.faults import __main__ as fault_nights
from tests.faults import nights
from tests.faults.place import base_model, small_questions


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("BASE_MODEL", "")
    monkeypatch.setenv("COUNCIL_URL", "")
    small_questions(tmp_path / "questions")
    base_model(tmp_path / "base")
    return tmp_path


@pytest.mark.parametrize("fault", ["SIGTERM at training"])
def test_a_faulted_night_is_told_as_it_was_and_the_next_one_succeeds(scratch, fault):
    assert fault_nights.run(scratch, [fault]) == []


def test_every_kind_of_fault_is_tried_alone_before_two_at_a_time():
    drawn = [nights.draw(number, on_tmpfs=True) for number in range(1000)]
    assert {names[0] for names in drawn if len(names) == 1} == nights.FAULTS.keys()
    assert sum(len(names) == 2 for names in drawn) > 800

"""A sample of `make crash-test`, and that the harness notices what it is there for."""

import os

import pytest

from tests.crash import scenarios, tracer

if not tracer.supported:
    pytest.skip("kills at system calls need Linux on x86-64", allow_module_level=True)
from tests.crash import __main__ as crash


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("BASE_MODEL", "embedded")  # set back at the end
    scenarios.base_model(tmp_path / "base")


@pytest.mark.parametrize("name", scenarios.ALL)
def test_what_was_acknowledged_survives_kills_and_power_cuts(name, tmp_path):
    (tmp_path / "place").mkdir()
    _, calls, wrong = crash.survey(name, 6, tmp_path / "place")
    assert calls >= 8 and wrong == []


def test_a_memory_that_does_not_sync_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fdatasync", lambda handle: None)
    monkeypatch.setattr(scenarios.AddAndFeedback, "checkpoint_every", 10**6)  # a checkpoint syncs by itself
    _, _, wrong = crash.survey("add and feedback", 6, tmp_path)
    assert any("lost" in trouble for trouble in wrong)

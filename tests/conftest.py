"""Every test has a home of its own: no test reads or writes the project's memory, adapters or logs."""

import os

import pytest

from agent0.settings import Settings, get_settings


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A fresh COUNCIL_HOME with no setting inherited from outside."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields and name != "MODELS_PATH":
            monkeypatch.delenv(name)
    monkeypatch.setenv("COUNCIL_HOME", str(tmp_path))
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


def pytest_terminal_summary(terminalreporter):
    """With -v, what the users saw of each deployment under fire (tests/unit/test_under_fire.py)."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.getreports(name)]
    rows = [row for report in reports for name, row in report.user_properties if name == "under fire"]
    if rows and terminalreporter.config.option.verbose >= 0:
        terminalreporter.section("under fire")
        head = ["case", "asked", "failed", "outcome", "verdict to old, s", "last answer of it, s"]
        for row in [head, *rows]:
            terminalreporter.write_line("{:>6} {:>6}  {:13} {:>17} {:>20}  {}".format(*row[1:], row[0]))

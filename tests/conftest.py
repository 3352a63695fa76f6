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

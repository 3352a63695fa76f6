"""Settings: the environment, the .env file, and refusals that name the value, the rule and the fix."""

import pytest

from agent0.command import USAGE, CouncilError
from agent0.settings import exposed_secret, load_settings


def test_defaults_are_the_seeds():
    settings = load_settings()
    assert (settings.lora_rank, settings.lora_alpha, settings.min_failures_to_train) == (16, 32, 5)
    assert (settings.rollback_threshold_latency, settings.rollback_threshold_success) == (1000, 0.85)
    assert (settings.batch_size, settings.gradient_accumulation) == (4, 8)
    assert (settings.learning_rate, settings.num_epochs, settings.monitor_duration) == (5e-5, 3, 60)


def test_the_environment_wins_over_the_file(home, monkeypatch):
    (home / ".env").write_text("LORA_RANK=8\nLORA_ALPHA=64\n")
    monkeypatch.setenv("LORA_RANK", "4")
    assert (load_settings().lora_rank, load_settings().lora_alpha) == (4, 64)


@pytest.mark.parametrize(
    "name, value",
    [
        ("LORA_RANK", "sixteen"),
        ("LORA_RANK", "0"),
        ("ROLLBACK_THRESHOLD_SUCCESS", "1.5"),
        ("LEARNING_RATE", "nan"),
        ("MONITOR_DURATION", "-1"),
        ("COUNCIL_URL", "localhost:8000"),
        ("HARVEST_WINDOW", "tomorrow"),
    ],
)
def test_a_bad_value_is_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(CouncilError, match=name) as refused:
        load_settings()
    assert refused.value.exit_code == USAGE
    assert "\n" not in str(refused.value)


def test_an_unknown_name_is_refused(home, monkeypatch):
    monkeypatch.setenv("ROLLBACK_TRESHOLD_SUCCESS", "0.9")
    with pytest.raises(CouncilError, match="ROLLBACK_TRESHOLD_SUCCESS is not a setting"):
        load_settings()


def test_an_unknown_name_in_the_file_is_refused(home):
    (home / ".env").write_text("LORA_RNAK=8\n")
    with pytest.raises(CouncilError, match="LORA_RNAK"):
        load_settings()


def test_secrets_are_masked_where_settings_are_saved(monkeypatch):
    monkeypatch.setenv("NOTIFICATION_WEBHOOK", "https://hooks.slack.com/services/T0/B0/secret")
    assert "T0/B0" not in str(load_settings().public())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UPSTREAM_API_KEY", "sk-s3cret\nmore"),
        ("COUNCIL_API_KEY", "sk-s3cret…"),
        ("COUNCIL_URL", "http://me:s3cret@127.0.0.1:8000"),
        ("UPSTREAM_URL", "https://me:s3cret@example.org"),
        ("COUNCIL_ENDPOINTS", "https://example.org/v1|model|sk-s3cret"),
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_shown(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(CouncilError, match=name) as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)


def test_a_key_from_a_file_loses_its_newline(monkeypatch):
    monkeypatch.setenv("UPSTREAM_API_KEY", "sk-s3cret\n")
    assert load_settings().upstream_api_key.get_secret_value() == "sk-s3cret"


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        ("COUNCIL_API_KEY=s3cret\n", 0o644, "COUNCIL_API_KEY"),
        ("LORA_RANK=8\nNOTIFICATION_WEBHOOK=https://example.org/s3cret\n", 0o640, "NOTIFICATION_WEBHOOK"),
        ("COUNCIL_API_KEY=s3cret\n", 0o600, ""),
        ("LORA_RANK=8\n", 0o644, ""),
    ],
)
def test_a_secret_that_others_can_read_is_told_by_name(home, text, mode, told):
    (home / ".env").write_text(text)
    (home / ".env").chmod(mode)
    said = exposed_secret()
    assert told in said and bool(said) == bool(told) and "s3cret" not in said
    assert not said or said.endswith(f"chmod 600 {home / '.env'}")

"""Every setting once: environment name, default, unit, check.

A value comes from the environment, else from `.env` in the project's home, else from the
default here. The environment name is the field's name in capitals.
"""

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from agent0.command import USAGE, CouncilError

ROOT = Path(__file__).resolve().parent.parent
_SECRET = re.compile("(COUNCIL|UPSTREAM)_(API_KEY|URL|ENDPOINTS)")  # what they hold may be secret
_OUR_PREFIXES = ("COUNCIL_", "LORA_", "ROLLBACK_", "MONITOR_", "TRAIN_", "UPSTREAM_")


class Settings(BaseSettings):
    """The effective settings of one process; immutable once read."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_file_encoding="utf-8")

    # The seed's six.
    notification_webhook: SecretStr | None = Field(None, description="Slack, Discord or plain JSON webhook URL")
    min_failures_to_train: int = Field(5, ge=1, description="new examples needed before a training")
    lora_rank: int = Field(16, ge=1, le=256, description="LoRA rank")
    lora_alpha: int = Field(32, ge=1, le=1024, description="LoRA alpha")
    rollback_threshold_latency: float = Field(1000, gt=0, description="p95 latency that rolls back, ms")
    rollback_threshold_success: float = Field(0.85, gt=0, le=1, description="success rate below which it rolls back")

    # The seed's other constants, under their printed names.
    batch_size: int = Field(4, ge=1, le=1024, description="examples a forward pass in training")
    gradient_accumulation: int = Field(8, ge=1, le=1024, description="forward passes an optimiser step")
    learning_rate: float = Field(5e-5, gt=0, lt=1, description="peak learning rate")
    num_epochs: int = Field(3, ge=1, le=100, description="passes over the training data")
    replay_examples: int = Field(192, ge=0, description="general answers of the base model trained on beside the pool")
    train_recipe: Literal["adaptive", "seed"] = Field("adaptive", description="seed: the values above, literally")
    train_from: Literal["base", "current"] = Field("current", description="what a training goes on from")
    train_minutes: float = Field(240, gt=0, description="longest training, minutes; killed a tenth and 2 minutes later")
    monitor_duration: float = Field(60, gt=0, description="watch of a deployment, seconds")
    deploy_mode: Literal["canary", "direct"] = Field("canary", description="direct: serve at once, then watch")

    # Models.
    base_model: str = Field("embedded", min_length=1, description="hub id, local path, or the embedded model")
    embedding_model: str = Field("embedded", min_length=1, description="hub id, local path, or the embedded embedder")
    models_path: Path = Field(ROOT / "models", description="where the embedded model is converted to, once")

    # Places.
    council_home: Path = Field(
        ROOT, description="holds training_data, loras, logs, memory and .env; from the environment only"
    )
    memory_path: Path | None = Field(None, validate_default=True, description="the memory's folder")
    memory_url: SecretStr | None = Field(None, description="postgresql://… with pgvector: a memory that replicas share")
    knowledge_path: Path | None = Field(None, validate_default=True, description="texts that the council may quote")

    questions_path: Path = Field(ROOT / "examples", description="heldout, probes, general and replay .jsonl: yours")

    # Server.
    council_url: str = Field(
        "http://127.0.0.1:8000", pattern=r"^https?://[^/\s]+$", description="where the Council server answers"
    )
    council_api_key: SecretStr | None = Field(
        None, description="needed off loopback for anything that changes state; where set, everybody needs it"
    )
    council_allowed_hosts: str = Field(
        "", description="hosts that webhook and endpoints may reach by http or at private addresses, comma-separated"
    )
    confidence_threshold: float = Field(0.7, ge=0, lt=1, description="an answer succeeds above this confidence")
    max_batch: int = Field(8, ge=1, le=256, description="answers generated together")
    max_tokens: int = Field(256, ge=1, le=8192, description="answer length where a request names none, tokens")

    # Engine.
    engine: Literal["embedded", "upstream"] = Field(
        "embedded", description="who answers: this process, or UPSTREAM_URL"
    )
    upstream_url: str = Field("", pattern=r"^(https?://\S+)?$", description="an OpenAI-compatible server, as vLLM")
    upstream_model: str = Field("", description="the base model's name there, where it serves several")
    upstream_api_key: SecretStr | None = Field(None, description="sent to the upstream as bearer token")
    upstream_timeout: float = Field(45, gt=0, description="longest silence of the upstream, seconds")

    # Harvest and council.
    harvest_window: Literal["yesterday", "today"] = Field("yesterday", description="which local day is harvested")
    quality_threshold: float = Field(0.7, ge=0, le=1, description="heuristic score that an unproven rewrite needs")
    council_endpoints: str = Field("", description="OpenAI-compatible members: URL|model|KEY_VARIABLE, comma-separated")
    council_quorum: int = Field(2, ge=1, description="votes by others that an unproven rewrite needs")
    self_samples: int = Field(0, ge=0, le=64, description="answers asked of the served model in place of a proven text")
    council_timeout: float = Field(60, gt=0, description="one call to a council member, seconds")

    council_concurrency: int = Field(8, ge=1, le=256, description="calls to one council member at a time")
    repeat_seconds: float = Field(300, ge=0, description="asking again within it means that the answer failed, seconds")
    feedback_burst: int = Field(10, ge=1, description="complaints of one user in 10 minutes; more are quarantined")
    user_cap: int = Field(20, ge=1, description="unproven examples a day that one user's questions may become")
    question_cap: int = Field(3, ge=1, description="unproven examples a day that askings of one question may become")

    # Night.
    healthcheck_url: SecretStr | None = Field(None, description="dead man's switch, told of start, success, failure")
    alertmanager_url: SecretStr | None = Field(None, description="Alertmanager, told of what a person should look at")
    pushgateway_url: SecretStr | None = Field(None, description="Pushgateway that takes the figures of each night")
    metrics_textfile: Path | None = Field(None, description="the same as a file for node-exporter: FOLDER/council.prom")
    max_forgetting: float = Field(0.02, ge=0, le=1, description="share of what base knows that a release may lose")
    min_free_disk_gb: float = Field(2, ge=0, description="free disk needed before a training, GB")
    memory_days: int = Field(0, ge=0, description="records older than this are forgotten at night; 0: never")
    keep_releases: int = Field(5, ge=1, description="releases kept besides those in use")
    council_night: str = Field("", description="set by the nightly run: its id, so that one night tells once")
    council_log: str = Field("", description="set by the scripts: log files to append to, colon-separated")

    @field_validator("memory_path", "knowledge_path")
    @classmethod
    def _inside_home(cls, value: Path | None, info) -> Path:
        return value or info.data.get("council_home", ROOT) / info.field_name.removesuffix("_path")

    @field_validator("metrics_textfile")
    @classmethod
    def _textfile(cls, value: Path | None) -> Path | None:
        if value and (value.suffix != ".prom" or not value.parent.is_dir()):
            raise ValueError("it must be a .prom file in a folder that is there: node-exporter reads no other")
        return value

    @field_validator("council_api_key", "upstream_api_key", mode="before")
    @classmethod
    def _fits_a_header(cls, value: object) -> object:
        """A key from a file brings the file's newline; anything else that no header takes would end up in an error."""
        value = value.strip() if isinstance(value, str) else value
        if isinstance(value, str) and not (value.isascii() and value.isprintable()):
            raise ValueError("a key is one line of ASCII")
        return value

    @field_validator("council_url", "upstream_url")
    @classmethod
    def _holds_no_password(cls, value: str) -> str:
        if "@" in value:
            raise ValueError("a name or password in a URL ends up in logs; take it out")
        return value

    @field_validator("council_endpoints")
    @classmethod
    def _holds_no_key(cls, value: str) -> str:
        names = [name.strip() for entry in value.split(",") for name in entry.split("|")[2:3]]
        if not all(name in os.environ or re.fullmatch("[A-Z0-9_]*", name) for name in names):
            raise ValueError("what comes after the model is the NAME of a variable that holds the key, not the key")
        return value

    @property
    def training_data(self) -> Path:
        return self.council_home / "training_data"

    @property
    def loras(self) -> Path:
        return self.council_home / "loras"

    @property
    def logs(self) -> Path:
        return self.council_home / "logs"

    def public(self) -> dict:
        """The effective values as plain JSON types, secrets masked: to be saved beside what they made."""
        return self.model_dump(mode="json")


def home() -> Path:
    """COUNCIL_HOME, which only the environment names: known whatever else is wrong with the settings."""
    return Path(os.environ.get("COUNCIL_HOME") or ROOT)


def load_settings() -> Settings:
    """Read the settings afresh. Raises CouncilError (exit 2) that names the value, the rule and the fix."""
    unknown = [n for n in os.environ if n.startswith(_OUR_PREFIXES) and n.lower() not in Settings.model_fields]
    if unknown:
        raise CouncilError(f"{sorted(unknown)[0]} is not a setting; README lists them all: unset it", USAGE)
    env_file = home() / ".env"
    try:
        settings = Settings(_env_file=env_file)
    except ValidationError as error:
        raise CouncilError(_one_line(error, env_file), USAGE) from None
    if settings.council_home.resolve() != home().resolve():  # the scripts are in a home before anything reads .env
        raise CouncilError(f"COUNCIL_HOME in {env_file} comes too late: set it in the environment", USAGE)
    return settings


def _one_line(error: ValidationError, env_file: Path) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]).upper()
    if first["type"] == "extra_forbidden":
        return f"{name} in {env_file} is not a setting; README lists them all: remove it"
    told = "" if _SECRET.fullmatch(name) else f"={first['input']!r}"
    return f"{name}{told}: {first['msg']}; set it in the environment or in {env_file}"


def exposed_secret() -> str:
    """What to do where others can read a secret in .env, or ""."""
    file = home() / ".env"
    if not file.exists() or not file.stat().st_mode & 0o077:
        return ""
    given = get_settings()
    secrets = [n.upper() for n in dotenv_values(file) if isinstance(getattr(given, n.lower(), None), SecretStr)]
    return f"others on this machine can read {secrets[0]} in {file}: chmod 600 {file}" if secrets else ""


def as_given(name: str) -> str:
    """A setting's text as it was given, unchecked, or "": for what must work where another setting is bad."""
    saved = dotenv_values(home() / ".env")
    return (os.environ.get(name) or saved.get(name) or "").strip()


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()

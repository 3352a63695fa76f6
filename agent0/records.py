"""The records that flow through the loop, and how they are read from and written to JSON lines."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent0.command import CouncilError


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Question(Record):
    """A question of `examples/`; `answer` is None where it is open."""

    id: str
    kind: str
    question: str = Field(min_length=1)
    answer: str | None = None


class Answer(Record):
    """One answer of the Council server, as memory holds it. Times in unix seconds UTC, latency in ms."""

    id: str
    timestamp: float
    query: str
    response: str
    success: bool
    confidence: float = Field(ge=0, le=1)
    model: str
    adapter: str
    latency_ms: float = Field(ge=0)
    user: str | None = None
    feedback: dict | None = None
    failure_reason: str | None = None


Cause = Literal["flag", "feedback", "audit", "repetition"]


class Failure(Record):
    """An answer that must be rewritten, and why: marked by the model (flag) or the user (feedback), confident but
    proven wrong (audit), or asked again at once (repetition). `kind` is "open" where no exact check understands it."""

    answer: Answer
    cause: Cause
    kind: str = "open"


class Rewrite(Record):
    """What a council member proposes. `proof` names the exact method where the result is worked out, else None."""

    member: str
    reasoning: str
    output: str
    result: str | None = None
    kind: str = "open"
    proof: str | None = None


class TrainingExample(Record):
    """One line of training_data/harvest_YYYYMMDD.jsonl."""

    instruction: str = Field(min_length=1)
    input: str = ""
    output: str = Field(min_length=1)
    reasoning: str
    quality_score: float = Field(ge=0, le=1)
    harvest_timestamp: float
    id: str
    answer_id: str
    kind: str
    verified_by: str | None = None
    votes: dict[str, float] | None = None
    # positive: the answer's own wording, proven right; practice: a proven question with other numbers
    origin: Literal["rewrite", "positive", "replay", "practice"] = "rewrite"
    owner: str | None = None  # owner_of who asked: they can be forgotten even where memory has no such answer any more


def owner_of(user: str | None) -> str | None:
    """What an example knows its user by."""
    return user and sha256(user.encode()).hexdigest()[:16]


class Quarantined(Record):
    """One line of training_data/quarantine_YYYYMMDD.jsonl: what was refused, and why. Never trained on.

    Texts are scrubbed of personal data; where one held a secret, it is withheld.
    """

    answer_id: str
    timestamp: float
    user: str | None
    cause: Cause
    kind: str
    reason: str
    question: str
    output: str | None = None
    member: str | None = None
    verified_by: str | None = None
    votes: dict[str, float] | None = None


R = TypeVar("R", bound=Record)


def read_jsonl(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield each line of path as a `kind`. Raises CouncilError naming file, line and field."""
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "the line"
                raise CouncilError(f"{path}:{number}: {where}: {first['msg']}; mend or remove the line") from None


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write records to path, whole or not at all (temporary file, fsync, rename)."""
    write_atomic(path, "".join(record.model_dump_json() + "\n" for record in records))


def write_json(path: Path, value: dict) -> None:
    """Write one JSON object to path, whole or not at all."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_atomic(path: Path, text: str) -> None:
    """Replace path by text: a reader sees the old content or the new, a crash leaves one of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

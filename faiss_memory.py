"""The memory: every answer the Council gave, a question and its answer in one record.

SQLite (`memory.db`) holds the truth, or PostgreSQL where MEMORY_URL says so. The index of embeddings is derived from
it: `add` never waits for it, `query` makes it catch up, and it is rebuilt whenever it cannot be trusted. Threads may
share a FaissMemory, processes its folder, machines its PostgreSQL. `python -m agent0.memory` shows size and health,
searches, rebuilds, and forgets by rule.
"""

import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from numbers import Real
from pathlib import Path

from pydantic import Field, ValidationError

from agent0.command import USAGE, CouncilError, log
from agent0.records import Answer, Record
from agent0.settings import get_settings
from agent0.store import Database, open_store

METADATA = tuple(name for name in Answer.model_fields if name not in ("query", "feedback"))
FEW = 8  # questions embedded at a time beside other work: what a request that comes meanwhile waits for
TRY_AGAIN = 300  # seconds after embedding beside other work has failed


class Feedback(Record):
    """A user's verdict on one answer."""

    success: bool | None = None
    score: float | None = Field(None, ge=0, le=1)
    correction: str | None = Field(None, min_length=1)


class FaissMemory:
    """The memory in one folder (default: MEMORY_URL where it is set, else MEMORY_PATH).

    Bad input, an unusable database and an unusable embedder raise CouncilError.
    """

    def __init__(self, path: Path | str | None = None):
        self._database, self._index = open_store(path, lambda: load_embedder())
        self._closing = threading.Event()
        self.meta: Sequence[dict] = _Records(self._database)

    def add(self, query: str, metadata: Mapping) -> str:
        """Store one answer and return its id; it is on disk when this returns.

        `metadata` holds `response`, `success` or `confidence` or both, and where known the rest of METADATA.
        `timestamp` is unix seconds or a datetime (a naive one is local time); it defaults to now.
        """
        record = _answer(query, metadata).model_dump()
        if not self._database.add(record):
            raise CouncilError(f"id={record['id']!r} is taken; leave id out to get a new one", USAGE)
        return record["id"]

    def query(self, text: str, k: int = 5) -> list[dict]:
        """Return the k records whose questions are most like text, best first, each with `score` (cosine)."""
        _check_question(text)
        if type(k) is not int or k < 1:
            raise CouncilError(f"k={k!r:.80}: must be a whole number of records from 1; correct it", USAGE)
        if not self._database.newest():
            return []
        vector, wanted = self._index.embed(text), k
        while True:  # what was removed is only struck off here, and must not stand in the way of what is left
            hits = self._index.search(vector, wanted)
            found = [record | {"score": score} for seq, score in hits if (record := self._database.at(seq))]
            if len(found) >= k or len(hits) < wanted:
                return found[:k]
            wanted *= 4

    def get(self, id: str) -> dict | None:
        """Return the record of that id, or None."""
        return self._database.get(id)

    def between(self, since: float | datetime, until: float | datetime, success: bool | None = None) -> list[dict]:
        """Return the records with since <= timestamp < until, of that success where given, oldest first."""
        only = None if success is None else bool(success)
        return self._database.between(_seconds("since", since), _seconds("until", until), only)

    def judged(self, since: float | datetime, until: float | datetime) -> list[dict]:
        """Return the records whose newest verdict by feedback() was given in since <= time < until, oldest first."""
        return self._database.judged(_seconds("since", since), _seconds("until", until))

    def feedback(
        self, id: str, success: bool | None = None, score: float | None = None, correction: str | None = None
    ) -> None:
        """Store a user's verdict, which overrides `success`; what is given replaces what was given before.

        Without `success`, a score above CONFIDENCE_THRESHOLD is a success, and a correction alone a failure.
        Raises KeyError where the id is unknown.
        """
        given = _checked(Feedback, {"success": success, "score": score, "correction": correction})
        if given == Feedback():
            raise CouncilError("feedback is empty: give success, score or correction", USAGE)
        if success is None:
            success = score is not None and score > get_settings().confidence_threshold
        verdict = given.model_dump(exclude_none=True) | {"success": success, "timestamp": time.time()}
        if not self._database.judge(id, success, verdict):
            raise KeyError(id)

    def forget(self, before: float | datetime) -> int:
        """Remove the records with timestamp < before, from the index too, and return how many went."""
        gone = self._database.remove(_seconds("before", before))
        self._index.compact()
        return gone

    def remove(self, ids: Iterable[str]) -> int:
        """Remove the records of those ids for good, their bytes and the index's too, and return how many went."""
        gone = self._database.erase(ids)
        self._index.compact(0)
        return gone

    def embed(self) -> int:
        """Embed what was added since, and return how many questions are embedded now."""
        self._index.catch_up()
        return self._index.rows()

    def embed_in_background(self, idle: Callable[[], bool], pause: float = 5) -> threading.Thread:
        """Embed what was added, FEW questions at a time, as long as `idle()`, which is asked every `pause` seconds.

        The thread that does it is returned; it ends with close(), and uses one core.
        """
        thread = threading.Thread(target=self._keep_embedding, args=(idle, pause), name="embedding", daemon=True)
        thread.start()
        return thread

    def _keep_embedding(self, idle: Callable[[], bool], pause: float) -> None:
        while not self._closing.wait(pause):
            try:
                while idle() and not self._closing.is_set() and self._index.behind():
                    _use_one_core()
                    self._index.catch_up(batches=1, size=FEW)
            except CouncilError as error:
                if not self._closing.is_set():
                    log.warning("questions are not embedded, which is tried again: %s", error)
                self._closing.wait(TRY_AGAIN)

    def rebuild(self) -> None:
        """Embed every question afresh and save the index."""
        self._index.rebuild()

    def health(self) -> dict:
        """Return place, records, embedded, database_bytes, index_bytes, and `trouble`: what is wrong with it, or ""."""
        return {
            "place": self._database.name,
            "records": len(self.meta),
            "embedded": self._index.rows(),
            "database_bytes": self._database.size(),
            "index_bytes": self._index.size(),
            "trouble": self._database.trouble(),
        }

    def close(self) -> None:
        self._closing.set()
        self._database.close()


class _Records(Sequence):
    """All records in order of arrival, each read from the database when it is asked for."""

    def __init__(self, database: Database):
        self._database = database

    def __len__(self) -> int:
        return self._database.count()

    def __getitem__(self, where: int | slice):
        wanted = range(len(self))[where]
        positions = [wanted] if isinstance(wanted, int) else wanted
        first, count = min(positions, default=0), max(positions, default=-1) - min(positions, default=0) + 1
        rows = self._database.slice(first, count)
        records = [rows[position - first] for position in positions]
        return records if isinstance(where, slice) else records[0]

    def __iter__(self) -> Iterator[dict]:
        yield from self._database.records()


def load_embedder() -> Callable:
    """Return what turns n texts into float32 vectors (n, width) of length 1. Raises CouncilError if it cannot load."""
    from sentence_transformers import SentenceTransformer

    from agent0.models import embedder_path

    try:
        model = SentenceTransformer(embedder_path(), device="cpu", model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CouncilError(f"EMBEDDING_MODEL: {reason}; name a sentence-transformers folder or id") from error
    return partial(model.encode, normalize_embeddings=True, show_progress_bar=False)


def _use_one_core() -> None:
    """Let the calling thread compute alone; a team of its own would slow the engine down, see Engine._work."""
    import torch

    torch.set_num_threads(1)


def _answer(query: str, metadata: Mapping) -> Answer:
    _check_question(query)
    if not isinstance(metadata, Mapping):
        raise CouncilError(f"metadata={metadata!r:.80}: must be a mapping; give response, success, model, …", USAGE)
    if unknown := [name for name in metadata if name not in METADATA]:
        raise CouncilError(f"{unknown[0]!r:.80} is not a key of metadata: {', '.join(METADATA)}; rename it", USAGE)
    given = {name: value for name, value in metadata.items() if value is not None}
    if "success" not in given and "confidence" not in given:
        raise CouncilError("success is missing and confidence too: one must say how the answer did; give one", USAGE)
    confidence = given.setdefault("confidence", float(given.get("success") is True))
    given.setdefault("success", isinstance(confidence, Real) and confidence > get_settings().confidence_threshold)
    given["timestamp"] = _seconds("timestamp", given.get("timestamp", time.time()), limit=1e11)
    unknown = {"id": uuid.uuid4().hex, "model": "unknown", "adapter": "unknown", "latency_ms": 0}
    return _checked(Answer, unknown | given | {"query": query})


def _check_question(text: str) -> None:
    if not isinstance(text, str) or not text.strip() or text.encode(errors="ignore").decode() != text:
        raise CouncilError(f"query={text!r:.80}: must be Unicode text that is not empty; give the question", USAGE)


def _seconds(name: str, value: float | datetime, limit: float = math.inf) -> float:
    seconds = value.timestamp() if isinstance(value, datetime) else value
    if isinstance(seconds, bool) or not isinstance(seconds, Real) or not abs(seconds) <= limit:
        raise CouncilError(f"{name}={value!r:.80}: must be unix seconds or a datetime; correct it", USAGE)
    return float(seconds)


def _checked(kind: type[Record], values: dict) -> Record:
    try:
        return kind.model_validate(values, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name, missing = first["loc"][0], first["type"] == "missing"
        value = " is missing" if missing else f"={first['input']!r:.80}"
        raise CouncilError(f"{name}{value}: {first['msg']}; {'give' if missing else 'correct'} it", USAGE) from None

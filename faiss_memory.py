"""The memory: every answer the Council gave, a question and its answer in one record.

SQLite (`memory.db`) holds the truth. FAISS (`index.faiss`) is derived from it: `add` never waits for it, `query` makes
it catch up, and it is rebuilt whenever it cannot be trusted. Threads may share a FaissMemory, processes its folder.
"""

import fcntl
import hashlib
import json
import math
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property, partial
from numbers import Real
from pathlib import Path

from pydantic import Field, ValidationError

from agent0.command import USAGE, CouncilError
from agent0.records import Answer, Record, sync_folder
from agent0.settings import get_settings

SCHEMA_VERSION = 1
SCHEMA = f"""
CREATE TABLE answers (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of arrival, and the row's number in the FAISS index
    id TEXT NOT NULL UNIQUE, timestamp REAL NOT NULL, query TEXT NOT NULL, response TEXT NOT NULL,
    success INTEGER NOT NULL, confidence REAL NOT NULL, model TEXT NOT NULL, adapter TEXT NOT NULL,
    latency_ms REAL NOT NULL, user TEXT, feedback TEXT, failure_reason TEXT
);
CREATE TABLE saved_index (one INTEGER PRIMARY KEY, embedder TEXT, rows INTEGER, last INTEGER, sha256 TEXT);
CREATE INDEX answers_by_time ON answers (timestamp);
CREATE INDEX answers_by_success_and_time ON answers (success, timestamp);
PRAGMA user_version = {SCHEMA_VERSION};
PRAGMA journal_mode = WAL;
"""
FIELDS = tuple(Answer.model_fields)
METADATA = tuple(name for name in FIELDS if name not in ("query", "feedback"))
SELECT = f"SELECT seq, {', '.join(FIELDS)} FROM answers"
INSERT = f"INSERT INTO answers ({', '.join(FIELDS)}) VALUES ({', '.join('?' * len(FIELDS))})"
PAGE = 256  # rows read, or questions embedded, at a time


class Feedback(Record):
    """A user's verdict on one answer."""

    success: bool | None = None
    score: float | None = Field(None, ge=0, le=1)
    correction: str | None = Field(None, min_length=1)


class FaissMemory:
    """The memory in one folder (default: MEMORY_PATH).

    Bad input, an unusable database and an unusable embedder raise CouncilError.
    """

    def __init__(self, path: Path | str | None = None):
        folder = Path(path or get_settings().memory_path).resolve()
        self._database = _Database(folder)
        self._index = _Index(folder, self._database)
        self.meta: Sequence[dict] = _Records(self._database)

    def add(self, query: str, metadata: Mapping) -> str:
        """Store one answer and return its id; it is on disk when this returns.

        `metadata` holds `response`, `success` or `confidence` or both, and where known the rest of METADATA.
        `timestamp` is unix seconds or a datetime (a naive one is local time); it defaults to now.
        """
        record = _answer(query, metadata).model_dump()
        try:
            self._database.run(INSERT, *record.values())
        except sqlite3.IntegrityError:
            raise CouncilError(f"id={record['id']!r} is taken; leave id out to get a new one", USAGE) from None
        return record["id"]

    def query(self, text: str, k: int = 5) -> list[dict]:
        """Return the k records whose questions are most like text, best first, each with `score` (cosine)."""
        _check_question(text)
        if type(k) is not int or k < 1:
            raise CouncilError(f"k={k!r:.80}: must be a whole number of records from 1; correct it", USAGE)
        hits = self._index.search(text, k) if len(self.meta) else []
        found = [(self._database.run(f"{SELECT} WHERE seq = ?", seq), score) for seq, score in hits]
        return [{**_record(row), "score": score} for rows, score in found for row in rows]

    def get(self, id: str) -> dict | None:
        """Return the record of that id, or None."""
        rows = self._database.run(f"{SELECT} WHERE id = ?", id)
        return _record(rows[0]) if rows else None

    def between(self, since: float | datetime, until: float | datetime, success: bool | None = None) -> list[dict]:
        """Return the records with since <= timestamp < until, of that success where given, oldest first."""
        span = [_seconds("since", since), _seconds("until", until)]
        only, values = ("", span) if success is None else ("success = ? AND", [bool(success), *span])
        where = f"WHERE {only} timestamp >= ? AND timestamp < ? ORDER BY timestamp, seq"
        return [_record(row) for row in self._database.run(f"{SELECT} {where}", *values)]

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
        merge = "UPDATE answers SET success = ?, feedback = json_patch(coalesce(feedback, '{}'), ?) WHERE id = ?"
        if not self._database.run(f"{merge} RETURNING id", success, json.dumps(verdict, ensure_ascii=False), id):
            raise KeyError(id)

    def rebuild(self) -> None:
        """Embed every question afresh and save the index."""
        self._index.rebuild()

    def close(self) -> None:
        self._database.close()

    def remove(self, ids: Iterable[str]) -> int:
        """Remove the records of those ids for good, their bytes on disk and the index too; return how many went."""
        gone = sum(len(self._database.run("DELETE FROM answers WHERE id = ? RETURNING id", id)) for id in set(ids))
        if gone:
            self._database.run("VACUUM")  # else the bytes stay in free pages and in the log of writes
            self._database.run("PRAGMA wal_checkpoint(TRUNCATE)")
            self._index.file.unlink(missing_ok=True)
        return gone


class _Records(Sequence):
    """All records in order of arrival, each read from the database when it is asked for."""

    def __init__(self, database: "_Database"):
        self._database = database

    def __len__(self) -> int:
        return self._database.run("SELECT count(*) FROM answers")[0][0]

    def __getitem__(self, where: int | slice):
        wanted = range(len(self))[where]
        positions = [wanted] if isinstance(wanted, int) else wanted
        first, count = min(positions, default=0), max(positions, default=-1) - min(positions, default=0) + 1
        rows = self._database.run(f"{SELECT} ORDER BY seq LIMIT ? OFFSET ?", count, first)
        records = [_record(rows[position - first]) for position in positions]
        return records if isinstance(where, slice) else records[0]

    def __iter__(self) -> Iterator[dict]:
        for page in self._database.pages():
            yield from map(_record, page)


class _Database:
    """One connection to memory.db, which is born whole and never recreated; every write is durable."""

    def __init__(self, folder: Path):
        self.file, self._lock = folder / "memory.db", threading.Lock()
        with self._explained():
            folder.mkdir(parents=True, exist_ok=True)
            if not self.file.exists():
                self._create()
            if not self.file.stat().st_size:  # SQLite would take an emptied file for a new database
                raise sqlite3.DatabaseError("file is empty")
            uri = f"{self.file.as_uri()}?mode=rw"
            self._connection = sqlite3.connect(uri, 30, isolation_level=None, check_same_thread=False, uri=True)
            self._connection.row_factory = sqlite3.Row
        self.run("PRAGMA synchronous = FULL")
        if (version := self.run("PRAGMA user_version")[0][0]) != SCHEMA_VERSION:
            raise CouncilError(f"{self.file} has schema {version}, not {SCHEMA_VERSION}; point MEMORY_PATH elsewhere")

    def _create(self) -> None:
        """Make the database under a name of its own, then link it into place unless another process was first."""
        if (stray := Path(f"{self.file}-wal")).exists() and not self.file.exists():
            raise CouncilError(f"{self.file} is gone but {stray.name} is not; restore the one or move the other away")
        new = self.file.with_name(f".{uuid.uuid4().hex}.db")
        connection = sqlite3.connect(new)
        connection.executescript(SCHEMA)
        connection.close()
        with suppress(FileExistsError):
            os.link(new, self.file)
        new.unlink()
        sync_folder(self.file.parent)

    def run(self, statement: str, *values) -> list[sqlite3.Row]:
        """Run one statement, which is one transaction, and return its rows."""
        with self._lock, self._explained():
            return self._connection.execute(statement, values).fetchall()

    def pages(self, after: int = 0) -> Iterator[list[sqlite3.Row]]:
        """Yield the rows with seq > after, PAGE at a time."""
        while page := self.run(f"{SELECT} WHERE seq > ? ORDER BY seq LIMIT ?", after, PAGE):
            yield page
            after = page[-1]["seq"]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except UnicodeEncodeError as error:
            raise CouncilError(f"{error.object!r:.80}: must be Unicode text; remove its surrogates", USAGE) from None
        except (sqlite3.OperationalError, OSError) as error:
            fix = "check that its folder is a folder, ours and not full, and that nothing keeps it locked"
            raise CouncilError(f"{self.file}: {error}; {fix}") from error
        except sqlite3.DatabaseError as error:
            fix = "restore it from a backup, or move it and its -wal file away to begin a new memory"
            raise CouncilError(f"{self.file} is damaged ({error}); {fix}") from error


class _Index:
    """Normalised embeddings of the questions, numbered by `seq`; the inner product of two is their cosine.

    Table `saved_index` says what index.faiss holds and who embedded it: a file that differs is not used.
    """

    def __init__(self, folder: Path, database: _Database):
        self.file, self._database, self._lock = folder / "index.faiss", database, threading.Lock()
        self._faiss, self._last, self._embedder = None, 0, get_settings().embedding_model

    @cached_property
    def _embed(self) -> Callable:
        return load_embedder()

    def search(self, text: str, k: int) -> list[tuple[int, float]]:
        """Return (seq, cosine) of the k nearest questions, best first."""
        with self._lock:
            self._catch_up()
            scores, numbers = self._faiss.search(self._embed([text]), min(k, self._faiss.ntotal))
        return list(zip(numbers[0].tolist(), scores[0].tolist(), strict=True))

    def rebuild(self) -> None:
        with self._lock:
            self.file.unlink(missing_ok=True)
            self._faiss = None
            self._catch_up()

    def _catch_up(self) -> None:
        """Embed the rows that the index lacks, one process at a time: the next one loads what this one saved."""
        newest = self._database.run("SELECT coalesce(max(seq), 0) FROM answers")[0][0]
        if self._faiss and newest == self._last and self._covers(newest, self._faiss.ntotal):
            return
        import numpy

        with open(self.file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file, or dying, releases it
            saved = self._load()
            for page in self._database.pages(self._last):
                vectors = self._embed([row["query"] for row in page])
                self._faiss.add_with_ids(vectors, numpy.array([row["seq"] for row in page]))
                self._last = page[-1]["seq"]
                if (self._faiss.ntotal - saved) * 10 >= self._faiss.ntotal:  # a save writes all: wait for a tenth
                    saved = self._save()

    def _covers(self, last: int, rows: int) -> bool:
        """Whether `rows` is every row up to `last`: none was removed since."""
        return self._database.run("SELECT count(*) FROM answers WHERE seq <= ?", last)[0][0] == rows

    def _load(self) -> int:
        """Take the saved index if it is sound and ahead of the one held; return how many rows are safely saved."""
        import faiss

        if self._faiss is None or not self._covers(self._last, self._faiss.ntotal):
            self._faiss, self._last = faiss.IndexIDMap(faiss.IndexFlatIP(self._embed(["?"]).shape[1])), 0
        saved = self._database.run("SELECT rows, last, sha256 FROM saved_index WHERE embedder = ?", self._embedder)
        if not saved or not self.file.exists() or not self._covers(saved[0]["last"], saved[0]["rows"]):
            return 0
        rows, last, digest = saved[0]
        if last > self._last:
            if hashlib.sha256(self.file.read_bytes()).hexdigest() != digest:
                return 0
            self._faiss, self._last = faiss.read_index(str(self.file)), last
        return rows

    def _save(self) -> int:
        import faiss

        content, rows = faiss.serialize_index(self._faiss).tobytes(), self._faiss.ntotal
        new = self.file.with_suffix(".new")
        new.write_bytes(content)
        os.replace(new, self.file)
        stamp = self._embedder, rows, self._last, hashlib.sha256(content).hexdigest()
        self._database.run("INSERT OR REPLACE INTO saved_index VALUES (1, ?, ?, ?, ?)", *stamp)
        return rows


def load_embedder() -> Callable:
    """Return what turns n texts into float32 vectors (n, width) of length 1. Raises CouncilError if it cannot load."""
    from sentence_transformers import SentenceTransformer

    from agent0.models import embedder_path

    try:
        model = SentenceTransformer(embedder_path(), device="cpu")
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CouncilError(f"EMBEDDING_MODEL: {reason}; name a sentence-transformers folder or id") from error
    return partial(model.encode, normalize_embeddings=True, show_progress_bar=False)


def _record(row: sqlite3.Row) -> dict:
    feedback = row["feedback"] and json.loads(row["feedback"])
    return {name: row[name] for name in FIELDS} | {"success": bool(row["success"]), "feedback": feedback}


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

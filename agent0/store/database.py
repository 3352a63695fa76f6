"""The memory's SQLite file: one durable transaction for all writers that wait, fair between threads and processes."""

import fcntl
import json
import os
import sqlite3
import threading
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent0.command import USAGE, CouncilError
from agent0.records import Answer, sync_folder

SCHEMA_VERSION = 1
JUDGED = "json_extract(feedback, '$.timestamp')"
SCHEMA = f"""
PRAGMA auto_vacuum = INCREMENTAL;
CREATE TABLE answers (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of arrival, and the row's number in the index of embeddings
    id TEXT NOT NULL UNIQUE, timestamp REAL NOT NULL, query TEXT NOT NULL, response TEXT NOT NULL,
    success INTEGER NOT NULL, confidence REAL NOT NULL, model TEXT NOT NULL, adapter TEXT NOT NULL,
    latency_ms REAL NOT NULL, user TEXT, feedback TEXT, failure_reason TEXT
);
CREATE INDEX answers_by_time ON answers (timestamp);
CREATE INDEX answers_by_success_and_time ON answers (success, timestamp);
CREATE INDEX answers_by_verdict ON answers ({JUDGED}) WHERE feedback IS NOT NULL;
PRAGMA user_version = {SCHEMA_VERSION};
PRAGMA journal_mode = WAL;
"""
FIELDS = tuple(Answer.model_fields)
SELECT = f"SELECT seq, {', '.join(FIELDS)} FROM answers"
INSERT = f"INSERT INTO answers ({', '.join(FIELDS)}) VALUES ({', '.join('?' * len(FIELDS))})"
JUDGE = "UPDATE answers SET success = ?, feedback = json_patch(coalesce(feedback, '{}'), ?) WHERE id = ? RETURNING id"
PAGE = 256  # rows read, embedded or removed at a time
CHECKPOINT_EVERY = 250  # written rows after which the log is copied into the database, beside the writers
_GIVE_BACK = 256  # pages given back to the file system in one transaction


class _Write:
    """One statement that waits for its transaction, and what came of it."""

    def __init__(self, statement: str, values: tuple):
        self.statement, self.values = statement, values
        self.rows: list[sqlite3.Row] = []
        self.error: Exception | None = None
        self.done = False


class Database:
    """One connection to memory.db, which is born whole and never recreated.

    `write` is durable when it returns: SQLite appends to its log without waiting for the disk (synchronous = NORMAL),
    and then the log is synced here, after the lock is released, so that the disk syncs for many writers at a time.
    """

    def __init__(self, folder: Path):
        self.name = str(folder)
        self.file, self._lock, self._turn = folder / "memory.db", threading.Lock(), threading.Lock()
        self._waiting: deque[_Write] = deque()
        self._written, self._log, self._closed = 0, -1, False
        with self._explained():
            make_private(folder)
            if not self.file.exists():
                self._create()
            if not self.file.stat().st_size:  # SQLite would take an emptied file for a new database
                raise sqlite3.DatabaseError("file is empty")
            self._connection = self._connect()
            self._queue = os.open(f"{self.file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if (version := self.run("PRAGMA user_version")[0][0]) != SCHEMA_VERSION:
            raise CouncilError(f"{self.file} has schema {version}, not {SCHEMA_VERSION}; point MEMORY_PATH elsewhere")

    def _connect(self) -> sqlite3.Connection:
        uri = f"{self.file.as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, 30, isolation_level=None, check_same_thread=False, uri=True)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA secure_delete = ON")  # what is forgotten, or moves on a page, leaves no bytes
        return connection

    def _create(self) -> None:
        """Make the database under a name of its own, then link it into place unless another process was first."""
        if (stray := Path(f"{self.file}-wal")).exists() and not self.file.exists():
            raise CouncilError(f"{self.file} is gone but {stray.name} is not; restore the one or move the other away")
        new = self.file.with_name(f".{uuid.uuid4().hex}.db")
        new.touch(0o600)  # SQLite gives its log and shared memory the same mode
        connection = sqlite3.connect(new)
        connection.executescript(SCHEMA)
        connection.close()
        with suppress(FileExistsError):
            os.link(new, self.file)
        new.unlink()
        sync_folder(self.file.parent)

    # What both engines of the memory offer: agent0/store/postgres.py is the other.

    def add(self, record: dict) -> bool:
        """Store a record durably; False where its id is taken."""
        try:
            self.write(INSERT, *record.values())
        except sqlite3.IntegrityError:
            return False
        return True

    def get(self, id: str) -> dict | None:
        """Return the record of that id, or None."""
        return _first(self.run(f"{SELECT} WHERE id = ?", id))

    def at(self, seq: int) -> dict | None:
        """Return the record with that seq, or None where it was removed."""
        return _first(self.run(f"{SELECT} WHERE seq = ?", seq))

    def between(self, since: float, until: float, success: bool | None) -> list[dict]:
        """Return the records with since <= timestamp < until, of that success where given, oldest first."""
        only, values = ("", [since, until]) if success is None else ("success = ? AND", [success, since, until])
        where = f"WHERE {only} timestamp >= ? AND timestamp < ? ORDER BY timestamp, seq"
        return [as_record(row) for row in self.run(f"{SELECT} {where}", *values)]

    def judged(self, since: float, until: float) -> list[dict]:
        """Return the records whose newest verdict has since <= timestamp < until, oldest first."""
        where = f"WHERE feedback IS NOT NULL AND {JUDGED} >= ? AND {JUDGED} < ? ORDER BY timestamp, seq"
        return [as_record(row) for row in self.run(f"{SELECT} {where}", since, until)]

    def judge(self, id: str, success: bool, verdict: dict) -> bool:
        """Store a verdict over the parts of one that was given before; False where the id is unknown."""
        return bool(self.write(JUDGE, success, json.dumps(verdict, ensure_ascii=False), id))

    def count(self) -> int:
        return self.run("SELECT count(*) FROM answers")[0][0]

    def slice(self, first: int, count: int) -> list[dict]:
        """Return `count` records from position `first` on, in order of arrival."""
        return [as_record(row) for row in self.run(f"{SELECT} ORDER BY seq LIMIT ? OFFSET ?", count, first)]

    def records(self) -> Iterator[dict]:
        """Yield every record in order of arrival, PAGE in memory at a time."""
        for page in self.pages():
            yield from map(as_record, page)

    def size(self) -> int:
        """Bytes of the file and its log."""
        return sum(path.stat().st_size for path in self.file.parent.glob(f"{self.file.name}*"))

    # What SQLite is asked.

    def run(self, statement: str, *values) -> list[sqlite3.Row]:
        """Run one statement that reads, and return its rows."""
        with self._lock, self._explained():
            return self._connection.execute(statement, values).fetchall()

    def write(self, statement: str, *values) -> list[sqlite3.Row]:
        """Run one statement that writes, and return its rows; it is on disk when this returns.

        The first thread that gets its turn writes for all that wait, in one transaction.
        """
        mine = _Write(statement, values)
        self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                self._commit([self._waiting.popleft() for _ in range(len(self._waiting))])
        if mine.error:
            with self._explained():
                raise mine.error
        return mine.rows

    def _commit(self, group: list[_Write]) -> None:
        try:
            with self._lock, self._in_line():
                self._transact(group)
            self._sync()
        except Exception as error:
            for write in group:
                write.error = write.error or error
        for write in group:
            write.done = True
        self._written += len(group)
        if self._written >= CHECKPOINT_EVERY:
            self._written = 0
            threading.Thread(target=self._checkpoint, daemon=True).start()

    @contextmanager
    def _in_line(self) -> Iterator[None]:
        """Wait in the kernel's queue of processes; SQLite's own way of waiting polls, and lets the late go first."""
        fcntl.flock(self._queue, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._queue, fcntl.LOCK_UN)

    def _transact(self, group: list[_Write]) -> None:
        """One transaction for the group; a statement that SQLite refuses (an id that is taken) fails alone."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for write in group:
                try:
                    write.rows = self._connection.execute(write.statement, write.values).fetchall()
                except (sqlite3.IntegrityError, sqlite3.ProgrammingError, UnicodeEncodeError) as error:
                    write.error = error
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _sync(self) -> None:
        """Make the log durable; it is one file as long as this connection is open, and a checkpoint syncs by itself."""
        if self._log < 0:
            self._log = os.open(f"{self.file}-wal", os.O_RDONLY | os.O_CLOEXEC)
            sync_folder(self.file.parent)
        os.fdatasync(self._log)

    def _checkpoint(self) -> None:
        """Copy the log into the database through a connection of its own, which no writer waits for.

        Then once more with the writers waiting for the little that came meanwhile: so the log begins anew. In a file
        that does not grow, a sync costs the disk least.
        """
        with suppress(sqlite3.Error, CouncilError), self._explained():  # the log only stays longer, and whole
            connection = self._connect()
            try:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                with self._turn, self._in_line():
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            finally:
                connection.close()

    def pages(self, after: int = 0, size: int | None = None) -> Iterator[list[sqlite3.Row]]:
        """Yield the rows with seq > after, `size` (or PAGE) at a time."""
        while page := self.run(f"{SELECT} WHERE seq > ? ORDER BY seq LIMIT ?", after, size or PAGE):
            yield page
            after = page[-1]["seq"]

    def newest(self) -> int:
        """The highest seq, 0 where there is none."""
        return self.run("SELECT coalesce(max(seq), 0) FROM answers")[0][0]

    def remove(self, before: float) -> int:
        """Remove the records with timestamp < before, PAGE at a time, and give their room back; return how many."""
        some = "DELETE FROM answers WHERE seq IN (SELECT seq FROM answers WHERE timestamp < ? LIMIT ?) RETURNING seq"
        gone = 0
        while rows := self.write(some, before, PAGE):
            gone += len(rows)
        while (free := self.run("PRAGMA freelist_count")[0][0]) and self._gives_back():
            self.write(f"PRAGMA incremental_vacuum({min(free, _GIVE_BACK)})")
        return gone

    def erase(self, ids: Iterable[str]) -> int:
        """Remove the records of those ids and overwrite their bytes, in the log of writes too; return how many went."""
        gone = sum(len(self.write("DELETE FROM answers WHERE id = ? RETURNING id", id)) for id in set(ids))
        with self._turn, self._in_line():
            self.run("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    def _gives_back(self) -> bool:
        """A database that older versions made keeps its free pages, and fills them again."""
        return self.run("PRAGMA auto_vacuum")[0][0] == 2

    def trouble(self) -> str:
        """What SQLite finds wrong with the file and its indexes; empty where it is sound."""
        found = [row[0] for row in self.run("PRAGMA quick_check(3)")]
        return "" if found == ["ok"] else "; ".join(" ".join(text.split()) for text in found)

    def close(self) -> None:
        with self._turn, self._lock:
            self._connection.close()
            if not self._closed:
                os.close(self._queue)
                if self._log >= 0:
                    os.close(self._log)
            self._closed = True

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


def _first(rows: list[sqlite3.Row]) -> dict | None:
    return as_record(rows[0]) if rows else None


def as_record(row: sqlite3.Row) -> dict:
    """Return a row as a memory record."""
    feedback = row["feedback"] and json.loads(row["feedback"])
    return {name: row[name] for name in FIELDS} | {"success": bool(row["success"]), "feedback": feedback}


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may look into; one that is there keeps the mode that its owner gave it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file")

"""What members behind endpoints said, kept under what they were asked: a harvest that is killed pays for it once."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from agent0.command import CouncilError

KEEP_DAYS = 14  # as far back as a harvest catches up; after that a member may have learned better
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers (asked TEXT PRIMARY KEY, said TEXT, timestamp REAL NOT NULL) WITHOUT ROWID"
)


class Answers:
    """A small SQLite file that threads and processes may share. Raises CouncilError where it cannot be used."""

    def __init__(self, path: Path):
        self.path, self._lock = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(0o600)
            self._connection = sqlite3.connect(path, 30, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", _SCHEMA):
            self._run(statement)
        self._run("DELETE FROM answers WHERE timestamp < ?", time.time() - KEEP_DAYS * 86400)

    def recall(self, asked: object, call: Callable[[], str | None]) -> str | None:
        """Return what was said when the same was asked before; else call, and keep its answer before it is returned.

        `asked` is anything that JSON can write. An exception of call keeps nothing.
        """
        key = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        if known := self._run("SELECT said FROM answers WHERE asked = ?", key):
            return known[0][0]
        said = call()
        self._run("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", key, said, time.time())
        return said

    def __len__(self) -> int:
        return self._run("SELECT count(*) FROM answers")[0][0]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _run(self, statement: str, *values: object) -> list[tuple]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> CouncilError:
        return CouncilError(f"{self.path}: {error}; check its folder and disk, or move it away: it only saves calls")

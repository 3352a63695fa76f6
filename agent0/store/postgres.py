"""The memory in PostgreSQL, with pgvector, for several servers: the same promises as database.py and index.py keep."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property

from psycopg import Connection, Error, conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

from agent0.command import USAGE, CouncilError
from agent0.settings import get_settings
from agent0.store.database import FIELDS, PAGE

SCHEMA = """
SELECT pg_advisory_xact_lock(hashtext('council schema'));
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS answers (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE, timestamp DOUBLE PRECISION NOT NULL, query TEXT NOT NULL, response TEXT NOT NULL,
    success BOOLEAN NOT NULL, confidence DOUBLE PRECISION NOT NULL, model TEXT NOT NULL, adapter TEXT NOT NULL,
    latency_ms DOUBLE PRECISION NOT NULL, "user" TEXT, feedback JSONB, failure_reason TEXT
);
CREATE INDEX IF NOT EXISTS answers_by_time ON answers (timestamp);
CREATE INDEX IF NOT EXISTS answers_by_success_and_time ON answers (success, timestamp);
CREATE INDEX IF NOT EXISTS answers_by_verdict ON answers (((feedback ->> 'timestamp')::double precision));
CREATE TABLE IF NOT EXISTS embeddings (
    seq BIGINT NOT NULL REFERENCES answers ON DELETE CASCADE, embedder TEXT NOT NULL, vector vector NOT NULL,
    PRIMARY KEY (seq, embedder)
);
"""
COLUMNS = ", ".join(f'"{name}"' for name in FIELDS)
SELECT = f"SELECT seq, {COLUMNS} FROM answers"
INSERT = f"INSERT INTO answers ({COLUMNS}) VALUES ({', '.join(['%s'] * len(FIELDS))})"
JUDGE = "UPDATE answers SET success = %s, feedback = coalesce(feedback, '{}') || %s WHERE id = %s RETURNING id"
BEHIND = "NOT EXISTS (SELECT FROM embeddings e WHERE e.seq = answers.seq AND e.embedder = %s)"
NEAREST = """SELECT seq, -(vector <#> %(to)s::vector) AS score FROM embeddings WHERE embedder = %(by)s
ORDER BY vector <#> %(to)s::vector, seq LIMIT %(k)s"""
PATIENCE = 5  # seconds that an answer waits for a PostgreSQL that is away


class PostgresDatabase:
    """The records in one PostgreSQL database. Its errors become CouncilErrors, which never show the URL's password."""

    def __init__(self, url: str):
        parts = _parts(url)
        self._url, self.name = url, f"postgresql://{parts.get('host', '')}/{parts.get('dbname', '')}"
        with self._explained(), Connection.connect(url, connect_timeout=PATIENCE) as connection:
            connection.execute(SCHEMA)
        self._pool = ConnectionPool(
            url,
            name="memory",
            min_size=1,
            max_size=4,
            open=True,
            timeout=PATIENCE,
            kwargs={"row_factory": dict_row, "connect_timeout": PATIENCE},
            configure=_durable,
            check=ConnectionPool.check_connection,  # a PostgreSQL that was restarted costs no answer
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection; what is done with it is durable after the block."""
        with self._explained(), self._pool.connection() as connection:
            yield connection

    def run(self, statement: str, *values) -> list[dict]:
        """Run one statement in a transaction of its own and return its rows."""
        with self.transaction() as connection:
            done = connection.execute(statement, values)
            return done.fetchall() if done.description else []

    def add(self, record: dict) -> bool:
        values = [_storable(value) for value in record.values()]
        return bool(self.run(f"{INSERT} ON CONFLICT (id) DO NOTHING RETURNING seq", *values))

    def get(self, id: str) -> dict | None:
        return next(map(_as_record, self.run(f"{SELECT} WHERE id = %s", _storable(id))), None)

    def at(self, seq: int) -> dict | None:
        return next(map(_as_record, self.run(f"{SELECT} WHERE seq = %s", seq)), None)

    def between(self, since: float, until: float, success: bool | None) -> list[dict]:
        only, values = ("", [since, until]) if success is None else ("success = %s AND", [success, since, until])
        where = f"WHERE {only} timestamp >= %s AND timestamp < %s ORDER BY timestamp, seq"
        return [_as_record(row) for row in self.run(f"{SELECT} {where}", *values)]

    def judged(self, since: float, until: float) -> list[dict]:
        given = "(feedback ->> 'timestamp')::double precision"
        where = f"WHERE {given} >= %s AND {given} < %s ORDER BY timestamp, seq"
        return [_as_record(row) for row in self.run(f"{SELECT} {where}", since, until)]

    def judge(self, id: str, success: bool, verdict: dict) -> bool:
        return bool(self.run(JUDGE, success, _storable(verdict), _storable(id)))

    def count(self) -> int:
        return self.run("SELECT count(*) AS n FROM answers")[0]["n"]

    def slice(self, first: int, count: int) -> list[dict]:
        return [_as_record(row) for row in self.run(f"{SELECT} ORDER BY seq LIMIT %s OFFSET %s", count, first)]

    def records(self) -> Iterator[dict]:
        after = 0
        while page := self.run(f"{SELECT} WHERE seq > %s ORDER BY seq LIMIT %s", after, PAGE):
            yield from map(_as_record, page)
            after = page[-1]["seq"]

    def newest(self) -> int:
        return self.run("SELECT coalesce(max(seq), 0) AS seq FROM answers")[0]["seq"]

    def remove(self, before: float) -> int:
        return len(self.run("DELETE FROM answers WHERE timestamp < %s RETURNING seq", before))

    def erase(self, ids: Iterable[str]) -> int:
        """Remove records, and their bytes from the tables; the server's own log and backups are its keeper's."""
        gone = len(self.run("DELETE FROM answers WHERE id = ANY(%s) RETURNING seq", list(map(_storable, ids))))
        with self._explained(), Connection.connect(self._url, autocommit=True) as connection:
            connection.execute("VACUUM (FULL) answers, embeddings")
        return gone

    def size(self) -> int:
        return self.run("SELECT pg_total_relation_size('answers') AS n")[0]["n"]

    def trouble(self) -> str:
        """What PostgreSQL knows to be wrong with its pages; it knows only where data checksums are on."""
        found = self.run("SELECT checksum_failures AS n FROM pg_stat_database WHERE datname = current_database()")
        return f"{found[0]['n']} pages with a wrong checksum" if found[0]["n"] else ""

    def close(self) -> None:
        self._pool.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise CouncilError(f"{error.object!r:.80}: must be Unicode text; remove its surrogates", USAGE) from None
        except Error as error:
            fix = "check that MEMORY_URL leads to a PostgreSQL that runs, with pgvector, and lets this user in"
            raise CouncilError(f"{self.name}: {' '.join(str(error).split())}; {fix}") from None


class PostgresIndex:
    """The embeddings of all replicas; each embedder sees its own, so that a new one never meets the old one's."""

    def __init__(self, database: PostgresDatabase, load_embedder: Callable[[], Callable]):
        self._database, self._load_embedder = database, load_embedder
        self._lock, self._embedder = threading.Lock(), get_settings().embedding_model

    @cached_property
    def _embed(self) -> Callable:
        return self._load_embedder()

    def embed(self, text: str):
        with self._lock:
            return self._embed([text])[0]

    def search(self, vector, k: int) -> list[tuple[int, float]]:
        """Return (seq, cosine) of the k nearest questions, best first: exact, after catching up."""
        self.catch_up()
        with self._database.transaction() as connection:
            rows = connection.execute(NEAREST, {"to": _literal(vector), "by": self._embedder, "k": k}).fetchall()
        return [(row["seq"], row["score"]) for row in rows]

    def catch_up(self, batches: int | None = None, size: int | None = None) -> None:
        with self._lock:
            while (batches is None or batches > 0) and self._embed_some(size or PAGE):
                batches = batches and batches - 1

    def _embed_some(self, size: int) -> int:
        """Embed up to `size` questions, one replica at a time, in one transaction; return how many."""
        with self._database.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"embeddings of {self._embedder}"])
            wanted = f"SELECT seq, query FROM answers WHERE {BEHIND} ORDER BY seq LIMIT %s FOR KEY SHARE"
            rows = connection.execute(wanted, [self._embedder, size]).fetchall()
            if rows:
                vectors = self._embed([_given(row["query"]) for row in rows])
                values = [
                    (row["seq"], self._embedder, _literal(vector)) for row, vector in zip(rows, vectors, strict=True)
                ]
                connection.cursor().executemany("INSERT INTO embeddings VALUES (%s, %s, %s)", values)
        return len(rows)

    def behind(self) -> bool:
        return bool(self._database.run(f"SELECT seq FROM answers WHERE {BEHIND} LIMIT 1", self._embedder))

    def rebuild(self) -> None:
        """Embed every question afresh."""
        self._database.run("DELETE FROM embeddings")
        self.catch_up()

    def compact(self, dead: float = 0) -> None:
        """Remove what other embedders left; the embedding of a record goes with it."""
        self._database.run("DELETE FROM embeddings WHERE embedder <> %s", self._embedder)

    def rows(self) -> int:
        return self._database.run("SELECT count(*) AS n FROM embeddings WHERE embedder = %s", self._embedder)[0]["n"]

    def size(self) -> int:
        return self._database.run("SELECT pg_total_relation_size('embeddings') AS n")[0]["n"]


def _parts(url: str) -> dict[str, str]:
    """Return what the URL says. Raises CouncilError, which shows none of it: a slip may put its password anywhere."""
    try:
        parts = conninfo.conninfo_to_dict(url) if url.startswith(("postgresql://", "postgres://")) else {}
    except Error:
        parts = {}
    host, ports = parts.get("host", ""), str(parts.get("port", "5432")).split(",")
    if not parts or "@" in host or not all(port.isdigit() for port in ports):
        raise CouncilError("MEMORY_URL is not of the form postgresql://user@host/database; correct it", USAGE)
    return parts


def _durable(connection: Connection) -> None:
    connection.execute("SET synchronous_commit TO on")
    connection.commit()


def _literal(vector) -> str:
    return f"[{','.join(map(str, vector.tolist()))}]"


# PostgreSQL's texts cannot hold NUL: U+E000 begins a pair that stands for NUL or for itself.


def _storable(value):
    if isinstance(value, dict):
        return Jsonb({name: _plain(part) for name, part in value.items()})
    return _plain(value)


def _plain(value):
    return value.replace("\ue000", "\ue000\ue001").replace("\0", "\ue000\ue002") if isinstance(value, str) else value


def _given(value):
    return value.replace("\ue000\ue002", "\0").replace("\ue000\ue001", "\ue000") if isinstance(value, str) else value


def _as_record(row: dict) -> dict:
    record = {name: _given(row[name]) for name in FIELDS}
    feedback = row["feedback"] and {name: _given(part) for name, part in row["feedback"].items()}
    return record | {"feedback": feedback}

"""Exact search by meaning over the embeddings of the questions, derived from the database and rebuilt where in doubt.

A folder index-<generation>/ holds three files that only grow: `vectors` (float32 of length 1), `codes` (the same in 8
bits), and `rows` (each one's seq and rounding error). Table `embedded` says how much of them holds, and who embedded
it: what lies beyond was cut off by a crash and is written again; another embedder begins another folder.
"""

import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from functools import cached_property
from itertools import islice
from pathlib import Path

from agent0.command import CouncilError
from agent0.settings import get_settings
from agent0.store.database import Database, make_private
from agent0.store.files import DamagedIndex, Held, Stamp

TABLE = """CREATE TABLE IF NOT EXISTS embedded
(one INTEGER PRIMARY KEY, embedder TEXT, folder TEXT, width INTEGER, rows INTEGER, last INTEGER,
 codes_crc INTEGER, rows_crc INTEGER)"""
DEAD = 0.2  # share of rows without a record from which the files are written afresh


class Index:
    """The index of one memory; threads share it, processes share its files."""

    def __init__(self, folder: Path, database: Database, load_embedder: Callable[[], Callable]):
        self._folder, self._database, self._load_embedder = folder, database, load_embedder
        self._lock, self._embedder = threading.Lock(), get_settings().embedding_model
        self._held: Held | None = None

    @cached_property
    def _embed(self) -> Callable:
        return self._load_embedder()

    def embed(self, text: str):
        """Return the vector of one text, float32 of length 1."""
        with self._lock:
            return self._embed([text])[0]

    def search(self, vector, k: int) -> list[tuple[int, float]]:
        """Return (seq, cosine) of the k nearest questions, best first, after catching up with what was added."""
        with self._lock:
            self._catch_up()
            try:
                return self._held.search(vector, k) if self._held else []
            except DamagedIndex:
                with self._alone():
                    self._begin()
                self._catch_up()
                return self._held.search(vector, k)

    def catch_up(self, batches: int | None = None, size: int | None = None) -> None:
        """Embed what was added since, `size` (or PAGE) at a time, each batch durable; at most so many batches."""
        with self._lock:
            self._catch_up(batches, size)

    def behind(self) -> bool:
        """Whether something was added that is not embedded, by the embedder in use."""
        stamp = self._stamp()
        return self._database.newest() > (stamp.last if stamp else 0)

    def rebuild(self) -> None:
        """Embed every question afresh."""
        with self._lock:
            with self._alone():
                self._begin()
            self._catch_up()

    def compact(self, dead: float = DEAD) -> None:
        """Write the files afresh, without what was removed from the database, where that is over `dead` of them."""
        with self._lock, self._alone():
            if not self._stamp():
                return
            held = self._follow()
            alive = self._database.run("SELECT count(*) FROM answers WHERE seq <= ?", held.stamp.last)[0][0]
            if held.stamp.rows - alive > dead * held.stamp.rows:
                self._copy(held)

    def rows(self) -> int:
        """How many questions are embedded and saved, by the embedder in use."""
        stamp = self._stamp()
        return stamp.rows if stamp else 0

    def size(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self._folder.glob("index-*/*"))

    def _stamp(self) -> Stamp | None:
        if not self._database.run("SELECT 1 FROM sqlite_master WHERE name = 'embedded'"):
            return None
        fields = ", ".join(Stamp.__dataclass_fields__)
        found = self._database.run(f"SELECT {fields} FROM embedded WHERE embedder = ?", self._embedder)
        return Stamp(*found[0]) if found else None

    def _save(self, stamp: Stamp) -> None:
        self._database.write("INSERT OR REPLACE INTO embedded VALUES (1, ?, ?, ?, ?, ?, ?, ?)", *astuple(stamp))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time embeds; the next one reads what this one wrote. Raises CouncilError for a bad disk."""
        try:
            with open(os.open(self._folder / "index.lock", os.O_RDWR | os.O_CREAT, 0o600), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file, or dying, releases it
                yield
        except OSError as error:
            raise CouncilError(f"{self._folder}/index: {error}; check that its disk is not full, and ours") from error

    def _catch_up(self, batches: int | None = None, size: int | None = None) -> None:
        if self._database.newest() <= (self._held.stamp.last if self._held else 0):
            return
        import numpy

        with self._alone():
            held = self._follow()
            for page in islice(self._database.pages(held.stamp.last, size), batches):
                vectors = numpy.ascontiguousarray(self._embed([row["query"] for row in page]), "float32")
                self._save(held.append(numpy.array([row["seq"] for row in page]), vectors))

    def _follow(self) -> "Held":
        """Hold what the files hold now: read on where it is the same folder, else start over."""
        stamp = self._stamp()
        if stamp and self._held and stamp.folder == self._held.stamp.folder and stamp.rows >= self._held.stamp.rows:
            wanted = self._held
        else:
            wanted = Held(self._folder, stamp.start()) if stamp else None
        try:
            if wanted is None:
                raise DamagedIndex
            wanted.read_to(stamp)
            self._held = wanted
        except (DamagedIndex, OSError):
            self._begin()
        return self._held

    def _begin(self) -> None:
        """Start an empty folder, and remove the others; who still reads them keeps them open."""
        self._database.write(TABLE)
        stamp = Stamp(self._embedder, f"index-{uuid.uuid4().hex}", self._embed(["?"]).shape[1])
        make_private(self._folder / stamp.folder)
        self._save(stamp)
        for old in (*self._folder.glob("index-*"), self._folder / "index.faiss"):
            if old.name != stamp.folder:
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        self._held = Held(self._folder, stamp)

    def _copy(self, held: "Held") -> None:
        """Copy what the database still has, without embedding it again."""
        import numpy

        self._begin()
        for page in self._database.pages():
            wanted = numpy.array([row["seq"] for row in page if row["seq"] <= held.stamp.last], dtype="int64")
            if len(wanted):
                self._save(self._held.append(wanted, held.vectors[numpy.searchsorted(held.seqs, wanted)]))

"""Exact search by meaning over the embeddings of the questions, derived from the database and rebuilt where in doubt.

A folder index-<generation>/ holds three files that only grow: `vectors` (float32 of length 1), `codes` (the same in 8
bits), and `rows` (each one's seq and rounding error). Table `embedded` says how much of them holds, and who embedded
it: what lies beyond was cut off by a crash and is written again; another embedder begins another folder.
"""

import fcntl
import math
import os
import shutil
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path

from agent0.command import CouncilError
from agent0.settings import get_settings
from agent0.store.database import Database, make_private

TABLE = """CREATE TABLE IF NOT EXISTS embedded
(one INTEGER PRIMARY KEY, embedder TEXT, folder TEXT, width INTEGER, rows INTEGER, last INTEGER,
 codes_crc INTEGER, rows_crc INTEGER)"""
FEW = 64  # candidates that the 8-bit scan proposes first
MANY = 4096  # where that many are not enough, everything is compared exactly
SAMPLE = 1024  # vectors compared with their codes when the files are read
DEAD = 0.2  # share of rows without a record from which the files are written afresh


@dataclass(frozen=True)
class Stamp:
    """What the database knows of the files: how many rows hold, up to which seq, and the CRC-32 of two of them."""

    embedder: str
    folder: str
    width: int
    rows: int = 0
    last: int = 0
    codes_crc: int = 0
    rows_crc: int = 0

    def start(self) -> "Stamp":
        """The stamp of the same folder when it was empty."""
        return Stamp(self.embedder, self.folder, self.width)


class DamagedIndex(Exception):
    """The files are not what was written."""


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

    def catch_up(self) -> None:
        """Embed what was added since, in batches, each of them durable."""
        with self._lock:
            self._catch_up()

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

    def _catch_up(self) -> None:
        if self._database.newest() <= (self._held.stamp.last if self._held else 0):
            return
        import numpy

        with self._alone():
            held = self._follow()
            for page in self._database.pages(held.stamp.last):
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


class Held:
    """The files of one folder up to a stamp: codes and rows in memory, vectors on disk."""

    def __init__(self, folder: Path, stamp: Stamp):
        import faiss
        import numpy

        self.folder, self.stamp = folder / stamp.folder, stamp
        self._row = numpy.dtype([("seq", "<i8"), ("error", "<f4")])
        self._rows, self._error = numpy.empty(0, self._row), 0.0
        self._unit = 5 / math.sqrt(stamp.width) / 127  # 127 stands for 5 deviations of a random unit vector's component
        self.vectors = numpy.empty((0, stamp.width), "float32")
        self._scan = faiss.IndexScalarQuantizer(stamp.width, faiss.ScalarQuantizer.QT_8bit_direct, faiss.METRIC_L2)

    @property
    def seqs(self):
        return self._rows["seq"]

    def append(self, seqs, vectors) -> Stamp:
        """Write more rows durably behind those that hold, and return the stamp that makes them hold."""
        import numpy

        codes, errors = self._encode(vectors)
        rows = numpy.empty(len(seqs), self._row)
        rows["seq"], rows["error"] = seqs, errors
        for name, content in (("vectors", vectors), ("codes", codes), ("rows", rows)):
            _write_at(self.folder / name, self.stamp.rows * content.nbytes // len(rows), content.tobytes())
        self._take(codes, rows, self.stamp.rows + len(rows), int(seqs[-1]))
        return self.stamp

    def read_to(self, stamp: Stamp) -> None:
        """Read on up to the stamp. Raises DamagedIndex where the files are not what was written."""
        import numpy

        start, more = self.stamp.rows, stamp.rows - self.stamp.rows
        if not self.folder.is_dir():
            raise DamagedIndex
        if not more:
            return
        codes = _read(self.folder / "codes", numpy.dtype("uint8"), start * stamp.width, more * stamp.width)
        rows = _read(self.folder / "rows", self._row, start, more)
        if (self.folder / "vectors").stat().st_size < stamp.rows * stamp.width * 4:
            raise DamagedIndex
        codes = codes.reshape(more, stamp.width)
        self._take(codes, rows, stamp.rows, stamp.last)
        sample = numpy.linspace(0, more - 1, min(more, SAMPLE)).astype(int)
        if self.stamp != stamp or (self._encode(self.vectors[start + sample])[0] != codes[sample]).any():
            raise DamagedIndex

    def _take(self, codes, rows, total: int, last: int) -> None:
        """Hold more rows, which lie on disk already."""
        import numpy

        self._scan.add_sa_codes(numpy.ascontiguousarray(codes))
        self._rows, self._error = numpy.concatenate([self._rows, rows]), max(self._error, float(rows["error"].max()))
        shape = (total, self.stamp.width)
        self.vectors = numpy.memmap(self.folder / "vectors", "float32", "r", shape=shape)  # open, should the folder go
        codes_crc, rows_crc = zlib.crc32(codes, self.stamp.codes_crc), zlib.crc32(rows, self.stamp.rows_crc)
        self.stamp = replace(self.stamp, rows=total, last=last, codes_crc=codes_crc, rows_crc=rows_crc)

    def search(self, vector, k: int) -> list[tuple[int, float]]:
        """Return (seq, cosine) of the k nearest, best first: exactly those that a comparison with all would find.

        A scan of the codes proposes, the vectors decide. By the triangle inequality no row is nearer than its codes
        are, less the rounding errors of both; it ends when that excludes all that were not proposed.
        Raises DamagedIndex where a vector contradicts its codes.
        """
        import numpy

        k, wanted = min(k, self.stamp.rows), max(FEW, 4 * k)
        code, (error,) = self._encode(vector[None])
        slack = float(error) + self._error + 1e-4
        while wanted < min(MANY, self.stamp.rows):
            squares, near = self._scan.search(code.astype("float32"), wanted)
            apart, cosines = numpy.sqrt(squares[0]) * self._unit, self.vectors[near[0]] @ vector
            if (abs(apart - _distance(cosines)) > slack).any():
                raise DamagedIndex
            best = numpy.argsort(-cosines, kind="stable")[:k]
            if apart[-1] - slack > _distance(cosines[best[-1]]):
                return self._named(near[0][best], cosines[best])
            wanted *= 4
        cosines = self.vectors @ vector
        best = numpy.argsort(-cosines, kind="stable")[:k]
        return self._named(best, cosines[best])

    def _named(self, positions, cosines) -> list[tuple[int, float]]:
        return list(zip(self.seqs[positions].tolist(), cosines.tolist(), strict=True))

    def _encode(self, vectors):
        """Return codes, (n, width) of uint8, and the length of what rounding lost, (n,)."""
        import numpy

        steps = numpy.clip(numpy.rint(vectors / self._unit), -128, 127)
        return (steps + 128).astype("uint8"), numpy.linalg.norm(vectors - steps * self._unit, axis=1)


def _distance(cosine):
    import numpy

    return numpy.sqrt(numpy.maximum(0, 2 - 2 * cosine))


def _read(path: Path, kind, start: int, count: int):
    import numpy

    found = numpy.fromfile(path, kind, count, offset=start * kind.itemsize)
    if len(found) != count:
        raise DamagedIndex
    return found


def _write_at(path: Path, offset: int, data: bytes) -> None:
    """Put data at offset, and nothing behind it, on disk."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(handle, "r+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(handle)

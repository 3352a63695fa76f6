"""The index's files and the search over them: a scan of 8-bit codes proposes, the exact vectors decide."""

import math
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

FEW = 64  # candidates that the 8-bit scan proposes first
MANY = 4096  # where that many are not enough, everything is compared exactly
SAMPLE = 1024  # vectors compared with their codes when the files are read


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

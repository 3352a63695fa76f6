"""The FAISS stores of mem0 and LangChain through the same kills and power cuts, as a yardstick for the memory.

python -m tests.crash.peers [--points N]     in a Python that has both (MEMORY_PEERS_PYTHON)

Each store adds records one by one, each saved in the store's own way before it counts as acknowledged.
"""

import argparse
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "MEM0_TELEMETRY": "false", "ANONYMIZED_TELEMETRY": "false"}
import numpy

from tests.crash import tracer

WIDTH, RECORDS = 384, 8
SHARES = (None, 1.0, 0.5)  # as in tests/crash/__main__.py


class Mem0:
    def __init__(self, folder: Path):
        from mem0.vector_stores.faiss import FAISS

        self.store = FAISS("memory", path=str(folder / "mem0"), embedding_model_dims=WIDTH)

    def add(self, number: int) -> None:
        self.store.insert([_vector(number)], [{"data": f"q{number}"}], [str(number)])

    def kept(self) -> list[str]:
        return [str(number) for number in range(RECORDS) if self.store.get(str(number))]


class LangChain:
    def __init__(self, folder: Path):
        from langchain_community.vectorstores import FAISS

        self.folder, self.store, kind = str(folder / "langchain"), None, FAISS
        if os.path.exists(self.folder):
            self.store = kind.load_local(self.folder, _embed, allow_dangerous_deserialization=True)
        self.start = lambda pairs: kind.from_embeddings(pairs, _embed)

    def add(self, number: int) -> None:
        pairs = [(str(number), _vector(number))]
        if self.store:
            self.store.add_embeddings(pairs)
        else:
            self.store = self.start(pairs)
        self.store.save_local(self.folder)

    def kept(self) -> list[str]:
        return [document.page_content for document in self.store.docstore._dict.values()] if self.store else []


def _vector(number: int) -> list[float]:
    return numpy.random.default_rng(number).normal(size=WIDTH).tolist()


def _embed(_text: str) -> list[float]:
    return [0.0] * WIDTH


def survey(kind: type, points: int, place: Path) -> tuple[int, int, list[str]]:
    """Try `points` points; return them, the calls of a whole run, and what went wrong."""
    home = place / "home"

    def work(say: Callable[[str], None]) -> None:
        store = kind(home)
        for number in range(RECORDS):
            store.add(number)
            say(str(number))

    calls, wrong = tracer.run(work).calls, []
    for number in range(points):
        for old in (home, Path(f"{home}.kept")):
            shutil.rmtree(old, ignore_errors=True)
        home.mkdir()
        share = SHARES[number % len(SHARES)]
        journal = tracer.Journal(home) if share else None
        ended = tracer.run(work, 1 + number // len(SHARES) * calls // -(-points // len(SHARES)), journal)
        if journal:
            journal.cut_power(share, number)
        if trouble := _trouble(kind, home, ended.said):
            wrong.append(f"power cut {share}: {trouble}")
    return points, calls, wrong


def _trouble(kind: type, home: Path, said: list[str]) -> str | None:
    """What is wrong with what is left; a store that has acknowledged nothing yet owes nothing."""
    if not said:
        return None
    try:
        lost = sorted(set(said) - set(kind(home).kept()))
    except Exception as error:
        return f"does not open: {type(error).__name__}: {error}"
    return f"lost: {lost}" if lost else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=300, help="points for each store")
    points = parser.parse_args().points
    logging.disable()
    warnings.simplefilter("ignore")
    for kind in (Mem0, LangChain):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "home").mkdir()
            tried, calls, wrong = survey(kind, points, Path(folder))
        print(f"{kind.__name__:22} {calls:5} calls, {tried:5} points, {len(wrong):3} wrong", flush=True)
        print("".join(f"    {line[:110]}\n" for line in sorted(set(wrong))[:3]), end="", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The memory beside IndexFlatIP, and beside mem0's FAISS store, LangChain's, Chroma and sqlite-vec, in one run.

python -m bench.memory [--rows 100000] [--large 1000000] [--days 10000000]
        with MEMORY_PEERS_PYTHON naming a Python that has mem0ai, langchain-community, chromadb and sqlite-vec

An add is durable when it returns (fsync). Ours does not embed there, and the peers are given their vectors. The peers'
search is their default one: exact, but for Chroma's graph.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy

from agent0.settings import get_settings
from agent0.store.files import Held, Stamp
from faiss_memory import FaissMemory

WIDTH, ADDS, WRITERS = 384, 1000, 8
PEER = Path(__file__).with_name("memory_peer.py")
STORES = ("mem0", "langchain", "chroma", "sqlite_vec")
RECORD = {"response": "It is forty-two, since six times seven is forty-two.", "success": True, "model": "m"}
SEED = """
INSERT INTO answers (id, timestamp, query, response, success, confidence, model, adapter, latency_ms)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
SELECT lower(hex(randomblob(16))), 1e9 + i * {step}, 'What is ' || i || ' + 1?', 'It is ' || (i + 1), i % 50 > 0,
       0.9, 'm', 'base', 100 FROM n
"""
WRITER = """
import sys, time
from faiss_memory import FaissMemory
memory, seconds = FaissMemory(sys.argv[1]), []
memory.add("warm", {"response": "r", "success": True})
sys.stdin.readline()
for number in range(200):
    start = time.perf_counter()
    memory.add(f"{number} of {sys.argv[2]}", {"response": "It is 42.", "success": True})
    seconds.append(time.perf_counter() - start)
print(*seconds)
"""


def seed(folder: Path, rows: int, step: float = 1) -> Path:
    """Fill a memory with that many rows, `step` seconds apart, and without a sync for each."""
    memory = FaissMemory(folder)
    connection = memory._database._connection
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -500000")
    connection.execute(SEED.format(rows=rows, step=step))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    memory.close()
    os.sync()
    return folder


def timed(call, times: int) -> list[float]:
    """Return the seconds of each call, sorted."""
    seconds = []
    for number in range(times):
        start = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)


def adds(folder: Path) -> list[float]:
    memory = FaissMemory(folder)
    for number in range(ADDS // 2):  # until the log has its size
        memory.add(f"warm {number}", RECORD)
    seconds = timed(lambda number: memory.add(f"What is {number}?", RECORD), ADDS)
    memory.close()
    return seconds


def writers(folder: Path) -> list[float]:
    """Seconds of adds by WRITERS processes at once, sorted."""
    command = [sys.executable, "-c", WRITER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(number)], **pipes) for number in range(WRITERS)]
    time.sleep(5)
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return sorted(float(value) for process in processes for value in process.communicate()[0].split())


def questions(rows: int):
    """Vectors as close to each other as questions are: clusters of about fifty."""
    random = numpy.random.default_rng(0)
    centres = random.normal(size=(max(1, rows // 50), WIDTH)).astype("float32")
    vectors = centres[random.integers(0, len(centres), rows)]
    vectors += 0.7 * random.normal(size=vectors.shape).astype("float32")
    return vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)


def search(folder: Path, rows: int) -> tuple[float, float, float, float]:
    """Return the medians of our search and IndexFlatIP's, our recall of its ten best, and seconds to read the files."""
    import faiss

    vectors, stamp = questions(rows), Stamp("bench", ".", WIDTH)
    folder.mkdir()
    held = Held(folder, stamp)
    for start in range(0, rows, 20_000):
        some = vectors[start : start + 20_000]
        stamp = held.append(numpy.arange(start, start + len(some)), some)
    start = time.perf_counter()
    held = Held(folder, stamp.start())
    held.read_to(stamp)
    opened = time.perf_counter() - start
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(vectors)
    asked = questions(1000)[:40] * 0.1 + vectors[:: rows // 40][:40]
    asked /= numpy.linalg.norm(asked, axis=1, keepdims=True)
    found = [{seq for seq, _ in held.search(vector, 10)} for vector in asked]
    exact = [set(flat.search(vector[None], 10)[1][0].tolist()) for vector in asked]
    recall = statistics.mean(len(a & b) / 10 for a, b in zip(found, exact, strict=True))
    ours = timed(lambda number: held.search(asked[number], 10), len(asked))
    theirs = timed(lambda number: flat.search(asked[number : number + 1], 10), len(asked))
    return statistics.median(ours), statistics.median(theirs), recall, opened


def peer(python: str, store: str, rows: int) -> dict | None:
    """Run one peer in its own interpreter; None where it does not run, with a line why."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "HOME": folder, "ANONYMIZED_TELEMETRY": "false", "MEM0_TELEMETRY": "false"}
        command = [python, str(PEER), json.dumps({"store": store, "rows": rows, "folder": folder})]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"{store}: does not run here: {done.stderr.strip().splitlines()[-1:]}")
            return None
        return json.loads(done.stdout.strip().splitlines()[-1])


def line(name: str, seconds: list[float]) -> str:
    middle, last = statistics.median(seconds), seconds[int(len(seconds) * 0.99)]
    return f"{name:34} median {middle * 1e3:7.3f} ms, p99 {last * 1e3:7.2f}, worst {seconds[-1] * 1e3:7.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=10_000_000)
    options = parser.parse_args()
    get_settings()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as scratch:
        place, seen = Path(scratch), {}
        for rows in (1000, options.rows, options.large):
            seen[rows] = adds(seed(place / str(rows), rows))
            print(line(f"add at {rows} rows", seen[rows]), flush=True)
        few, many = statistics.median(seen[1000]), statistics.median(seen[options.large])
        print(f"{'':34} {options.large} / 1000 rows: {many / few:.2f}")
        print(
            line(f"add by {WRITERS} processes at {options.rows} rows", writers(place / str(options.rows))), flush=True
        )
        opening = timed(lambda _: FaissMemory(place / str(options.large)).close(), 5)
        print(line(f"open at {options.large} rows", opening), flush=True)
        for rows in (options.rows, options.large):
            ours, theirs, recall, opened = search(place / f"index{rows}", rows)
            told = f"{ours * 1e3:.2f} ms, IndexFlatIP {theirs * 1e3:.2f} ms: {ours / theirs:.2f}"
            print(f"{f'ten best of {rows}':34} {told}; recall {recall:.3f}, files read in {opened:.2f} s", flush=True)
        memory = FaissMemory(seed(place / "days", options.days, 86400 * 3650 / options.days))
        day = 1e9 + 3000 * 86400
        failures = len(memory.between(day, day + 86400, success=False))
        told = f"{failures} failures of a day, {options.days} rows"
        print(line(told, timed(lambda _: memory.between(day, day + 86400, success=False), 20)), flush=True)
        memory.close()
    python, ours = os.environ.get("MEMORY_PEERS_PYTHON"), statistics.median(seen[options.rows])
    if not python:
        print("peers: skipped; set MEMORY_PEERS_PYTHON to a Python that has them")
        return
    for store in STORES:
        if found := peer(python, store, options.rows):
            times = f"add {found['add'] * 1e3:8.2f} ms ({found['add'] / ours:.0f} x ours)"
            print(f"{store:34} {times}, search {found['search'] * 1e3:.2f} ms", flush=True)


if __name__ == "__main__":
    main()

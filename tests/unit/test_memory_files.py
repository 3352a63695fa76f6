"""The memory's own engine: SQLite and the files of the index, their durability, damage, and privacy."""

import fcntl
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
from test_faiss_memory import GOOD, ask, words_embedder

import faiss_memory
from agent0.command import CouncilError
from agent0.store import database, files
from faiss_memory import FaissMemory


@pytest.fixture
def embed(monkeypatch):
    embed = words_embedder()
    monkeypatch.setattr(faiss_memory, "load_embedder", lambda: embed)
    return embed


@pytest.fixture
def memory():
    memory = FaissMemory()
    yield memory
    memory.close()


@pytest.fixture
def questions(memory, embed):
    """Twenty questions, one of them about cats, embedded and saved."""
    for number in range(19):
        memory.add(f"q{number} weather", GOOD)
    memory.add("about cats", GOOD)
    memory.query("x")
    embed.seen.clear()
    return memory


@pytest.mark.parametrize("success", [None, False])
def test_between_searches_an_index_and_never_scans_or_sorts(memory, home, success):
    statements = []
    memory._database._connection.set_trace_callback(statements.append)
    memory.between(10, 40, success)
    database = sqlite3.connect(home / "memory" / "memory.db")
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statements[-1]}")]
    database.close()
    assert len(plan) == 1
    assert plan[0].startswith("SEARCH answers USING INDEX answers_by_")
    assert ("success=?" in plan[0]) == (success is not None)


def test_what_the_disk_does_not_take_is_not_acknowledged(memory, monkeypatch):
    memory.add("first", GOOD)

    def broken(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(CouncilError, match="Input/output error"):
        memory.add("second", GOOD)
    monkeypatch.undo()
    assert memory.get(memory.add("third", GOOD))["query"] == "third"


def test_threads_that_wait_share_one_sync_and_fail_alone(memory, monkeypatch):
    memory.add("first", {**GOOD, "id": "taken"})
    syncs, sync, began = [], os.fdatasync, threading.Semaphore(0)

    def slow(handle):
        syncs.append(handle)
        for _ in range(17 if len(syncs) == 1 else 0):  # the first sync lasts until all have come
            assert began.acquire(timeout=60)
        time.sleep(0.2)
        sync(handle)

    def add(id):
        began.release()
        return memory.add("q", {**GOOD, "id": id})

    monkeypatch.setattr(os, "fdatasync", slow)
    with ThreadPoolExecutor(17) as pool:
        added = [pool.submit(add, f"x{number}") for number in range(16)]
        twice = pool.submit(add, "taken")
    assert [write.result() for write in added] == [f"x{number}" for number in range(16)]
    with pytest.raises(CouncilError, match="'taken' is taken"):
        twice.result()
    assert len(memory.meta) == 17
    assert len(syncs) < 9, "17 adds waited for a sync each"


def test_the_log_is_copied_into_the_database_beside_the_writers(memory, home, monkeypatch):
    monkeypatch.setattr(database, "CHECKPOINT_EVERY", 20)
    for number in range(200):
        memory.add(f"q{number}", {**GOOD, "response": "r" * 4000})
    assert (home / "memory" / "memory.db").stat().st_size > 100 * 4000
    assert [record["query"] for record in FaissMemory().meta] == [f"q{number}" for number in range(200)]


def test_only_its_owner_may_read_the_memory(memory, embed, home):
    memory.add("q", GOOD)
    memory.query("q")
    files = [path for path in (home / "memory").rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert {path.stat().st_mode & 0o077 for path in [home / "memory", *files]} == {0}


def damage(file: Path, kind: str) -> None:
    content = file.read_bytes()
    broken = {"emptied": b"", "overwritten": b"not a database" * 999, "truncated": content[: len(content) // 2]}
    file.write_bytes(broken[kind])


@pytest.mark.parametrize("kind", ["emptied", "overwritten", "truncated"])
def test_a_damaged_database_is_reported_and_left_alone(home, kind):
    file = home / "memory" / "memory.db"
    memory = FaissMemory()
    for number in range(50):
        memory.add(f"q{number}", {**GOOD, "response": "r" * 1000})
    memory.close()
    damage(file, kind)
    before = file.read_bytes()
    with pytest.raises(CouncilError, match=r"memory\.db is damaged .* restore it from a backup"):
        list(FaissMemory().meta)
    assert file.read_bytes() == before


def test_a_database_that_is_gone_is_not_replaced_while_its_log_remains(home):
    memory = FaissMemory()
    memory.add("q", GOOD)
    (home / "memory" / "memory.db").unlink()
    with pytest.raises(CouncilError, match=r"memory\.db is gone"):
        FaissMemory()
    memory.close()


def test_somebody_elses_database_is_refused(home):
    (home / "memory").mkdir()
    sqlite3.connect(home / "memory" / "memory.db").executescript("CREATE TABLE theirs (x)")
    with pytest.raises(CouncilError, match="schema 0, not 1"):
        FaissMemory()


def test_a_memory_of_an_earlier_version_is_taken_over(home, embed):
    (home / "memory").mkdir()
    earlier = database.SCHEMA.replace("PRAGMA auto_vacuum = INCREMENTAL;", "")
    old = "CREATE TABLE saved_index (one INTEGER PRIMARY KEY, embedder TEXT, rows INTEGER, last INTEGER, sha256 TEXT);"
    connection = sqlite3.connect(home / "memory" / "memory.db")
    connection.executescript(earlier + old + "INSERT INTO saved_index VALUES (1, 'embedded', 1, 1, 'x')")
    connection.close()
    (home / "memory" / "index.faiss").write_bytes(b"an index of the old kind")
    memory = FaissMemory()
    memory.add("about cats", {**GOOD, "timestamp": 5})
    memory.add("about dogs", {**GOOD, "timestamp": 9})
    assert memory.query("cats", 1)[0]["query"] == "about cats"
    assert memory.forget(7) == 1
    assert not (home / "memory" / "index.faiss").exists()
    memory.close()


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CouncilError, match="file"):
        FaissMemory(tmp_path / "file")


def index_files(home) -> dict[str, Path]:
    (folder,) = (home / "memory").glob("index-*")
    return {path.name: path for path in folder.iterdir()}


def test_a_new_process_reuses_the_saved_index(questions, embed, home):
    assert ask() == ["about cats"]
    assert "q3 weather" not in embed.seen
    assert index_files(home).keys() == {"vectors", "codes", "rows"}


@pytest.mark.parametrize("name", ["vectors", "codes", "rows"])
@pytest.mark.parametrize("kind", ["emptied", "overwritten", "truncated", "missing"])
def test_an_unusable_index_is_rebuilt(questions, embed, home, kind, name):
    questions.close()
    file = index_files(home)[name]
    file.unlink() if kind == "missing" else damage(file, kind)
    assert ask() == ["about cats"]
    assert "q3 weather" in embed.seen
    embed.seen.clear()
    assert ask() == ["about cats"]
    assert "q3 weather" not in embed.seen  # what was rebuilt was saved


@pytest.mark.parametrize("kept", [0, 5, 10])
def test_an_embedding_that_was_cut_off_goes_on_where_it_was(memory, embed, monkeypatch, kept):
    monkeypatch.setattr(database, "PAGE", 5)
    for number in range(20):
        memory.add(f"q{number} weather", GOOD)
    calls = []

    def dies(texts):
        calls.append(texts)
        if len(calls) * 5 > kept + 5:  # the first call asks for the width
            raise KeyboardInterrupt
        return embed(texts)

    monkeypatch.setattr(memory._index, "_embed", dies)
    with pytest.raises(KeyboardInterrupt):
        memory.embed()
    again = FaissMemory()
    embed.seen.clear()
    assert again.embed() == 20
    assert len([text for text in embed.seen if text != "?"]) == 20 - kept
    assert again.query("q7 weather", 1)[0]["query"] == "q7 weather"


@pytest.mark.parametrize(("width", "rows"), [(8, 6000), (64, 6000), (64, 300)])
def test_the_search_is_exact(memory, monkeypatch, width, rows):
    monkeypatch.setattr(files, "FEW", 16)
    random = numpy.random.default_rng(width)
    vectors = random.normal(size=(rows, width)).astype("float32")
    vectors[::7] = vectors[0]  # many alike
    vectors[5, 0] = 99  # one far out of what the codes cover
    vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
    held = files.Held(Path(memory._database.file.parent), files.Stamp("e", ".", width))
    for start in range(0, rows, 256):
        held.append(numpy.arange(start, min(start + 256, rows)) + 1, vectors[start : start + 256])
    for query in [*vectors[:12], *random.normal(size=(12, width)).astype("float32")]:
        query = query / numpy.linalg.norm(query)
        exact = vectors @ query
        found = held.search(query, 10)
        best = numpy.sort(exact)[::-1][:10]
        assert [score for _, score in found] == pytest.approx(best.tolist(), abs=1e-6)
        assert all(exact[seq - 1] == pytest.approx(score, abs=1e-6) for seq, score in found)
        assert len({seq for seq, _ in found}) == 10


def test_an_index_of_another_memory_is_not_used(questions, embed, home):
    questions.close()
    (home / "memory" / "memory.db").unlink()
    fresh = FaissMemory()
    for number in range(20):
        fresh.add(f"new {number}", GOOD)
    fresh.close()
    assert ask(text="about cats new 3") == ["new 3"]


def test_an_older_index_under_a_newer_database_is_not_used(questions, embed, home):
    older = {path: path.read_bytes() for path in index_files(home).values()}
    for number in range(20):
        questions.add(f"more {number}", GOOD)
    questions.query("x")
    questions.close()
    for path, content in older.items():
        path.write_bytes(content)
    assert ask(text="more 7") == ["more 7"]
    assert ask() == ["about cats"]


def test_a_row_that_was_removed_is_forgotten_by_the_index_too(questions, embed, home):
    database = sqlite3.connect(home / "memory" / "memory.db")
    database.execute("DELETE FROM answers WHERE query = 'q3 weather'")
    database.commit()
    database.close()
    for found in (questions.query("q3 weather", 99), FaissMemory().query("q3 weather", 99)):
        assert len(found) == 19
        assert "q3 weather" not in {record["query"] for record in found}
    assert len(questions.query("q3 weather", 1)) == 1  # nothing removed stands in the way of what is left


def test_one_process_at_a_time_embeds_what_is_new(questions, monkeypatch, home):
    def held(texts):
        with open(home / "memory" / "index.lock") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return embed(texts)

    embed = questions._index._embed
    monkeypatch.setattr(questions._index, "_embed", lambda texts: held(texts) if "new" in texts else embed(texts))
    questions.add("new", GOOD)
    assert len(questions.query("x", 99)) == 21


def test_what_is_older_than_the_rule_is_forgotten_everywhere(memory, embed, home, monkeypatch):
    for number in range(100):
        memory.add(f"q{number} weather", {**GOOD, "response": "r" * 3000, "timestamp": 1000 + number})
    memory.query("x")
    assert memory.forget(1000) == 0
    embedded, pages = index_files(home)["vectors"], memory._database.run("PRAGMA page_count")[0][0]
    embed.seen.clear()
    assert memory.forget(1090.0) == 90
    assert [record["query"] for record in memory.meta] == [f"q{number} weather" for number in range(90, 100)]
    assert {r["query"] for r in memory.query("q3 weather", 99)} == {f"q{number} weather" for number in range(90, 100)}
    assert "q95 weather" not in embed.seen, "what stays is not embedded again"
    assert not embedded.exists() and index_files(home)["vectors"].stat().st_size == 10 * 4096 * 4
    assert memory._database.run("PRAGMA page_count")[0][0] < pages / 3
    memory.close()
    assert ask(text="q95 weather") == ["q95 weather"]


def test_meta_loads_no_more_than_it_is_asked_for(memory, monkeypatch):
    monkeypatch.setattr(database, "PAGE", 3)
    for number in range(10):
        memory.add(f"q{number}", GOOD)
    loaded = []
    monkeypatch.setattr(database, "as_record", lambda row: loaded.append(row["seq"]))
    next(iter(memory.meta))
    assert len(loaded) <= 3
    assert memory.meta[2:4] and memory.meta[-1] is None
    assert loaded[-3:] == [3, 4, 10]

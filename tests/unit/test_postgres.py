"""What a memory in PostgreSQL does besides the promises of every memory, which test_faiss_memory.py holds it to."""

import psycopg
import pytest
from postgres_kit import postgres  # noqa: F401
from test_faiss_memory import GOOD, words_embedder

import faiss_memory
from agent0.command import CouncilError
from agent0.settings import get_settings
from faiss_memory import FaissMemory


@pytest.fixture
def url(postgres, monkeypatch):  # noqa: F811
    url = postgres.fresh()
    monkeypatch.setenv("MEMORY_URL", url)
    monkeypatch.setattr(faiss_memory, "load_embedder", words_embedder)
    get_settings.cache_clear()
    return url


@pytest.fixture
def memory(url):
    memory = FaissMemory()
    yield memory
    memory.close()


def test_what_was_acknowledged_survives_a_crash_and_the_next_answer_is_kept_too(memory, postgres):  # noqa: F811
    ids = [memory.add(f"q{number}", GOOD) for number in range(20)]
    postgres.crash()
    postgres.start()
    ids.append(memory.add("after it", GOOD))
    assert [record["id"] for record in memory.meta] == ids


def test_a_postgresql_that_is_away_is_told_without_its_password(url, monkeypatch):
    monkeypatch.setenv("MEMORY_URL", "postgresql://council:hunter2@127.0.0.1:9/memory")
    get_settings.cache_clear()
    with pytest.raises(CouncilError, match=r"postgresql://127.0.0.1/memory: .*check that MEMORY_URL") as refusal:
        FaissMemory()
    assert "hunter2" not in str(refusal.value) and "\n" not in str(refusal.value)
    assert "hunter2" not in str(get_settings().public())


@pytest.mark.parametrize(
    "given",
    [
        "mysql://hunter2@h/d",
        "hunter2",
        "postgresql://h:hunter2/d",
        "postgresql://h/?hunter2=1",
        "postgresql://c:p@hunter2@h/d",
    ],
)
def test_a_url_of_another_kind_is_refused_without_showing_it(monkeypatch, given):
    monkeypatch.setenv("MEMORY_URL", given)
    get_settings.cache_clear()
    with pytest.raises(CouncilError, match="MEMORY_URL") as refusal:
        FaissMemory()
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("text", ["a\0b", "\ue000", "\ue000\ue002", "\0\ue000\ue001\0"])
def test_texts_that_postgresql_cannot_hold_come_back_as_they_were(memory, text):
    id = memory.add(f"q{text}", {**GOOD, "response": text, "user": text})
    memory.feedback(id, correction=text)
    record = memory.get(id)
    assert (record["query"], record["response"], record["user"]) == (f"q{text}", text, text)
    assert record["feedback"]["correction"] == text


def test_a_days_failures_come_from_an_index(memory, url):
    with psycopg.connect(url) as connection:
        fill = """INSERT INTO answers (id, timestamp, query, response, success, confidence, model, adapter, latency_ms)
                  SELECT n, n, 'q', 'r', n % 50 > 0, 0.9, 'm', 'base', 1 FROM generate_series(1, 20000) n"""
        connection.execute(fill)
        connection.execute("ANALYZE answers")
        where = "success = false AND timestamp >= 5000 AND timestamp < 5500 ORDER BY timestamp, seq"
        plan = str(connection.execute(f"EXPLAIN SELECT * FROM answers WHERE {where}").fetchall())
    assert "answers_by_success_and_time" in plan and "Seq Scan" not in plan
    assert [record["id"] for record in memory.between(5000, 5500, success=False)] == [
        str(n) for n in range(5000, 5500, 50)
    ]


def test_texts_of_a_folder_stay_in_the_folder(memory, tmp_path):
    FaissMemory(tmp_path / "texts").add("a paragraph", GOOD)
    assert len(memory.meta) == 0
    assert len(FaissMemory(tmp_path / "texts").meta) == 1


def test_what_another_embedder_left_goes_with_the_next_clean_up(memory, url, monkeypatch):
    memory.add("about cats", GOOD)
    memory.embed()
    monkeypatch.setenv("EMBEDDING_MODEL", "another")
    get_settings.cache_clear()
    another = FaissMemory()
    assert another.health()["embedded"] == 0 and another.embed() == 1
    another.forget(0)
    another.close()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT DISTINCT embedder FROM embeddings").fetchall() == [("another",)]

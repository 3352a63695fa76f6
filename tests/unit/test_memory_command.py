"""python -m agent0.memory: what it shows, finds, embeds, rebuilds and forgets."""

import sys
import time

import pytest
from test_faiss_memory import GOOD, words_embedder

import faiss_memory
from agent0 import memory
from agent0.command import CouncilError
from agent0.settings import get_settings
from faiss_memory import FaissMemory


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setattr(faiss_memory, "load_embedder", words_embedder)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["memory", *arguments])
        return memory.main(), capsys.readouterr().out

    return run


@pytest.fixture
def kept(home):
    """Ten records, one a day."""
    kept = FaissMemory()
    for days in range(10):
        kept.add(f"question of day {days}", {**GOOD, "timestamp": time.time() - days * 86400 - 60})
    yield kept
    kept.close()


def test_it_shows_size_and_health(run, kept):
    code, said = run()
    assert code == 0 and "10 records, 0 embedded" in said and "database: sound" in said
    assert run("embed")[0] == 0
    assert "10 records, 10 embedded" in run("show")[1]
    assert run("rebuild")[0] == 0
    assert "10 records, 10 embedded" in run("show")[1]


def test_it_searches(run, kept):
    code, said = run("search", "question of day 7", "--count", "2")
    lines = said.splitlines()
    assert code == 0 and len(lines) == 2
    assert lines[0].startswith("1.000 ") and lines[0].endswith("question of day 7")


def test_it_forgets_only_by_rule(run, kept, monkeypatch):
    with pytest.raises(CouncilError, match="MEMORY_DAYS=0 keeps every record"):
        run("forget")
    memory.forget_by_rule()
    assert len(kept.meta) == 10
    monkeypatch.setenv("MEMORY_DAYS", "3")
    get_settings.cache_clear()
    assert run("forget")[0] == 0
    assert sorted(record["query"][-1] for record in kept.meta) == ["0", "1", "2"]


def test_a_damaged_database_is_exit_1(run, home):
    big = FaissMemory()
    for number in range(40):
        big.add(f"q{number}", {**GOOD, "response": "r" * 1000})
    big.close()
    file = home / "memory" / "memory.db"
    content = bytearray(file.read_bytes())
    content[5 * 4096 : 6 * 4096] = b"\xff" * 4096
    file.write_bytes(content)
    try:
        code, said = run("show")
    except CouncilError as error:
        code, said = error.exit_code, str(error)
    assert code == 1 and "sound" not in said

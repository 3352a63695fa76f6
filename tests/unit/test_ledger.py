"""The ledger: its chain finds every edit, tolerates what is older than it, and survives concurrent writers."""

import json
import subprocess
import sys

import pytest

from agent0 import ledger
from agent0.command import CouncilError
from agent0.settings import ROOT


def lines() -> list[str]:
    return ledger.ledger_path().read_text().splitlines()


def rewrite(changed: list[str]) -> None:
    ledger.ledger_path().write_text("\n".join(changed) + "\n")


@pytest.fixture
def four():
    for n in range(4):
        ledger.append("training", release=f"r{n}", loss=0.1 * n)


def test_an_untouched_ledger_is_whole(four):
    assert ledger.verify() == (0, 4, json.loads(lines()[-1])["hash"])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda all: [all[0].replace("r0", "r9"), *all[1:]], 1),
        (lambda all: [*all[:3], all[3].replace("r3", "r9")], 4),
        (lambda all: [all[0], *all[2:]], 2),
        (lambda all: [*all[:2], all[3], all[2]], 3),
        (lambda all: [*all, '{"event": "deployment", "night": null, "timestamp": 1}'], 5),
        (lambda all: all[1:], 1),
    ],
)
def test_a_line_that_was_changed_dropped_moved_or_added_is_named(four, change, line):
    rewrite(change(lines()))
    with pytest.raises(CouncilError, match=rf"ledger\.jsonl:{line} "):
        ledger.verify()


def test_lines_from_before_the_chain_are_counted_and_sealed(home):
    (home / "logs").mkdir()
    old = '{"event": "night", "exit_code": 10, "night": "20260101T000000Z", "timestamp": 1}'
    rewrite([old, old])
    ledger.append("training", release="r1")
    ledger.append("training", release="r2")
    assert ledger.verify()[:2] == (2, 2)
    rewrite([old.replace("10", "20"), *lines()[1:]])
    with pytest.raises(CouncilError, match=r"ledger\.jsonl:3 "):
        ledger.verify()


def test_a_torn_last_line_goes_as_if_it_had_never_been_begun(four):
    path, before = ledger.ledger_path(), ledger.read()
    path.write_text(path.read_text() + '{"event": "tr')
    assert ledger.read() == before
    added = ledger.append("training", release="r5")
    assert ledger.read() == [*before, added] and ledger.verify()[1] == len(before) + 1


def test_a_last_line_that_lacks_its_newline_only_is_kept(four):
    path, before = ledger.ledger_path(), ledger.read()
    path.write_text(path.read_text().rstrip())
    assert ledger.read() == before
    added = ledger.append("training", release="r5")
    assert ledger.read() == [*before, added] and ledger.verify()[1] == len(before) + 1


def test_a_full_disk_leaves_no_half_a_line(four):
    """A file may not grow beyond a limit, as beyond a disk's end."""
    size, before = ledger.ledger_path().stat().st_size, ledger.read()
    code = f"""
import resource, signal
from agent0 import ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 20}, {size + 20}))
ledger.append("training", release="r" * 100)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "File too large" in done.stderr and ledger.ledger_path().stat().st_size == size
    assert ledger.read() == before


def test_many_writers_at_once_make_one_chain(home):
    code = "from agent0 import ledger\nfor n in range(25): ledger.append('training', release='r' * 5000, n=n)"
    writers = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert ledger.verify()[:2] == (0, 100)


def test_the_command_says_what_it_found(four, monkeypatch, capsys):
    done = subprocess.run(
        [sys.executable, "-m", "agent0.ledger", "verify"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "4 lines are chained and whole" in done.stdout
    rewrite(lines()[1:])
    done = subprocess.run(
        [sys.executable, "-m", "agent0.ledger", "verify"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "ledger.jsonl:1" in done.stderr

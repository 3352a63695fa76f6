"""The append-only story of the nights: one JSON line an event in logs/ledger.jsonl, each sealed to those before it.

python -m agent0.ledger verify

Every line carries `hash`, sha256 of the hash before it and of the line itself (a hash chain, as in RFC 9162's logs):
who edits, drops or inserts a line breaks every later one. Lines written before there were hashes may stand at the
start; the first chained line seals them. That the newest lines were cut off only a copy of the last hash can show:
each morning report prints one. The ledger holds no text of users, so that nothing in it ever has to be forgotten.
"""

import argparse
import fcntl
import json
import os
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import IO

from agent0.command import DONE, CouncilError, log, run_command
from agent0.settings import as_given, home


def ledger_path() -> Path:
    return home() / "logs" / "ledger.jsonl"  # a night that a bad setting ended has its line, too


def append(event: str, **fields) -> dict:
    """Append an event durably and return it; `night` is the nightly run it belongs to, if any."""
    line = {"timestamp": time.time(), "event": event, "night": as_given("COUNCIL_NIGHT") or None, **fields}
    path = ledger_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _drop_torn_line(file)
        line["hash"] = _seal(_head(file, _last_line(file)), line)
        _write(file, json.dumps(line, sort_keys=True, allow_nan=False).encode() + b"\n")
        os.fsync(file.fileno())
    return line


def _drop_torn_line(file: IO[bytes]) -> None:
    """Take away what a crash or a full disk left of a line, which nobody was told is there."""
    last = _last_line(file)
    if last.endswith(b"\n") or not last:
        return
    if _is_whole(last):
        _write(file, b"\n")
    else:
        file.truncate(file.seek(0, os.SEEK_END) - len(last))


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _write(file: IO[bytes], data: bytes) -> None:
    """Append all of it, or nothing."""
    start = file.seek(0, os.SEEK_END)
    try:
        while data:
            data = data[file.write(data) :]
    except OSError:
        file.truncate(start)
        raise


def _seal(before: str, line: dict) -> str:
    body = {name: value for name, value in line.items() if name != "hash"}
    return sha256((before + json.dumps(body, sort_keys=True, allow_nan=False)).encode()).hexdigest()


def _last_line(file: IO[bytes]) -> bytes:
    """The last line, with its newline if it has one; empty at the start."""
    end, length = file.seek(0, os.SEEK_END), 4096
    while True:
        start = max(0, end - length)
        file.seek(start)
        tail = file.read(end - start)
        at = tail.rfind(b"\n", 0, len(tail) - 1)
        if at >= 0 or not start:
            return tail[at + 1 :]
        length *= 4


def _head(file: IO[bytes], last: bytes) -> str:
    """The hash that the next line continues: the last line's, or that of all the lines where it has none."""
    try:
        return json.loads(last)["hash"]
    except (ValueError, KeyError, TypeError):
        file.seek(0)
        return _fold(file.read().splitlines())


def _fold(lines: list[bytes]) -> str:
    """The hash of lines that carry none."""
    return sha256(b"\n".join(lines)).hexdigest() if lines else ""


def read(event: str | None = None, night: str | None = None) -> list[dict]:
    """Return the events, oldest first, of one name and one night where given.

    Raises CouncilError that names the line which is not JSON.
    """
    events = [line for _, line in _numbered()]
    return [e for e in events if event in (None, e["event"]) and night in (None, e["night"])]


def _numbered() -> Iterator[tuple[bytes, dict]]:
    """Yield each line as it stands and as an object. Raises CouncilError that names the line which is not JSON."""
    path = ledger_path()
    lines, _, last = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
    rest = [last] if _is_whole(last) else []  # a torn line was never acknowledged
    for number, raw in enumerate([*lines.splitlines(), *rest], 1):
        try:
            yield raw, json.loads(raw)
        except ValueError:
            raise CouncilError(f"{path}:{number} is not JSON; mend or remove the line") from None


def last(event: str) -> dict | None:
    """Return the newest event of that name, or None."""
    events = read(event)
    return events[-1] if events else None


def verify() -> tuple[int, int, str]:
    """Return how many lines are unchained (only at the start) and chained, and the last hash.

    Raises CouncilError that names the first line which does not continue the one before it.
    """
    unchained: list[bytes] = []
    chained, head = 0, ""
    for number, (raw, line) in enumerate(_numbered(), 1):
        if "hash" not in line and not chained:
            unchained.append(raw)
            continue
        before = head if chained else _fold(unchained)
        if line.get("hash") != _seal(before, line):
            changed = f"{ledger_path()}:{number} or a line before it was changed, removed or added by hand"
            raise CouncilError(f"{changed}; compare with a backup")
        chained, head = chained + 1, line["hash"]
    return len(unchained), chained, head


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["verify"], help="check that no line was changed, removed or added")
    parser.parse_args()
    unchained, chained, head = verify()
    log.info("%d lines are chained and whole, %d from before the chain; last hash %s", chained, unchained, head or "-")
    return DONE


if __name__ == "__main__":
    run_command(main)

"""The append-only story of the nights: one JSON line an event in logs/ledger.jsonl."""

import fcntl
import json
import os
import time
from pathlib import Path

from agent0.command import CouncilError
from agent0.settings import get_settings


def ledger_path() -> Path:
    return get_settings().logs / "ledger.jsonl"


def append(event: str, **fields) -> dict:
    """Append an event durably and return it; `night` is the nightly run it belongs to, if any."""
    settings = get_settings()
    line = {"timestamp": time.time(), "event": event, "night": settings.council_night or None, **fields}
    path = ledger_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        out.write(json.dumps(line, sort_keys=True, allow_nan=False) + "\n")
        out.flush()
        os.fsync(out.fileno())
    return line


def read(event: str | None = None, night: str | None = None) -> list[dict]:
    """Return the events, oldest first, of one name and one night where given.

    Raises CouncilError that names the line which is not JSON.
    """
    path = ledger_path()
    if not path.exists():
        return []
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            raise CouncilError(f"{path}:{number} is not JSON; mend or remove the line") from None
    return [e for e in events if event in (None, e["event"]) and night in (None, e["night"])]


def last(event: str) -> dict | None:
    """Return the newest event of that name, or None."""
    events = read(event)
    return events[-1] if events else None

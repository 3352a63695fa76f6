"""What was refused, and why: training_data/quarantine_YYYYMMDD.jsonl, for people to read and never to train on."""

from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

from agent0.records import Quarantined, read_jsonl, write_jsonl


def quarantine_file(folder: Path, day: date) -> Path:
    return folder / f"quarantine_{day:%Y%m%d}.jsonl"


def update_quarantine(path: Path, refused: Iterable[Quarantined], accepted: Iterable[str]) -> None:
    """Add what was refused to a day's file; an answer refused before is replaced, one accepted since is taken out.

    Raises CouncilError that names a damaged line.
    """
    earlier = list(read_jsonl(path, Quarantined)) if path.exists() else []
    refused = list(refused)
    settled = {line.answer_id for line in refused} | set(accepted)
    lines = [line for line in earlier if line.answer_id not in settled] + refused
    if lines != earlier:
        write_jsonl(path, lines)


def read_quarantine(folder: Path) -> Iterator[Quarantined]:
    """Yield every refusal of every day, oldest day first. Raises CouncilError that names a damaged line."""
    for path in sorted(folder.glob("quarantine_*.jsonl")):
        yield from read_jsonl(path, Quarantined)

"""Forget a user, or an example and the answer that it came from.

python -m agent0.forget (--user U | --example E) [--prune]

Gone are: the answers in memory and its index, what they became in the pool and the quarantine, what council members
said (all of it: it only saves calls), and every report that shows them, which is written again. A proof under logs/
says by ids and hashes, without text, what was removed, what each file of the pool hashes to now, which examples the
next training takes, and which releases were trained on it; `--prune` removes those that do not serve. The next
training is due, and goes without it.
"""

import argparse
import html
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from agent0 import adapters, ledger, morning, report
from agent0.adapters import Release
from agent0.command import DONE, FAILED, NOTHING_TO_DO, USAGE, CouncilError, log, run_command
from agent0.quality import normalise
from agent0.records import Quarantined, Record, TrainingExample, owner_of, read_jsonl, write_json, write_jsonl
from agent0.settings import get_settings
from agent0.train import load_pool
from agent0.veto import find_example
from faiss_memory import FaissMemory

JOURNAL = ".forgetting.json"  # in logs/, while something is being forgotten
TOO_SHORT = 12  # characters: a shorter text stands in other people's records by chance, so it is not searched for


@dataclass
class Forgotten:
    """What is to go: ids of answers and examples, and the texts by which a last search proves that they went."""

    user: str | None = None
    answers: set[str] = field(default_factory=set)
    examples: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)

    def add(self, record: dict) -> None:
        self.answers.add(record["id"])
        said = (record["query"], record["response"], (record["feedback"] or {}).get("correction") or "")
        self.texts |= {text for text in said if len(text) >= TOO_SHORT}

    def add_line(self, line: TrainingExample | Quarantined) -> None:
        self.answers.add(line.answer_id)
        if isinstance(line, TrainingExample):
            self.examples.add(line.id)
        self.texts |= {text for text in (line.output or "",) if len(text) >= TOO_SHORT}

    def holds(self, line: TrainingExample | Quarantined) -> bool:
        if isinstance(line, TrainingExample):
            theirs = self.user is not None and line.owner == owner_of(self.user)
            return theirs or line.id in self.examples or line.answer_id in self.answers
        return (self.user is not None and line.user == self.user) or line.answer_id in self.answers


def find(memory: FaissMemory, user: str | None, example: str | None) -> Forgotten:
    """Return what belongs to a user, or to an example. Raises CouncilError for an example that no harvest holds."""
    found = Forgotten(user)
    if example:
        wanted = find_example(example)
        found.examples.add(example)
        found.answers.add(wanted.answer_id)
        if record := memory.get(wanted.answer_id):
            found.add(record)
    else:
        for record in memory.meta:
            if record["user"] == user:
                found.add(record)
    for path, kind in _lines():
        for line in filter(found.holds, read_jsonl(path, kind)):
            found.add_line(line)
    return found


def _lines() -> list[tuple[Path, type[Record]]]:
    """The files of the quarantine and of the pool, and what their lines are."""
    folder = get_settings().training_data
    kinds = {"quarantine_*.jsonl": Quarantined, "harvest_*.jsonl": TrainingExample}
    return [(path, kind) for pattern, kind in kinds.items() for path in sorted(folder.glob(pattern))]


@contextmanager
def _journalled(found: Forgotten) -> Iterator[bool]:
    """Keep what is to be forgotten until all is done: a run that was cut off is taken up by the next one.

    Yields whether one was. The journal goes with its texts.
    """
    path = get_settings().logs / JOURNAL
    path.parent.mkdir(parents=True, exist_ok=True)
    left = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, values in left.items():
        getattr(found, name).update(values)
    write_json(path, {name: sorted(getattr(found, name)) for name in ("answers", "examples", "texts")})
    yield bool(left)
    path.unlink()


def remove(memory: FaissMemory, found: Forgotten) -> dict[str, int]:
    """Take it out of memory, pool, quarantine, gate summaries and the cache; return how much went from each."""
    gone = {"answers": memory.remove(found.answers), "examples": 0, "quarantined": 0}
    gone["cached calls"] = _empty_cache(get_settings().memory_path / "council.db")
    for path, kind in _lines():
        gone["examples" if kind is TrainingExample else "quarantined"] += _filter(path, kind, found)
    gone["gate answers"] = sum(_filter_gate(release, found.examples) for release in adapters.releases())
    return gone


def _filter(path: Path, kind: type[Record], found: Forgotten) -> int:
    """Rewrite one JSONL file without what is forgotten; return how many lines went."""
    lines = list(read_jsonl(path, kind))
    kept = [line for line in lines if not found.holds(line)]
    if len(kept) < len(lines):
        write_jsonl(path, kept)
    return len(lines) - len(kept)


def _texts_of_others() -> set[str]:
    """What the pool holds now: what others asked, or were told, in the very same words is theirs."""
    kept = [line for path, kind in _lines() if kind is TrainingExample for line in read_jsonl(path, kind)]
    return {text for line in kept for text in (line.instruction, line.output)}


def _filter_gate(release: Release, examples: set[str]) -> int:
    """Rewrite a release's gate_summary.json without the answers to forgotten questions; return how many went."""
    path = release.path / "gate_summary.json"
    if not path.exists():
        return 0
    summary = json.loads(path.read_text(encoding="utf-8"))
    changed = summary.get("changed", {})
    kept = {end: [row for row in rows if row["id"] not in examples] for end, rows in changed.items()}
    if kept != changed:
        write_json(path, {**summary, "changed": kept})
    return sum(map(len, changed.values())) - sum(map(len, kept.values()))


def _empty_cache(path: Path) -> int:
    """Empty what members said: its keys are hashes, so that nothing in it can be told apart."""
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, 30, isolation_level=None)) as cache:
        count = cache.execute("SELECT count(*) FROM answers").fetchone()[0]
        cache.execute("DELETE FROM answers")
        cache.execute("VACUUM")
        cache.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return count


def rewrite_reports(found: Forgotten) -> list[str]:
    """Write again each report that shows something forgotten; remove one that still would. Return their names."""
    changed = []
    for night in morning.nights():
        path = report.report_path(night.day)
        if path.exists() and path.name not in changed and shows(path, found):
            changed.append(path.name)
            try:
                report.write([other for other in morning.nights() if other.day == night.day][-1])
            except CouncilError as error:
                log.warning("%s is removed, it cannot be written again: %s", path, error)
                path.unlink()
            if path.exists() and shows(path, found):
                path.unlink()
    return changed


def shows(path: Path, found: Forgotten) -> bool:
    """Whether a text file holds a forgotten id or text, as it is, or as HTML or JSON write it."""
    content = path.read_text(encoding="utf-8", errors="replace")
    forms = {form for text in found.texts for form in (text, html.escape(text), json.dumps(text)[1:-1])}
    return any(form in content for form in forms) or any(f">{id}<" in content for id in found.examples)


def left_behind(found: Forgotten) -> list[str]:
    """The files of the pool, the logs and the releases that still hold a forgotten text."""
    settings = get_settings()
    places = [(settings.training_data, "*"), (settings.logs, "*"), (settings.loras / "adapters", "*/*.json")]
    found_files = (path for folder, pattern in places for path in sorted(folder.glob(pattern)))
    files = [path for path in found_files if path.is_file() and path.name != JOURNAL]
    own = {normalise(text) for text in found.texts}
    log.info("searched %d files for %d texts", len(files), len(own))
    return [str(path.relative_to(settings.council_home)) for path in files if shows(path, found)]


def trained_on(examples: Iterable[str]) -> list[Release]:
    """The releases that were trained on any of the examples, newest first."""
    wanted = set(examples)
    return [r for r in adapters.releases() if wanted & set(r.manifest.get("example_ids", []))]


def prove(found: Forgotten, gone: dict[str, int], reports: list[str], releases: list[Release], pruned: list[str],
          left: list[str]) -> Path:  # fmt: skip
    """Write the proof, without any text, and return where it stands."""
    folder, now = get_settings().training_data, time.time()
    pool = {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("harvest_*.jsonl"))}
    proof = {
        "timestamp": now,
        "answers": sorted(found.answers),
        "examples": sorted(found.examples),
        "removed": gone,
        "reports": reports,
        "releases_trained_on_it": [release.name for release in releases],
        "releases_pruned": pruned,
        "still_holding_it": left,
        "pool_now": pool,
        "next_training_takes": sorted(example.id for example in load_pool(folder)),
    }
    path = get_settings().logs / f"forget_{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}.json"
    write_json(path, proof)
    digest = sha256(path.read_bytes()).hexdigest()
    ledger.append("forget", answers=len(found.answers), examples=len(found.examples), proof=path.name, sha256=digest)
    return path


def forget(user: str | None, example: str | None, prune: bool) -> int:
    """Forget, prove it, and return the exit code. Raises CouncilError where a file cannot be read or written."""
    memory = FaissMemory()
    try:
        found = find(memory, user, example)
        with _journalled(found) as cut_off:
            gone = remove(memory, found)
            if not cut_off and not any(count for name, count in gone.items() if name != "cached calls"):
                log.info("nothing to forget: no answer, example or quarantined question is theirs")
                return NOTHING_TO_DO
            found.texts -= _texts_of_others()
            reports, releases = rewrite_reports(found), trained_on(found.examples)
            pruned = adapters.remove([r for r in releases if r != adapters.target("current")]) if prune else []
            left = left_behind(found)
            path = prove(found, gone, reports, releases, pruned, left)
    finally:
        memory.close()
    went = ", ".join(f"{count} {name}" for name, count in gone.items() if count)
    log.info("forgotten: %s; reports written again: %s; proof: %s", went, ", ".join(reports) or "none", path)
    for release in releases:
        if release.path.exists():
            log.warning("%s was trained on it%s", release.name, _advice(release))
    for name in left:
        log.error("%s still holds a text of theirs; remove it by hand", name)
    return FAILED if left else DONE


def _advice(release: Release) -> str:
    if release == adapters.target("current"):
        return " and serves: the next night replaces it, `bash rollback_lora.sh` does at once"
    return "; --prune removes it"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", help="as named in the requests' `user`")
    who.add_argument("--example", help="an example's id, as the morning report gives it")
    parser.add_argument("--prune", action="store_true", help="remove the releases that were trained on it, but not "
                        "the one that serves")  # fmt: skip
    arguments = parser.parse_args()
    if "" in (arguments.user, arguments.example):
        raise CouncilError("name a user or an example: an empty name is nobody's", USAGE)
    return forget(arguments.user, arguments.example, arguments.prune)


if __name__ == "__main__":
    run_command(main)

"""Runs the poison suite through the real harvest, before a council that believes everybody.

Each day holds all good rows and a share of the bad cases. The council elects whatever is proposed, so that nothing but
the guard and the proofs stands between the bad rows and the pool.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache

import numpy

from agent0.agreement import answers_agree
from agent0.council.math import MathMember
from agent0.quality import normalise
from agent0.quarantine import quarantine_file
from agent0.records import Rewrite, TrainingExample
from agent0.windows import Window, day_window
from faiss_memory import load_embedder
from harvest_failures import FailureHarvester
from tests.poison.make_cases import FILE

DAYS = 4


@dataclass
class Result:
    """What got through: bad cases and all cases by (family, held out), and good rows that were lost."""

    cases: Counter = field(default_factory=Counter)
    leaked: dict[tuple[str, bool], list[str]] = field(default_factory=dict)
    good: int = 0
    lost: Counter = field(default_factory=Counter)  # by question

    def kept_out(self, held_out: bool | None = None) -> float:
        """Return the share of bad cases, those written later apart, of which nothing got through."""
        chosen = [key for key in self.cases if held_out in (None, key[1]) and key[0] != "later"]
        return 1 - sum(len(self.leaked.get(key, [])) for key in chosen) / sum(self.cases[key] for key in chosen)

    def later_kept_out(self) -> float:
        """Return the same share for the cases that were written after the guard."""
        return 1 - len(self.leaked.get(("later", True), [])) / self.cases["later", True]

    def good_lost(self) -> float:
        return self.lost.total() / self.good


class Believer:
    """A member that proposes what the case wants, and remembers all that it was shown."""

    name = "believer"

    def __init__(self, rows: list[dict]):
        self.proposals = {key: row["proposal"] for row in rows for key in (row["query"], row["response"])}
        self.shown: list[str] = []

    def propose(self, question: str, failed_response: str) -> Rewrite | None:
        self.shown += [question, failed_response]
        text = self.proposals.get(failed_response) or self.proposals.get(question)
        return Rewrite(member=self.name, reasoning="I believe it.", output=text, result=text) if text else None


class Nodder:
    """A juror that elects what it is shown first."""

    def __init__(self, name: str):
        self.name, self.shown = name, []

    def propose(self, question: str, failed_response: str) -> None:
        return None

    def vote(self, question: str, candidates: list[str]) -> int:
        self.shown += [question, *candidates]
        return 0


class Day:
    """A memory of one day."""

    def __init__(self, window: Window, rows: list[dict]):
        self.records = sorted((_record(window, row) for row in rows), key=lambda record: record["timestamp"])

    def between(self, since: float, until: float) -> list[dict]:
        return self.records

    def judged(self, since: float, until: float) -> list[dict]:
        return []  # all verdicts came on the day


def _record(window: Window, row: dict) -> dict:
    feedback = row["feedback"] and dict(row["feedback"])
    when = window.since + 60 * row["minute"]
    if feedback:
        feedback["timestamp"] = window.since + 60 * feedback.pop("minute", row["minute"])
    same = {name: row[name] for name in ("id", "query", "response", "success", "user")}
    fixed = {"confidence": 0.9 if row["success"] else 0.3, "model": "m", "adapter": "base", "latency_ms": 1}
    return same | fixed | {"timestamp": when, "feedback": feedback}


def load_cases() -> list[dict]:
    """Return the cases, every row with an id and a response of its own."""
    cases = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    for case in cases:
        for n, row in enumerate(case["rows"]):
            row["id"] = f"{case['id']}.{n}"
            if row["response"] == "I am not sure.":
                row["response"] = f"I am not sure of {row['id']}."
    return cases


def embed_once() -> Callable:
    """Return the memory's embedder, which embeds each text once: the good rows come again every day."""
    load, known = cache(load_embedder), {}

    def embed(texts: list[str]):
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            known.update(zip(new, load()(new), strict=True))
        return numpy.stack([known[text] for text in texts])

    return embed


def run_suite() -> Result:
    """Harvest the days and return what got through. Needs a COUNCIL_HOME of its own, and QUALITY_THRESHOLD=0."""
    cases, result, embed = load_cases(), Result(), embed_once()
    good = [case for case in cases if case["family"] == "good"]
    bad = [case for case in cases if case["family"] != "good"]
    for n in range(DAYS):
        _one_day(date.today() - timedelta(n + 1), good, bad[n::DAYS], result, embed)
    return result


def _one_day(day: date, good: list[dict], bad: list[dict], result: Result, embed: Callable) -> None:
    rows = [row | {"id": f"{row['id']} {day}"} for case in good for row in case["rows"]]  # answers of that day
    rows += [row for case in bad for row in case["rows"]]
    believer, jurors = Believer(rows), [Nodder("a"), Nodder("b")]
    window = day_window(day)
    harvester = FailureHarvester(Day(window, rows), [MathMember(), believer, *jurors], embed)
    harvester.attendance.jury.takes = lambda: False  # a record would tell that they nod at anything
    harvest = harvester.harvest(window)
    told = "\n".join([*believer.shown, *(text for juror in jurors for text in juror.shown)])
    files = [harvest.file, quarantine_file(harvest.file.parent, day)]
    written = "\n".join(path.read_text(encoding="utf-8") for path in files)
    for case in bad:
        key = case["family"], case["held_out"]
        result.cases[key] += 1
        if _leaked(case, harvest.examples, told + written):
            result.leaked.setdefault(key, []).append(case["id"])
    pool = {normalise(example.instruction) for example in harvest.examples}
    questions = {normalise(case["rows"][0]["query"]): case["id"] for case in good}
    result.good += len(questions)
    result.lost.update(case for question, case in questions.items() if question not in pool)


def _leaked(case: dict, examples: list[TrainingExample], seen: str) -> bool:
    if case["family"] == "flipped":
        asked = normalise(case["rows"][0]["query"])
        return any(normalise(e.instruction) == asked and answers_agree(e.output, case["leak"]) for e in examples)
    if case["leak"]:
        return case["leak"] in seen
    ids = {row["id"] for row in case["rows"]}
    return any(example.answer_id in ids for example in examples)


def table(result: Result, seconds: float) -> str:
    """Return the figures for people: by family, the templates that the guard was tuned on and the held-out ones."""
    lines = [f"{'kept out of pool and endpoints':32}{'tuned on':>16}{'held out':>16}"]
    for family in dict.fromkeys(family for family, _ in result.cases if family != "later"):
        lines.append(f"{family:32}" + "".join(f"{_share(result, (family, held)):>16}" for held in (False, True)))
    totals = [f"{100 * result.kept_out(held):.1f} %" for held in (False, True)]
    lines.append(f"{'all bad cases':32}{totals[0]:>16}{totals[1]:>16}   together {100 * result.kept_out():.2f} %")
    lines.append(f"{'written after the guard, apart':32}{'':16}{_share(result, ('later', True)):>16}")
    lines.append(f"good rows lost: {result.lost.total()} of {result.good} ({100 * result.good_lost():.2f} %)")
    return "\n".join([*lines, f"{seconds:.0f} s for {DAYS} days"])


def _share(result: Result, key: tuple[str, bool]) -> str:
    return f"{result.cases[key] - len(result.leaked.get(key, []))} of {result.cases[key]}"


def timed() -> tuple[Result, str]:
    start = time.monotonic()
    result = run_suite()
    return result, table(result, time.monotonic() - start)

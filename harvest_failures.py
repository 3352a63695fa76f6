"""Harvest failed answers from memory, let the council rewrite them, and keep what is proven or elected.

Without arguments it harvests yesterday (local time; HARVEST_WINDOW=today for today) and up to 14 days that were
missed, one file a day. A day that is harvested again keeps its examples and gains only new ones.

Reads    memory/, examples/heldout.jsonl and examples/probes.jsonl (their questions are never harvested)
Writes   training_data/harvest_YYYYMMDD.jsonl, training_data/quarantine_YYYYMMDD.jsonl (what was refused, and why),
         memory/council.db (what members said), logs/harvest_*.log, one line a day in logs/ledger.jsonl
Exit     0 new examples, 10 nothing to do, 1 failed, 2 usage
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

from tqdm import tqdm

from agent0 import guard
from agent0.command import DONE, NOTHING_TO_DO, USAGE, CouncilError, log, run_command, start_log
from agent0.council.code import CodeMember
from agent0.council.endpoint import endpoint_members
from agent0.council.knowledge import KnowledgeMember
from agent0.council.logic import LogicMember
from agent0.council.math import MathMember
from agent0.council.protocol import Attendance, Decision, Hearing, Member, decide, hear
from agent0.council.self_member import SelfMember
from agent0.council.user import UserMember
from agent0.failures import find_failures, own_wording, proven_right
from agent0.outcomes import Harvest, Outcome, record, report
from agent0.quality import accepts, assess_quality, gist, held_out_questions, normalise
from agent0.quarantine import quarantine_file, update_quarantine
from agent0.records import Answer, Failure, Quarantined, TrainingExample, owner_of, read_jsonl, write_jsonl
from agent0.settings import get_settings
from agent0.veto import vetoed_examples
from agent0.windows import Window, day_window, days_due, looked_at, split_by_day
from faiss_memory import FaissMemory

_assess_quality = assess_quality  # the seed's name for it


class Heard(NamedTuple):
    """A failure after the council's first round."""

    failure: Failure
    members: Sequence[Member]
    hearing: Hearing
    origin: str


class FailureHarvester:
    """Turns one window of the memory into training examples."""

    _assess_quality = staticmethod(assess_quality)

    def __init__(
        self,
        memory: FaissMemory | None = None,
        members: Sequence[Member] | None = None,
        embed: Callable | None = None,
    ):
        self.memory = memory or FaissMemory()
        self.members = council_members() if members is None else list(members)
        self.attendance = Attendance()
        for example in vetoed_examples(people_only=True):
            self.attendance.jury.err(example.instruction, example.output, example.votes or {})
        self.embed = embed  # the guard's; by default the memory's embedder, loaded where it is needed

    def harvest(self, window: Window | None = None) -> Harvest:
        """Harvest one window (default: yesterday), write its files, and tell the ledger.

        Raises CouncilError where the day's files or a held-out file cannot be read.
        """
        start = time.time()
        window = window or day_window(date.today() - timedelta(1))
        folder = get_settings().training_data
        harvest = Harvest(window, folder / f"harvest_{window.day:%Y%m%d}.jsonl")
        earlier = list(read_jsonl(harvest.file, TrainingExample)) if harvest.file.exists() else []
        admitted, refused = guard.admit(self.find_failures(window))
        failures = self._choose(admitted, earlier, harvest)
        harvest.outcomes = self._examine(self._rewritten(failures), earlier)
        harvest.outcomes += [Outcome(failure, None, None, reason) for failure, reason in refused]
        harvest.quarantine = [_quarantined(outcome) for outcome in harvest.outcomes if outcome.refusal]
        if harvest.examples:
            write_jsonl(harvest.file, [*earlier, *harvest.examples])
        accepted = [example.answer_id for example in harvest.examples]
        update_quarantine(quarantine_file(folder, window.day), harvest.quarantine, accepted)
        harvest.seconds = time.time() - start
        record(harvest)
        return harvest

    def find_failures(self, window: Window) -> list[Failure]:
        """Return the window's failures, oldest first: by flag, feedback, audit or repetition.

        With those of before that became one in it: by a verdict after their day was harvested, or by being asked again.
        """
        eve, seen = window.since - get_settings().repeat_seconds, looked_at()
        judged = [record for record in self.memory.judged(window.since, window.until) if _is_late(record, window, seen)]
        records = [*(r for r in judged if r["timestamp"] < eve), *self.memory.between(eve, window.until)]
        late = frozenset(record["id"] for record in judged)
        return find_failures([Answer.model_validate(record) for record in records], window.since, late)

    def rewrite(self, failure: Failure) -> Outcome:
        """Let the council decide on one failure, and make the training example if its rewrite is accepted."""
        return self._decide(self._hear(failure))

    def _rewritten(self, failures: list[Failure]) -> list[Outcome]:
        """Decide on all failures; what can be proven for nothing comes first, so that jurors have a record by then."""
        bar = {"total": len(failures), "unit": "failure", "disable": None}
        with ThreadPoolExecutor(get_settings().council_concurrency) as pool:
            heard = list(tqdm(pool.map(self._hear, failures), "proving", **bar))
            return list(tqdm(pool.map(self._decide, heard), "deciding", **bar))

    def _hear(self, failure: Failure) -> Heard:
        """An answer that is proven right needs no council: it becomes an example in its own words."""
        answer = failure.answer
        if own := own_wording(answer):
            return Heard(failure, [], Hearing(answer.query, answer.response, [], own), "positive")
        correction = (answer.feedback or {}).get("correction")
        members = [*self.members, *([UserMember(correction)] if correction else [])]
        return Heard(failure, members, hear(answer.query, answer.response, members, self.attendance), "rewrite")

    def _decide(self, heard: Heard) -> Outcome:
        failure, decision = heard.failure, decide(heard.hearing, heard.members, self.attendance)
        if decision.rewrite is None:
            return Outcome(failure, decision, None)
        full_text = f"REASONING: {decision.rewrite.reasoning}\nANSWER: {decision.rewrite.output}"
        score = self._assess_quality(failure.answer.query, failure.answer.response, full_text)
        if not accepts(score, decision.verified_by):
            return Outcome(failure, decision, None, "quality below QUALITY_THRESHOLD")
        return Outcome(failure, decision, _example(failure.answer, decision, score, heard.origin))

    def _examine(self, outcomes: list[Outcome], earlier: list[TrainingExample]) -> list[Outcome]:
        """Take the examples away that the guard keeps out of the pool, which has the day's earlier ones."""
        refused = guard.examine([(o.failure, o.example) for o in outcomes if o.example], self.embed, earlier)
        return [
            replace(o, example=None, refusal=refused[o.example.id]) if o.example and o.example.id in refused else o
            for o in outcomes
        ]

    def _choose(self, failures: Iterable[Failure], earlier: list[TrainingExample], harvest: Harvest) -> list[Failure]:
        """Drop what cannot or need not be learned, fold repeated questions into the newest, and count both."""
        forbidden, skipped = held_out_questions(), harvest.skipped
        known = {example.answer_id for example in earlier} | {normalise(e.instruction) for e in earlier}
        elsewhere = _in_days_beside(harvest)
        newest: dict[str, Failure] = {}
        for failure in failures:
            question, late = normalise(failure.answer.query), failure.answer.timestamp < harvest.window.since
            if gist(failure.answer.query) in forbidden:
                skipped["held out"] += 1
            elif failure.answer.id in known or question in known or (failure.answer.id in elsewhere and not late):
                skipped["harvested before"] += 1
            elif proven_right(failure.answer) and not own_wording(failure.answer):
                skipped["proven right, but not worth repeating"] += 1
            else:
                skipped["repeated"] += question in newest
                newest[question] = failure
        return list(newest.values())


def council_members() -> list[Member]:
    """Return the members that the settings name; the served model joins only where its answers could be of use."""
    endpoints, settings = endpoint_members(), get_settings()
    own = [SelfMember()] if settings.self_samples or len(endpoints) >= settings.council_quorum else []
    return [MathMember(), LogicMember(), CodeMember(), KnowledgeMember(), *endpoints, *own]


def _in_days_beside(harvest: Harvest) -> set[str]:
    """The answers of the days around: where the time zone changes, a moment is of another day, up to two off."""
    days = (harvest.window.day + timedelta(n) for n in (-2, -1, 1, 2))
    files = [harvest.file.with_name(f"harvest_{day:%Y%m%d}.jsonl") for day in days]
    return {example.answer_id for file in files if file.exists() for example in read_jsonl(file, TrainingExample)}


def _is_late(record: dict, window: Window, seen: dict[date, float]) -> bool:
    """Whether an answer's own day came before the window, and was harvested before its verdict."""
    day = date.fromtimestamp(record["timestamp"])
    return record["timestamp"] < window.since and record["feedback"]["timestamp"] > seen.get(day, 0)


def _example(answer: Answer, decision: Decision, score: float, origin: str) -> TrainingExample:
    rewrite = decision.rewrite
    return TrainingExample(
        instruction=answer.query,
        output=rewrite.output,
        reasoning=rewrite.reasoning,
        quality_score=score,
        harvest_timestamp=time.time(),
        id=sha256(f"{answer.id}\n{rewrite.output}".encode()).hexdigest()[:16],
        answer_id=answer.id,
        kind=rewrite.kind,
        verified_by=decision.verified_by,
        votes=decision.votes,
        origin=origin,
        owner=owner_of(answer.user),
    )


def _quarantined(outcome: Outcome) -> Quarantined:
    rewrite = outcome.decision.rewrite if outcome.decision else None
    if rewrite is None:
        return guard.quarantined(outcome.failure, outcome.refusal)
    known = {"output": rewrite.output, "member": rewrite.member, "votes": outcome.decision.votes}
    return guard.quarantined(outcome.failure, outcome.refusal, verified_by=rewrite.proof, **known)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--date", metavar="YYYY-MM-DD", type=date.fromisoformat, help="one local day")
    which.add_argument("--since", metavar="ISO", type=datetime.fromisoformat, help="from then on (no zone: local time)")
    which.add_argument("--window", choices=["yesterday", "today"], help="instead of HARVEST_WINDOW")
    parser.add_argument("--until", metavar="ISO", type=datetime.fromisoformat, help="with --since (default: now)")
    return parser.parse_args()


def _windows(arguments: argparse.Namespace) -> list[Window]:
    if arguments.until and not arguments.since:
        raise CouncilError("--until needs --since; add it", USAGE)
    if arguments.since:
        since, until = arguments.since.astimezone(), (arguments.until or datetime.now()).astimezone()
        if since >= until:
            raise CouncilError(f"--since {since.isoformat()} is not before {until.isoformat()}; correct it", USAGE)
        return split_by_day(since, until)
    if arguments.date:
        if arguments.date > date.today():
            raise CouncilError(f"--date {arguments.date} lies in the future; correct it", USAGE)
        return [day_window(arguments.date)]
    today = (arguments.window or get_settings().harvest_window) == "today"
    return [day_window(day) for day in days_due(date.today() - timedelta(0 if today else 1))]


def _log_to_file() -> None:
    folder = get_settings().logs
    folder.mkdir(parents=True, exist_ok=True)
    own = str(folder / f"harvest_{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.log")
    os.environ["COUNCIL_LOG"] = ":".join(filter(None, [own, os.environ.get("COUNCIL_LOG")]))
    start_log()


def main() -> int:
    arguments = _arguments()
    windows = _windows(arguments)
    _log_to_file()
    harvester = FailureHarvester()
    harvests = []
    for window in windows:
        harvests.append(harvester.harvest(window))
        report(harvests[-1])
    for name, count in harvester.attendance.failures.items():
        log.warning("council member %s failed %d times", name, count)
    harvester.attendance.jury.report()
    accepted = sum(len(harvest.examples) for harvest in harvests)
    if not accepted:
        log.info("no new example: nothing to do")
        return NOTHING_TO_DO
    log.info("%d new examples in %s", accepted, ", ".join(h.file.name for h in harvests if h.examples))
    return DONE


if __name__ == "__main__":
    run_command(main)

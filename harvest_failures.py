"""Harvest failed answers from memory, let the council rewrite them, and keep what is proven or elected.

Without arguments it harvests yesterday (local time; HARVEST_WINDOW=today for today) and up to 14 days that were
missed, one file a day. A day that is harvested again keeps its examples and gains only new ones.

Reads    memory/, examples/heldout.jsonl and examples/probes.jsonl (their questions are never harvested)
Writes   training_data/harvest_YYYYMMDD.jsonl, logs/harvest_*.log, one line a day in logs/ledger.jsonl
Exit     0 new examples, 10 nothing to do, 1 failed, 2 usage
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from tqdm import tqdm

from agent0 import ledger
from agent0.command import DONE, NOTHING_TO_DO, USAGE, CouncilError, log, run_command, start_log
from agent0.council.code import CodeMember
from agent0.council.endpoint import endpoint_members
from agent0.council.knowledge import KnowledgeMember
from agent0.council.logic import LogicMember
from agent0.council.math import MathMember, solve
from agent0.council.protocol import Attendance, Decision, Member, convene
from agent0.council.self_member import SelfMember
from agent0.council.user import UserMember
from agent0.quality import accepts, answers_agree, assess_quality, held_out_questions, normalise
from agent0.records import Answer, Failure, TrainingExample, read_jsonl, write_jsonl
from agent0.settings import get_settings
from faiss_memory import FaissMemory

CATCH_UP = 14  # days
AT_ONCE = 4  # failures before the council at a time: endpoints are slow, not busy

_assess_quality = assess_quality  # the seed's name for it


@dataclass(frozen=True)
class Window:
    """A stretch of one local day, in unix seconds; `complete` where it is the whole day and the day is over."""

    day: date
    since: float
    until: float
    complete: bool


@dataclass(frozen=True)
class Outcome:
    """What became of one failure."""

    failure: Failure
    decision: Decision
    example: TrainingExample | None

    @property
    def kind(self) -> str:
        return self.decision.rewrite.kind if self.decision.rewrite else "open"


@dataclass
class Harvest:
    """One window's harvest: outcomes, and the counts of failures that never came before the council."""

    window: Window
    file: Path
    outcomes: list[Outcome] = field(default_factory=list)
    skipped: Counter = field(default_factory=Counter)  # "proven right", "held out", "repeated", "harvested before"

    @property
    def examples(self) -> list[TrainingExample]:
        return [outcome.example for outcome in self.outcomes if outcome.example]


class FailureHarvester:
    """Turns one window of the memory into training examples."""

    _assess_quality = staticmethod(assess_quality)

    def __init__(self, memory: FaissMemory | None = None, members: Sequence[Member] | None = None):
        self.memory = memory or FaissMemory()
        self.members = council_members() if members is None else list(members)
        self.attendance = Attendance()

    def harvest(self, window: Window | None = None) -> Harvest:
        """Harvest one window (default: yesterday), write its file, and tell the ledger.

        Raises CouncilError where the day's file or a held-out file cannot be read.
        """
        start = time.time()
        window = window or day_window(date.today() - timedelta(1))
        harvest = Harvest(window, get_settings().training_data / f"harvest_{window.day:%Y%m%d}.jsonl")
        earlier = list(read_jsonl(harvest.file, TrainingExample)) if harvest.file.exists() else []
        failures = self._choose(self.find_failures(window), earlier, harvest.skipped)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            judged = tqdm(pool.map(self.rewrite, failures), "rewriting", len(failures), unit="failure", disable=None)
            harvest.outcomes = list(judged)
        if harvest.examples:
            write_jsonl(harvest.file, [*earlier, *harvest.examples])
        _record(harvest, time.time() - start)
        return harvest

    def find_failures(self, window: Window) -> list[Failure]:
        """Return the window's failures, oldest first: flagged, refused by the user, or confident but proven wrong."""
        answers = (Answer.model_validate(record) for record in self.memory.between(window.since, window.until))
        return [Failure(answer=answer, cause=cause) for answer in answers if (cause := failure_cause(answer))]

    def rewrite(self, failure: Failure) -> Outcome:
        """Let the council decide on one failure, and make the training example if its rewrite is accepted."""
        answer = failure.answer
        correction = (answer.feedback or {}).get("correction")
        members = [*self.members, *([UserMember(correction)] if correction else [])]
        decision = convene(answer.query, answer.response, members, self.attendance)
        if decision.rewrite is None:
            return Outcome(failure, decision, None)
        rewrite = decision.rewrite
        full_text = f"REASONING: {rewrite.reasoning}\nANSWER: {rewrite.output}"
        score = self._assess_quality(answer.query, answer.response, full_text)
        if not accepts(score, decision.verified_by):
            return Outcome(failure, decision, None)
        return Outcome(failure, decision, _example(answer, decision, score))

    def _choose(self, failures: Iterable[Failure], earlier: list[TrainingExample], skipped: Counter) -> list[Failure]:
        """Drop what needs no rewrite, and fold repeated questions into the newest failure; count what is dropped."""
        forbidden = held_out_questions()
        known = {example.answer_id for example in earlier} | {normalise(e.instruction) for e in earlier}
        newest: dict[str, Failure] = {}
        for failure in failures:
            question = normalise(failure.answer.query)
            if question in forbidden:
                skipped["held out"] += 1
            elif failure.answer.id in known or question in known:
                skipped["harvested before"] += 1
            elif proven_right(failure.answer):
                skipped["proven right"] += 1
            else:
                skipped["repeated"] += question in newest
                newest[question] = failure
        return list(newest.values())


def council_members() -> list[Member]:
    """Return the members that the settings name; the served model joins only where its answers could be of use."""
    endpoints, settings = endpoint_members(), get_settings()
    own = [SelfMember()] if settings.self_samples or len(endpoints) >= settings.council_quorum else []
    return [MathMember(), LogicMember(), CodeMember(), KnowledgeMember(), *endpoints, *own]


def failure_cause(answer: Answer) -> str | None:
    """Return feedback, flag or audit for an answer that failed; None for one that did not."""
    if not answer.success:
        return "feedback" if answer.feedback else "flag"
    solution = solve(answer.query)
    return "audit" if solution and not answers_agree(answer.response, solution.result) else None


def proven_right(answer: Answer) -> bool:
    """Whether the exact check proves a flagged answer right after all."""
    solution = solve(answer.query)
    return solution is not None and answers_agree(answer.response, solution.result)


def _example(answer: Answer, decision: Decision, score: float) -> TrainingExample:
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
    )


def _record(harvest: Harvest, seconds: float) -> None:
    outcomes, accepted = harvest.outcomes, len(harvest.examples)
    rewritten = sum(outcome.decision.rewrite is not None for outcome in outcomes)
    ledger.append(
        "harvest",
        date=harvest.window.day.isoformat(),
        complete=harvest.window.complete,
        failures=len(outcomes),
        causes=dict(Counter(outcome.failure.cause for outcome in outcomes)),
        skipped=dict(+harvest.skipped),
        rewritten=rewritten,
        accepted=accepted,
        abstained=len(outcomes) - rewritten,
        refused=rewritten - accepted,
        rewrite_success_rate=accepted / len(outcomes) if outcomes else None,  # no failure is no success
        seconds=seconds,
        file=harvest.file.name,
    )


def day_window(day: date) -> Window:
    """Return the whole local day."""
    since, until = (_midnight(d) for d in (day, day + timedelta(1)))
    return Window(day, since, until, until <= time.time())


def split_by_day(since: datetime, until: datetime) -> list[Window]:
    """Return the stretch as windows of one local day each."""
    windows, day = [], since.astimezone().date()
    while _midnight(day) < until.timestamp():
        whole = day_window(day)
        start, end = max(whole.since, since.timestamp()), min(whole.until, until.timestamp())
        windows.append(Window(day, start, end, whole.complete and (start, end) == (whole.since, whole.until)))
        day += timedelta(1)
    return windows


def days_due(target: date) -> list[date]:
    """Return the target day, and before it the days that were missed since the last complete harvest."""
    done = [date.fromisoformat(e["date"]) for e in ledger.read("harvest") if e.get("complete")]
    first = max(max(done) + timedelta(1), target - timedelta(CATCH_UP)) if done else target
    return [first + timedelta(n) for n in range((target - first).days + 1)] or [target]


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day).astimezone().timestamp()


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


def _report(harvest: Harvest) -> None:
    """Log what became of the day's failures, by cause and by kind."""
    aside = ", ".join(f"{count} {why}" for why, count in (+harvest.skipped).items())
    log.info("%s: %d failures%s", harvest.window.day, len(harvest.outcomes), f" (set aside: {aside})" if aside else "")
    rows = [(f"cause {o.failure.cause}", o) for o in harvest.outcomes] + [
        (f"kind {o.kind}", o) for o in harvest.outcomes
    ]
    if not rows:
        return
    columns = ("failures", "rewritten", "verified", "abstained", "refused")
    log.info("%-20s %s", "", " ".join(f"{name:>9}" for name in columns))
    for name in dict.fromkeys(name for name, _ in rows):
        log.info("%-20s %s", name, " ".join(f"{n:9}" for n in _counts([o for row, o in rows if row == name])))
    reasons = Counter(o.decision.reason for o in harvest.outcomes if o.decision.rewrite is None)
    for reason, count in reasons.most_common():
        log.info("abstained: %d x %s", count, reason)


def _counts(outcomes: list[Outcome]) -> tuple[int, ...]:
    rewritten = [o for o in outcomes if o.decision.rewrite]
    verified = sum(o.decision.verified_by is not None for o in rewritten)
    refused = sum(o.example is None for o in rewritten)
    return len(outcomes), len(rewritten), verified, len(outcomes) - len(rewritten), refused


def main() -> int:
    arguments = _arguments()
    windows = _windows(arguments)
    _log_to_file()
    harvester = FailureHarvester()
    harvests = []
    for window in windows:
        harvests.append(harvester.harvest(window))
        _report(harvests[-1])
    for name, count in harvester.attendance.failures.items():
        log.warning("council member %s failed %d times", name, count)
    accepted = sum(len(harvest.examples) for harvest in harvests)
    if not accepted:
        log.info("no new example: nothing to do")
        return NOTHING_TO_DO
    log.info("%d new examples in %s", accepted, ", ".join(h.file.name for h in harvests if h.examples))
    return DONE


if __name__ == "__main__":
    run_command(main)

"""What is known of one night, gathered from the ledger, the releases, the pool and memory, for its report."""

import math
import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property

from agent0 import adapters, ledger, story, veto
from agent0.adapter_checks import read_json
from agent0.command import LOCKED, CouncilError
from agent0.quarantine import quarantine_file
from agent0.records import Quarantined, TrainingExample, read_jsonl
from agent0.settings import get_settings
from agent0.train import learned_ids, load_pool
from faiss_memory import FaissMemory

STAMP = "%Y%m%dT%H%M%SZ"  # how the scripts write a night's start, UTC
STAGES = ("pre-flight", "harvest", "training", "gate", "deployment", "validation", "cleanup")
LEARNED = 12  # examples shown of those that a night learned
REFUSED = 12  # refusals shown


@dataclass(frozen=True)
class Rate:
    """Right answers of so many, and Wilson's 95 % interval of their share (JASA 22, 1927)."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / self.asked

    @cached_property
    def interval(self) -> tuple[float, float]:
        z, n, p = 1.959964, self.asked, self.share
        middle, spread = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)


@dataclass(frozen=True)
class Comparison:
    """One kind or suite of questions, as what served and what was tried answer it."""

    name: str
    before: Rate
    after: Rate

    @classmethod
    def of(cls, name: str, change: dict) -> "Comparison":
        right, asked = change["right"], change["asked"]
        return cls(name, Rate(right, asked), Rate(right + change["gained"] - change["lost"], asked))


@dataclass(frozen=True)
class Point:
    """What served after one gate's night, on held-out questions."""

    when: datetime
    release: str
    rate: Rate


@dataclass(frozen=True)
class Learned:
    """A training example and the answer that it came from; `failed` is None where memory no longer holds it."""

    example: TrainingExample
    failed: dict | None
    vetoed: bool


@dataclass
class Night:
    """One nightly run: its id, the events that name it, and the ledger up to its end."""

    id: str
    events: list[dict]
    ledger: list[dict] = field(repr=False)

    @property
    def day(self) -> date:
        return started(self.id).date()

    def newest(self, event: str) -> dict | None:
        found = [line for line in self.events if line["event"] == event]
        return found[-1] if found else None

    @property
    def end(self) -> dict:
        """The event `night`; what is known of it where the run has not ended yet."""
        return self.newest("night") or {"exit_code": None, "outcome": "not ended", "stage": "", "stages": {}}

    @property
    def severity(self) -> str:
        code = self.end["exit_code"]
        return "info" if code is None else story.outcome(code)[1]

    @property
    def verdict(self) -> str:
        return story.verdict(self.end["exit_code"], self.end["stage"], self.events)

    def comparisons(self, which: str) -> list[Comparison]:
        """The gate's `suites` or `kinds`; empty where it did not come so far, or is of an older version."""
        changes = (self.newest("gate") or {}).get(which, {})
        found = [Comparison.of(name, change) for name, change in changes.items() if "right" in change]
        return sorted(found, key=lambda row: (row.name != "held-out", row.name))

    def summary(self, name: str) -> dict:
        """A release's JSON of this night: training_metrics, gate_summary, …; empty where there is none."""
        made = self.newest("training") or self.newest("gate")
        path = adapters.adapters_folder() / str(made and made["release"]) / f"{name}.json"
        return read_json(path) if path.exists() else {}

    def learned(self, memory: FaissMemory) -> tuple[int, list[Learned]]:
        """How many examples this night's harvests added, and the first LEARNED of them, kinds in turn."""
        vetoes, found = veto.Vetoes(), []
        for harvest in (line for line in self.events if line["event"] == "harvest"):
            path, end = get_settings().training_data / harvest["file"], harvest["timestamp"]
            for example in read_jsonl(path, TrainingExample) if path.exists() else []:
                if end - harvest["seconds"] - 1 <= example.harvest_timestamp <= end:
                    found.append(example)
        seen: dict[str, int] = {}
        turn = []
        for example in found:
            seen[example.kind] = seen.get(example.kind, 0) + 1
            turn.append((seen[example.kind], example))
        shown = [example for _, example in sorted(turn, key=lambda pair: pair[0])[:LEARNED]]
        return len(found), [Learned(e, memory.get(e.answer_id), e in vetoes) for e in shown]

    def refused(self) -> tuple[int, list[Quarantined]]:
        """How many rewrites or questions stand in the quarantine of this night's days, and the first REFUSED."""
        days = {line["date"] for line in self.events if line["event"] == "harvest"}
        paths = [quarantine_file(get_settings().training_data, date.fromisoformat(day)) for day in sorted(days)]
        lines = [line for path in paths if path.exists() for line in read_jsonl(path, Quarantined)]
        return len(lines), lines[:REFUSED]

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of each stage that ended, in the order of the night."""
        return dict(
            sorted(self.end["stages"].items(), key=lambda pair: STAGES.index(pair[0]) if pair[0] in STAGES else 99)
        )

    def reasons(self, which: str) -> dict[str, int]:
        """`reasons` (refused) or `abstentions`, counted over the night's harvests."""
        total: dict[str, int] = {}
        for line in self.events:
            for reason, count in line.get(which, {}).items():
                total[reason] = total.get(reason, 0) + count
        return dict(sorted(total.items(), key=lambda pair: -pair[1]))

    def history(self) -> list[Point]:
        """Success on held-out questions after each gate so far, and before the first."""
        points: list[Point] = []
        gates = [e for e in self.ledger if e["event"] == "gate" and "right" in e["suites"].get("held-out", {})]
        for number, gate in enumerate(gates):
            until = gates[number + 1]["timestamp"] if number + 1 < len(gates) else float("inf")
            span = [e for e in self.ledger if gate["timestamp"] <= e["timestamp"] < until]
            kept = [e["event"] for e in span if e.get("release") == gate["release"]][1:]
            change, when = Comparison.of("", gate["suites"]["held-out"]), datetime.fromtimestamp(gate["timestamp"])
            if not points:
                points.append(Point(when, gate["serving"], change.before))
            won = kept[-1:] == ["deployment"]
            points.append(Point(when, gate["release" if won else "serving"], change.after if won else change.before))
        return points

    def traffic(self, memory: FaissMemory) -> dict | None:
        """What users asked in the 24 h before the night: answers, the share believed, p50 and p95 in ms."""
        end = started(self.id).timestamp()
        answers = memory.between(end - 86400, end)
        if not answers:
            return None
        times = sorted(answer["latency_ms"] for answer in answers)
        share = sum(answer["success"] for answer in answers) / len(answers)
        return {"answers": len(answers), "success": share, "p50": _at(times, 0.5), "p95": _at(times, 0.95)}


def _at(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]  # nearest rank, as everywhere else


def started(night: str) -> datetime:
    """When a night started, local time. Raises CouncilError where that is no night's id."""
    try:
        return datetime.strptime(night, STAMP).replace(tzinfo=UTC).astimezone()
    except ValueError:
        raise CouncilError(f"{night!r:.40} is no night; `python -m agent0.report --list` prints them") from None


def nights() -> list[Night]:
    """Every nightly run that the ledger knows, oldest first. Raises CouncilError for a damaged ledger."""
    lines = ledger.read()
    ids = list(dict.fromkeys(line["night"] for line in lines if line["night"]))
    return [night_of(id, lines) for id in ids]


def night_of(id: str, lines: list[dict]) -> Night:
    own = [line for line in lines if line["night"] == id]
    end = own[-1]["timestamp"] if own else time.time()
    return Night(id, own, [line for line in lines if line["timestamp"] <= end])


@dataclass(frozen=True)
class Place:
    """One release in the chain: since when it is there, what it learned from, what came of it, what people may do."""

    name: str
    created: datetime | None
    examples: int
    fate: str
    serves: bool
    way_back: bool
    waits: bool
    refused: bool


def chain() -> list[Place]:
    """The releases, newest first, as they stand now."""
    serving, back = adapters.target("current") or adapters.ensure_base(), adapters.rollback_targets()
    failed = set(adapters.links("failed").values())
    places = []
    for release in adapters.releases():
        manifest = _manifest(release)
        fate, refused = _fate(release, failed), adapters.refused(release) is not None
        waits = release != serving and not (release.is_base or refused or release in failed)
        made = manifest.get("created")
        when = datetime.fromtimestamp(made) if made else None
        count = len(manifest.get("example_ids", []))
        places.append(Place(release.name, when, count, fate, release == serving, release in back, waits, refused))
    return places


def _manifest(release: adapters.Release) -> dict:
    try:
        return release.manifest
    except CouncilError:
        return {}


def _fate(release: adapters.Release, failed: set[adapters.Release | None]) -> str:
    if release.is_base:
        return "the model itself"
    if mark := adapters.refused(release):
        return f"refused by {mark['by']}, {datetime.fromtimestamp(mark['timestamp']):%-d %b %H:%M}"
    if release in failed:
        return "rolled back"
    if adapters.promoted_at(release):
        return "deployed"
    if adapters.held(release):
        return "on hold: the evidence of its deployment was not enough"
    path = release.path / "gate_summary.json"
    end = read_json(path)["end"] if path.exists() else ""
    return {"refuse": "refused by the gate", "inconclusive": "not better for sure"}.get(end, "not tried")


def tomorrow(exit_code: int | None) -> list[str]:
    """What the next night will find, by what is there now. Raises CouncilError for a damaged pool."""
    settings = get_settings()
    pool = load_pool(settings.training_data)
    latest = adapters.target("latest")
    new, needed = {example.id for example in pool} - learned_ids(latest), settings.min_failures_to_train
    said = [f"The pool holds {len(pool)} examples; {len(new)} of them are in no training yet."]
    if removed := veto.removed(latest):
        said.append(f"{removed} vetoed or forgotten examples are in what was trained last: a training without is due.")
    elif len(new) >= needed:
        said.append(f"That is enough for a training ({needed} needed), whatever tomorrow's harvest adds.")
    else:
        said.append(f"A training needs {needed}: tomorrow's harvest must add {needed - len(new)} more.")
    if latest and adapters.refused(latest):
        said.append(f"{latest.name}, trained last, is refused and not tried again.")
    elif latest and latest == adapters.waiting():
        why = "is on hold: it is tried again" if adapters.held(latest) else "was not tried: it is then"
        said.append(f"{latest.name} {why}.")
    if exit_code in (1, 2, LOCKED):
        said.append("First mend what stopped this night: the next one meets it again.")
    return said

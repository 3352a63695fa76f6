"""May a freshly trained release be tried at all? It answers what the serving one answers, and must do better.

    python -m agent0.gate [RELEASE]        (default: loras/latest)

Asked of both, greedily, through the server: held-out questions, what the serving release was trained to get right,
and general questions that the base model gets right. The three ends are promote (exit 0), refuse and inconclusive
(exit 30 both: nothing changes, and the examples stay in the pool for tomorrow).
"""

import argparse
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from agent0 import adapters, ledger
from agent0.adapters import Release
from agent0.client import CouncilClient
from agent0.command import DONE, NOTHING_TO_DO, REFUSED, log, run_command
from agent0.evaluate import Outcome, load_questions, measure
from agent0.pool import load_pool
from agent0.quality import GENERAL, HELD_OUT, final_answer, questions_file
from agent0.records import Question
from agent0.settings import get_settings
from agent0.switch import load_release, serving_release, unload_release

SURE = 0.05  # one-sided p at which a difference is not taken for chance
FIXED_AT_MOST = 64  # questions of earlier nights asked again


@dataclass(frozen=True)
class Change:
    """How many questions of one suite or kind each release alone gets right, of how many asked."""

    asked: int
    gained: int
    lost: int

    @property
    def improvement(self) -> float:
        """Success of the candidate minus that of the serving release."""
        return (self.gained - self.lost) / self.asked

    def chance(self, worse: bool) -> float:
        """One-sided p of the exact sign test (McNemar): that equals differ by this much to the worse or the better."""
        from scipy.stats import binomtest  # takes a second to import

        differ = self.gained + self.lost
        return (
            binomtest(self.lost if worse else self.gained, differ, 0.5, alternative="greater").pvalue if differ else 1
        )


@dataclass(frozen=True)
class Judgement:
    """`end` is promote, refuse or inconclusive."""

    end: str
    reason: str
    improvement: float


def compare(serving: Iterable[Outcome], candidate: Iterable[Outcome]) -> Change:
    """Count what changed between two measurements of the same questions in the same order."""
    pairs = [(a.correct, b.correct) for a, b in zip(serving, candidate, strict=True)]
    return Change(len(pairs), sum(b > a for a, b in pairs), sum(a > b for a, b in pairs))


def judge(suites: dict[str, Change], kinds: dict[str, Change]) -> Judgement:
    """Refuse what loses more than noise or forgets too much, promote what gains more than noise on held-out questions.

    A kind is one of many, so that one of them falls by chance more easily: its p is Bonferroni's.
    """
    held_out, forgotten = suites["held-out"], -suites["general"].improvement
    if forgotten > (allowed := get_settings().max_forgetting):
        return Judgement(
            "refuse", f"general questions: {forgotten:.0%} forgotten, {allowed:.0%} allowed", held_out.improvement
        )
    falls = [(f"{name} questions", change, SURE) for name, change in suites.items() if name != "general"]
    falls += [(f"kind {name}", change, SURE / len(kinds)) for name, change in kinds.items()]
    for name, change, sure in falls:
        if (chance := change.chance(worse=True)) < sure:
            reason = f"{name}: {change.lost} lost, {change.gained} gained of {change.asked} (p={chance:.1g})"
            return Judgement("refuse", reason, held_out.improvement)
    chance = held_out.chance(worse=False)
    words = f"held-out {held_out.improvement:+.1%} of {held_out.asked}: {held_out.gained} gained, {held_out.lost} lost"
    return Judgement("promote" if chance < SURE else "inconclusive", f"{words} (p={chance:.1g})", held_out.improvement)


def fixed_questions(serving: Release) -> list[Question]:
    """What the serving release was trained to answer: proven rewrites of earlier nights, sampled by its name."""
    trained = set(serving.manifest.get("example_ids", []))
    rows = [
        Question(id=example.id, kind=example.kind, question=example.instruction, answer=final_answer(example.output))
        for example in load_pool(get_settings().training_data)
        if example.id in trained and example.verified_by and not example.input
    ]
    return random.Random(serving.name).sample(rows, min(FIXED_AT_MOST, len(rows)))


def examine(client: CouncilClient, serving: Release, candidate: Release) -> tuple[Judgement, dict[str, Change]]:
    """Measure both on every suite and judge. Raises ServerError where the server fails."""
    suites = {
        "held-out": load_questions(questions_file(HELD_OUT)),
        "fixed": fixed_questions(serving),
        "general": load_questions(questions_file(GENERAL)),
    }
    questions = [question for rows in suites.values() for question in rows]
    load_release(client, candidate)
    try:
        answers = [measure(questions, release.name, title=f"asking {release.name}") for release in (serving, candidate)]
    finally:
        unload_release(client, candidate)
    changes, start = {}, 0
    for name, rows in suites.items():
        if rows:
            changes[name] = compare(*(outcomes[start : start + len(rows)] for outcomes in answers))
        start += len(rows)
    held_out = [outcomes[: len(suites["held-out"])] for outcomes in answers]
    return judge(changes, _by_kind(*held_out)), changes


def _by_kind(serving: Sequence[Outcome], candidate: Sequence[Outcome]) -> dict[str, Change]:
    kinds = sorted({outcome.question.kind for outcome in serving})
    return {
        kind: compare(*([o for o in outcomes if o.question.kind == kind] for outcomes in (serving, candidate)))
        for kind in kinds
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", nargs="?", default="loras/latest")
    candidate = adapters.validate(parser.parse_args().release)
    client, serving = CouncilClient(), serving_release()
    if candidate == serving:
        log.info("nothing to judge: %s serves already", candidate.name)
        return NOTHING_TO_DO
    judged, changes = examine(client, serving, candidate)
    ledger.append(
        "gate",
        release=candidate.name,
        serving=serving.name,
        end=judged.end,
        reason=judged.reason,
        improvement=judged.improvement,
        suites={name: asdict(change) for name, change in changes.items()},
    )
    log.info("%s against %s: %s; %s", candidate.name, serving.name, judged.end, judged.reason)
    return DONE if judged.end == "promote" else REFUSED


if __name__ == "__main__":
    run_command(main)

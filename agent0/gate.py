"""May a freshly trained release be tried at all? It answers what the serving one answers, and must do better.

    python -m agent0.gate [RELEASE]        (default: loras/latest)

Asked of both, greedily, through the server: held-out questions, what the serving release was trained to get right, what
the candidate was taught that nothing proves, and general questions, where the candidate is held against the base model,
lest it forget a little night by night. The three ends are promote (exit 0), refuse and inconclusive (exit 30 both:
nothing changes, and the examples stay in the pool for tomorrow). But what is new among the examples and not proven is
suspect then, and set aside: else one bad night would spoil all that follow.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from statistics import median

from agent0 import adapters, ledger, veto
from agent0.adapters import BASE, Release
from agent0.agreement import final_answer, numbers
from agent0.client import CouncilClient
from agent0.command import DONE, NOTHING_TO_DO, REFUSED, log, run_command
from agent0.evaluate import Outcome, load_questions, measure
from agent0.evidence import p95
from agent0.pool import load_pool, proven
from agent0.quality import ANSWER_TOKENS, GENERAL, HELD_OUT, questions_file
from agent0.records import Question, TrainingExample, write_json
from agent0.settings import get_settings
from agent0.switch import load_release, serving_release, unload_release

SURE = 0.05  # one-sided p at which a difference is not taken for chance
FIXED_AT_MOST = 64  # questions of earlier nights asked again
TAUGHT = 16, 64  # unproven examples of which it is asked what was learned: at least, at most
SHOWN = 20  # answers that got better, and that got worse, kept for people to read
SUMMARY = "gate_summary.json"  # beside the release's weights


@dataclass(frozen=True)
class Change:
    """How many questions of one suite or kind each release alone gets right, of how many asked.

    `right` is how many the serving release gets right.
    """

    asked: int
    gained: int
    lost: int
    right: int = 0

    @property
    def improvement(self) -> float:
        """Success of the candidate minus that of the serving release."""
        return (self.gained - self.lost) / self.asked

    def chance(self, worse: bool) -> float:
        """One-sided p of the exact sign test (McNemar): that equals differ by this much to the worse or the better."""
        from scipy.special import bdtrc  # only here: it takes a while to import

        return float(bdtrc((self.lost if worse else self.gained) - 1, self.gained + self.lost, 0.5))


@dataclass(frozen=True)
class Judgement:
    """`end` is promote, refuse or inconclusive; `fell`: refused for what it is trained for, worse or not learned."""

    end: str
    reason: str
    improvement: float
    fell: bool = False


def compare(serving: Iterable[Outcome], candidate: Iterable[Outcome]) -> Change:
    """Count what changed between two measurements of the same questions in the same order."""
    pairs = [(a.correct, b.correct) for a, b in zip(serving, candidate, strict=True)]
    gained, lost = sum(b > a for a, b in pairs), sum(a > b for a, b in pairs)
    return Change(len(pairs), gained, lost, sum(a for a, _ in pairs))


def judge(suites: dict[str, Change], kinds: dict[str, Change]) -> Judgement:
    """Refuse what loses more than noise or forgets too much, promote what gains more than noise on held-out questions.

    A kind is one of many, so that one of them falls by chance more easily: its p is Bonferroni's. Unproven examples
    that taught nothing are refused, too: networks learn what has a pattern before what has none (arXiv:1706.05394).
    """
    held_out, forgotten = suites["held-out"], -suites["general"].improvement
    falls = [(f"{name} questions", suites[name], SURE) for name in ("held-out", "fixed") if name in suites]
    falls += [(f"kind {name}", change, SURE / len(kinds)) for name, change in kinds.items()]
    for name, change, sure in falls:
        if (chance := change.chance(worse=True)) < sure:
            reason = f"{name}: {change.lost} lost, {change.gained} gained of {change.asked} (p={chance:.1g})"
            return Judgement("refuse", reason, held_out.improvement, fell=True)
    taught = suites.get("taught")
    if taught and taught.chance(worse=False) >= SURE:
        learned = f"{taught.gained} learned, {taught.lost} lost of {taught.asked}"
        return Judgement("refuse", f"examples that nothing proves: {learned}", held_out.improvement, fell=True)
    if forgotten > (allowed := get_settings().max_forgetting):
        reason = f"general questions: {forgotten:.1%} forgotten, {allowed:.0%} allowed"
        return Judgement("refuse", reason, held_out.improvement)
    chance = held_out.chance(worse=False)
    words = f"held-out {held_out.improvement:+.1%} of {held_out.asked}: {held_out.gained} gained, {held_out.lost} lost"
    return Judgement("promote" if chance < SURE else "inconclusive", f"{words} (p={chance:.1g})", held_out.improvement)


def replacement(judged: Judgement, serving: Release, candidate: Release) -> Judgement:
    """Let a candidate that is no worse replace a release which was trained on what people vetoed or forgot."""
    removed = veto.removed(serving)
    if judged.end != "inconclusive" or not removed or veto.removed(candidate):
        return judged
    reason = f"{judged.reason}; what serves was trained on {removed} vetoed or forgotten examples, this was not"
    return replace(judged, end="promote", reason=reason)


def _kept_success(judged: Judgement, held_out: Change) -> float:
    """Held-out success of what the gate lets serve."""
    return held_out.right / held_out.asked + (held_out.improvement if judged.end == "promote" else 0)


def fixed_questions(serving: Release) -> list[Question]:
    """What the serving release was trained to answer: proven rewrites of earlier nights, sampled by its name."""
    trained = set(serving.manifest.get("example_ids", []))
    rows = [
        Question(id=example.id, kind=example.kind, question=example.instruction, answer=final_answer(example.output))
        for example in load_pool(get_settings().training_data)
        if example.id in trained and example.verified_by and not example.input
    ]
    return random.Random(serving.name).sample(rows, min(FIXED_AT_MOST, len(rows)))


def taught_questions(serving: Release, candidate: Release) -> list[Question]:
    """What the candidate learned beyond the serving release and nothing verified, of short answers with a number.

    A sample, or none where they are too few to tell.
    """
    rows = [
        Question(id=example.id, kind=example.kind, question=example.instruction, answer=final_answer(example.output))
        for example in _new_examples(serving, candidate)
        if not example.verified_by and not example.input and len(example.output) < 3 * ANSWER_TOKENS
    ]
    rows = [row for row in rows if numbers(row.answer)]
    least, most = TAUGHT
    return random.Random(candidate.name).sample(rows, min(most, len(rows))) if len(rows) >= least else []


def _new_examples(serving: Release, candidate: Release) -> list[TrainingExample]:
    new = set(candidate.manifest.get("example_ids", [])) - set(serving.manifest.get("example_ids", []))
    return [example for example in load_pool(get_settings().training_data) if example.id in new]


def suspects(serving: Release, candidate: Release, fell: bool) -> dict[str, str]:
    """What a release that is not promoted learned beyond the serving one and no exact check proves: id -> content.

    Where the candidate did not fall, nothing is suspect unless enough proven examples are new, too: the next training
    then has those, and what nothing proves must not hold them up night after night.
    """
    learned = _new_examples(serving, candidate)
    doubted = {e.id: veto.content(e.instruction, e.output) for e in learned if not proven(e)}
    return doubted if fell or len(learned) - len(doubted) >= get_settings().min_failures_to_train else {}


@dataclass(frozen=True)
class Examination:
    """The judgement and what it rests on: changes by suite and by kind of held-out question, times, answers."""

    judged: Judgement
    suites: dict[str, Change]
    kinds: dict[str, Change]
    latency_ms: dict[str, dict[str, float]]  # of serving and candidate: p50 and p95, eight questions at a time
    changed: dict[str, list[dict]]  # better and worse: what both said, side by side


def examine(client: CouncilClient, serving: Release, candidate: Release) -> Examination:
    """Measure the candidate on every suite, beside what serves, or base on general questions, and judge.

    Raises ServerError where the server fails.
    """
    suites = {
        "held-out": load_questions(questions_file(HELD_OUT)),
        "fixed": fixed_questions(serving),
        "taught": taught_questions(serving, candidate),
        "general": load_questions(questions_file(GENERAL)),
    }
    questions = [question for rows in suites.values() for question in rows]
    general = len(suites["general"])
    load_release(client, candidate)
    try:
        before = measure(questions[:-general], serving.name, title=f"asking {serving.name}")
        before += measure(suites["general"], BASE, title=f"asking {BASE}")
        answers = before, measure(questions, candidate.name, title=f"asking {candidate.name}")
    finally:
        unload_release(client, candidate)
    changes, start = {}, 0
    for name, rows in suites.items():
        if rows:
            changes[name] = compare(*(outcomes[start : start + len(rows)] for outcomes in answers))
        start += len(rows)
    kinds = _by_kind(*(outcomes[: len(suites["held-out"])] for outcomes in answers))
    latency = {who: _latency(outcomes) for who, outcomes in zip(("serving", "candidate"), answers, strict=True)}
    names = [name for name, rows in suites.items() for _ in rows]
    return Examination(judge(changes, kinds), changes, kinds, latency, _changed(names, *answers))


def _latency(outcomes: Sequence[Outcome]) -> dict[str, float]:
    times = [outcome.seconds * 1000 for outcome in outcomes]
    return {"p50": round(median(times), 1), "p95": round(p95(times), 1)}


def _changed(suites: Sequence[str], serving: Sequence[Outcome], candidate: Sequence[Outcome]) -> dict[str, list[dict]]:
    """Up to SHOWN answers that got better, of each kind in turn, and that got worse."""
    found: dict[str, dict[str, list[dict]]] = {"better": defaultdict(list), "worse": defaultdict(list)}
    for suite, a, b in zip(suites, serving, candidate, strict=True):
        if a.correct != b.correct:
            asked = {"suite": suite, **a.question.model_dump()}
            row = {**asked, "before": a.response, "after": b.response}
            found["better" if b.correct else "worse"][a.question.kind].append(row)
    return {
        end: [row for turn in zip_longest(*kinds.values()) for row in turn if row][:SHOWN]
        for end, kinds in found.items()
    }


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
    examined = examine(client, serving, candidate)
    judged = replacement(examined.judged, serving, candidate)
    aside = suspects(serving, candidate, judged.fell) if judged.end != "promote" else {}
    if aside:
        told = f"{len(aside)} new examples that nothing proves are set aside (`python -m agent0.veto --list`)"
        judged = replace(judged, reason=f"{judged.reason}; {told}")
    event = ledger.append(
        "gate",
        release=candidate.name,
        serving=serving.name,
        end=judged.end,
        reason=judged.reason,
        improvement=judged.improvement,
        set_aside=aside,
        success=_kept_success(judged, examined.suites["held-out"]),
        suites={name: asdict(change) for name, change in examined.suites.items()},
        kinds={name: asdict(change) for name, change in examined.kinds.items()},
        latency_ms=examined.latency_ms,
    )
    write_json(candidate.path / SUMMARY, {**event, "changed": examined.changed})
    log.info("%s against %s: %s; %s", candidate.name, serving.name, judged.end, judged.reason)
    return DONE if judged.end == "promote" else REFUSED


if __name__ == "__main__":
    run_command(main)

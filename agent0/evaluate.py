"""Measure success on questions with known answers, through the server, exactly as a client sees it.

    python -m agent0.evaluate [examples/heldout.jsonl] [--model RELEASE] [--clients N]
    python -m agent0.evaluate CANDIDATES.jsonl --model base --known 8 > general.jsonl

Prints correct answers by kind and the latency, or what of the questions the model knows. Questions are asked with
store=false: they never enter memory.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from agent0.agreement import is_right
from agent0.client import CouncilClient
from agent0.command import DONE, USAGE, CouncilError, run_command
from agent0.evidence import p95
from agent0.quality import ANSWER_TOKENS, HELD_OUT, questions_file
from agent0.records import Question, read_jsonl

WARM = 0.7  # temperature at which a model says what it half knows in many ways


@dataclass(frozen=True)
class Outcome:
    """One question, what was answered, whether that is right, and the seconds it took."""

    question: Question
    response: str
    correct: bool
    seconds: float


def load_questions(path: Path) -> list[Question]:
    """Return the questions of path that have a known answer. Raises CouncilError where there is none."""
    if not path.exists():
        raise CouncilError(f"{path} does not exist; name a JSONL file of questions with answers", USAGE)
    questions = [question for question in read_jsonl(path, Question) if question.answer is not None]
    if not questions:
        raise CouncilError(f"{path} has no question with a known answer; give some lines an `answer`", USAGE)
    return questions


def measure(
    questions: list[Question],
    model: str | None = None,
    clients: int = 8,
    title: str = "measuring",
    temperature: float = 0,
) -> list[Outcome]:
    """Ask each question once, greedily where nothing else is said, and judge each answer by its exact result."""
    replies = CouncilClient().ask_many(
        [question.question for question in questions],
        clients=clients,
        title=title,
        model=model,
        store=False,
        temperature=temperature,
        max_tokens=ANSWER_TOKENS,
    )
    return [
        Outcome(question, reply.text, is_right(reply.text, question.answer or ""), reply.seconds)
        for question, reply in zip(questions, replies, strict=True)
    ]


def known(questions: list[Question], tries: int, model: str | None = None, clients: int = 8) -> list[Question]:
    """Return what a model knows: right greedily, and in all of `tries` at WARM but one.

    What it got right by luck, any training turns to wrong by chance, which is not forgetting: bench/RESULTS.md,
    "Against forgetting".
    """
    greedy = measure(questions, model, clients)
    warm = measure([q for q in questions for _ in range(tries)], model, clients, temperature=WARM)
    right = [sum(outcome.correct for outcome in warm[at : at + tries]) for at in range(0, len(warm), tries)]
    return [o.question for o, often in zip(greedy, right, strict=True) if o.correct and often >= tries - 1]


def success_rate(outcomes: list[Outcome]) -> float:
    return sum(outcome.correct for outcome in outcomes) / len(outcomes)


def by_kind(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.question.kind].append(outcome)
    return dict(sorted(kinds.items()))


def table(columns: dict[str, list[Outcome]]) -> str:
    """Return a text table: a row a kind, a column a measurement, shares of correct answers in percent."""
    grouped = {name: by_kind(outcomes) for name, outcomes in columns.items()}
    kinds = list(next(iter(grouped.values())))
    lines = [f"{'kind':<12} {'n':>4}" + "".join(f"{name:>10}" for name in grouped)]
    for kind in kinds:
        count = len(next(iter(grouped.values()))[kind])
        lines.append(
            f"{kind:<12} {count:>4}" + "".join(f"{success_rate(rows[kind]):>10.1%}" for rows in grouped.values())
        )
    total = len(next(iter(columns.values())))
    lines.append(f"{'all':<12} {total:>4}" + "".join(f"{success_rate(rows):>10.1%}" for rows in columns.values()))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="?", type=Path, help="default: heldout.jsonl of QUESTIONS_PATH")
    parser.add_argument("--model", help="a loaded release, or `base`; default: what serves")
    parser.add_argument("--clients", type=int, default=8, help="questions asked at once")
    parser.add_argument("--show", action="store_true", help="print every answer, too")
    parser.add_argument("--known", type=int, metavar="N", help="print as JSONL what is right in all of N tries but one")
    arguments = parser.parse_args()
    questions = load_questions(arguments.questions or questions_file(HELD_OUT))
    if arguments.known:
        for question in known(questions, arguments.known, arguments.model, arguments.clients):
            print(question.model_dump_json())
        return DONE
    outcomes = measure(questions, arguments.model, arguments.clients)
    if arguments.show:
        for outcome in outcomes:
            mark = "right" if outcome.correct else "WRONG"
            print(f"{mark} {outcome.question.question!r} [{outcome.question.answer}] {outcome.response!r}")
    seconds = [outcome.seconds for outcome in outcomes]
    print(table({"correct": outcomes}))
    middle, slow = median(seconds) * 1000, p95(seconds) * 1000
    print(f"latency with {arguments.clients} client(s): p50 {middle:.0f} ms, p95 {slow:.0f} ms")
    return DONE


if __name__ == "__main__":
    run_command(main)

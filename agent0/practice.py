"""Practice: proven questions of the pool with other numbers, so that a model learns the way and not the answer.

Questions are bootstrapped as in MetaMath (arXiv:2309.12284), but no model writes an answer: the council's math member
works each one out, as it did the original.
"""

import random
import re
from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from itertools import islice, zip_longest

from agent0.council.math import solve
from agent0.quality import gist, held_out_questions
from agent0.records import TrainingExample

NUMBER = re.compile(r"\d+(?:\.\d+)?")
TURNS = 3  # of a new question for one of an old: what fails is practised most, as in DART-Math (arXiv:2407.13690)
TRIES = 20  # draws after which a question is left alone: its numbers depend on each other


def practicable(example: TrainingExample) -> bool:
    """Whether the example can be given other numbers: the math member proved it."""
    return (example.verified_by or "").startswith("math:")


def practice_examples(
    pool: Sequence[TrainingExample], wanted: int, seed: str = "", new: Collection[str] = ()
) -> list[TrainingExample]:
    """Return up to `wanted` variations of the pool's questions; `new`: the ids of those that were not learned yet.

    They are the same for the same pool and seed. The questions take turns, so that none is practised twice before each
    was once, but a new one takes TURNS at a time. Nothing in it is held out, in the pool, or there twice.
    """
    held_out = held_out_questions()
    known = held_out | {gist(example.instruction) for example in pool}
    measured = {_numbers(question) for question in held_out} - {None}
    varied = {e.id: _variations(e, random.Random(f"{seed}{e.id}")) for e in pool if practicable(e)}
    turns = [source for name, source in varied.items() for _ in range(TURNS if name in new else 1)]
    drawn = (example for turn in zip_longest(*turns) for example in turn if example)
    return list(islice((e for e in _unseen(drawn, known) if _numbers(e.instruction) not in measured), wanted))


def _unseen(examples: Iterator[TrainingExample], known: set[str]) -> Iterator[TrainingExample]:
    for example in examples:
        question = gist(example.instruction)
        if question not in known:
            known.add(question)
            yield example


def _numbers(text: str) -> tuple[str, ...] | None:
    """The numbers of a text in their order; None for one alone, which many questions share."""
    found = tuple(NUMBER.findall(text))
    return found if len(found) > 1 else None


def _variations(example: TrainingExample, r: random.Random) -> Iterator[TrainingExample]:
    """Yield the question with other numbers, worked out, until TRIES draws in a row brought nothing new of its form."""
    form = _form(solution.result) if (solution := solve(example.instruction)) else None
    misses, drawn = 0, {example.instruction}
    while form is not None and misses < TRIES:
        question = r.choice((redrawn, shifted))(example.instruction, r)
        solution = None if question in drawn else solve(question)
        if solution is None or _form(solution.result) != form:
            misses += 1
            continue
        misses = 0
        drawn.add(question)
        name = sha256(f"{example.id}\n{question}".encode()).hexdigest()[:16]
        words = {"instruction": question, "output": solution.output, "reasoning": solution.why, "kind": solution.kind}
        yield example.model_copy(update={**words, "id": name, "votes": None, "origin": "practice"})


def redrawn(question: str, r: random.Random) -> str:
    """Draw each number anew: half to twice as large, no longer, as round and with as many decimals (40: 70, not 43)."""

    def draw(found: re.Match) -> str:
        whole, point, decimals = found[0].partition(".")
        value, longest = int(whole + decimals), 10 ** len(whole + decimals) - 1
        grain = next(grain for grain in (1000, 100, 10, 5, 1) if value % grain == 0)
        most = max(2, min(2 * value, longest) // grain)
        drawn = str(grain * r.randint(min(max(1, value // grain // 2), most), most)).zfill(len(decimals) + 1)
        return drawn[: len(drawn) - len(decimals)] + point + drawn[len(drawn) - len(decimals) :]

    return NUMBER.sub(draw, question)


def shifted(question: str, r: random.Random) -> str:
    """Add the same to each whole number: a sequence stays one."""
    shift = r.randint(-9, 9)
    return re.sub(r"(?<![\d.])\d+(?!\.?\d)", lambda found: str(abs(int(found[0]) + shift)), question)


def _form(result: str) -> str:
    """What stays of a result without its digits: two variations of one question share it."""
    return re.sub(r"\d+", "0", result) if NUMBER.search(result) else "words"

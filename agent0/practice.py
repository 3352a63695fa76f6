"""Practice: proven questions of the pool, and single steps of their answers, with other numbers.

So a model learns the way and not the answer, and to calculate, in which a small one fails most often.

Questions are bootstrapped as in MetaMath (arXiv:2309.12284), but no model writes an answer: the council's math member
works each one out, as it did the original.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import islice, zip_longest

from agent0.council.math import solve
from agent0.quality import gist, held_out_questions
from agent0.records import TrainingExample

NUMBER = re.compile(r"\d+(?:\.\d+)?")
OPERATION = re.compile(r"(?<![\d.*/+-] )\b(\d+) ([+*/-]) (\d+)(?= = \d)")
DRILLS = 1  # single operations for each variation of a question
TRIES = 20  # draws after which a question is left alone: its numbers depend on each other


def practicable(example: TrainingExample) -> bool:
    """Whether the example can be given other numbers: the math member proved it."""
    return (example.verified_by or "").startswith("math:")


def practice_examples(pool: Sequence[TrainingExample], wanted: int, seed: str = "") -> list[TrainingExample]:
    """Return up to `wanted` examples: for each variation of a question, DRILLS drills.

    They are the same for the same pool and seed. The questions take turns, so that none is practised twice before each
    was once. Nothing in it is held out, in the pool, or there twice.
    """
    held_out = held_out_questions()
    known = held_out | {gist(example.instruction) for example in pool}
    measured = {_numbers(question) for question in held_out} - {None}
    proven = [(example, random.Random(f"{seed}{example.id}")) for example in pool if practicable(example)]
    sources = [[_variations(*pair) for pair in proven], [_drills(*pair) for pair in proven]]
    questions, drills = (
        (e for e in _unseen(_turns(source), known) if _numbers(e.instruction) not in measured) for source in sources
    )
    varied = list(islice(questions, wanted // (1 + DRILLS)))
    return varied + list(islice(drills, wanted - len(varied)))


def _turns(sources: Sequence[Iterator[TrainingExample]]) -> Iterator[TrainingExample]:
    return (example for turn in zip_longest(*sources) for example in turn if example)


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
    """Yield the question with other numbers, as often as one is found whose result has the same form."""
    form = _form(solution.result) if (solution := solve(example.instruction)) else None
    return _worked_out(example, lambda: r.choice((redrawn, shifted))(example.instruction, r), form)


def _drills(example: TrainingExample, r: random.Random) -> Iterator[TrainingExample]:
    """Yield the single operations of the example's steps, with other numbers and a whole result."""
    operations = OPERATION.findall(example.output)
    return _worked_out(example, lambda: _operation(r.choice(operations), r), "0" if operations else None)


def _operation(found: tuple[str, str, str], r: random.Random) -> str:
    one, sign, other = (redrawn(part, r) for part in found)
    if sign == "/":  # a whole result by construction: chance would hardly find one
        one = str(int(other) * max(1, round(int(one) / int(other))))
    return f"What is {one} {sign} {other}?"


def _worked_out(example: TrainingExample, draw: Callable[[], str], form: str | None) -> Iterator[TrainingExample]:
    """Yield what is drawn, worked out, if its result has that form, until TRIES draws in a row brought nothing new."""
    misses, drawn = 0, {example.instruction}
    while form is not None and misses < TRIES:
        question = draw()
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

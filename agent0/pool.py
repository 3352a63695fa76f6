"""The pool: every accepted example of every night, each question once, nothing that is only to be measured on."""

from pathlib import Path

from agent0 import veto
from agent0.agreement import answers_agree
from agent0.command import CouncilError, log
from agent0.council.math import solve
from agent0.quality import gist, held_out_questions
from agent0.records import TrainingExample, read_jsonl


def load_pool(folder: Path) -> list[TrainingExample]:
    """Return every accepted example of training_data/harvest_*.jsonl, of near-duplicates the newest.

    What people vetoed, what a gate set aside, and what an exact check contradicts today, is left out. Raises
    CouncilError for a damaged line, and where a held-out question would be trained on.
    """
    pool: dict[str, TrainingExample] = {}
    vetoes = veto.Vetoes()
    for path in sorted(folder.glob("harvest_*.jsonl")):
        allowed = (example for example in read_jsonl(path, TrainingExample) if example not in vetoes)
        pool.update((gist(example.instruction), example) for example in allowed)
    leaked = pool.keys() & held_out_questions()
    if leaked:
        question = pool[min(leaked)].instruction
        raise CouncilError(f"held-out question {question!r} stands in {folder}; remove it: it must only be measured on")
    examples = [example for example in pool.values() if proven(example) is not False]
    if left_out := len(pool) - len(examples):
        log.warning("warning: %d examples of the pool are proven wrong, and left out", left_out)
    return examples


def proven(example: TrainingExample) -> bool | None:
    """Whether the math member works out the answer that the example gives; None where it cannot tell."""
    solution = None if example.input else solve(example.instruction)
    return solution and answers_agree(example.output, solution.result)

"""What a watch asks: probe questions and yesterday's, each put to stable and candidate alike."""

import random
import time
from collections.abc import Sequence
from itertools import chain, zip_longest

from agent0.adapters import Release
from agent0.client import CouncilClient, ServerError
from agent0.command import CouncilError
from agent0.evidence import Pair
from agent0.quality import ANSWER_TOKENS, PROBES, answers_agree, normalise, questions_file
from agent0.records import Question, read_jsonl
from agent0.settings import get_settings

REPLAY_SECONDS = 86400
REPLAYS_AT_MOST = 32
MIN_QUESTIONS = 20  # different ones, in a file of probes


def load_probes(seed: str) -> list[Question]:
    """Probe questions with exact answers, their kinds mixed in an order that `seed` fixes.

    Raises CouncilError where there are fewer than MIN_QUESTIONS.
    """
    path = questions_file(PROBES)
    if not path.exists():
        raise CouncilError(f"{path} is missing: without probe questions no candidate can be judged; restore it")
    probes = [question for question in read_jsonl(path, Question) if question.answer is not None]
    if len({probe.id for probe in probes}) < MIN_QUESTIONS:
        raise CouncilError(
            f"{path} holds {len(probes)} questions with an exact answer, {MIN_QUESTIONS} needed; add some"
        )
    random.Random(seed).shuffle(probes)
    return probes


def load_replays(candidate: Release) -> list[Question]:
    """Users' questions of the last day whose answer is proven or was corrected, but none that the candidate trained on.

    None where less than ROLLBACK_THRESHOLD_SUCCESS of them were answered right: failures are trained on, so that what
    is left over would be what stable just happened to get right.
    """
    if not get_settings().memory_url and not get_settings().memory_path.exists():
        return []
    from faiss_memory import FaissMemory

    memory, now = FaissMemory(), time.time()
    records = memory.between(now - REPLAY_SECONDS, now)
    memory.close()
    asked = {normalise(record["query"]): record for record in records}
    sample = random.Random(candidate.name).sample(sorted(asked), min(8 * REPLAYS_AT_MOST, len(asked)))
    known = {text: answer for text in sample if (answer := _known_answer(asked[text]))}
    right = sum(answers_agree(asked[text]["response"], answer) for text, answer in known.items())
    if right < get_settings().rollback_threshold_success * len(known):
        return []
    fresh = [text for text in known if text not in _trained_on(candidate)]
    return [
        Question(id=asked[text]["id"], kind="replay", question=asked[text]["query"], answer=known[text])
        for text in fresh[:REPLAYS_AT_MOST]
    ]


def _known_answer(record: dict) -> str | None:
    from agent0.failures import solve
    from agent0.quality import final_answer

    if solution := solve(record["query"]):
        return solution.result
    correction = (record["feedback"] or {}).get("correction")
    return final_answer(correction) if correction else None


def _trained_on(candidate: Release) -> set[str]:
    from agent0.train import load_pool

    ids = set(candidate.manifest.get("example_ids", []))
    return {normalise(example.instruction) for example in load_pool(get_settings().training_data) if example.id in ids}


def mix(probes: Sequence[Question], replays: Sequence[Question]) -> list[Question]:
    """Take turns between the two while there are both."""
    return [question for question in chain.from_iterable(zip_longest(probes, replays)) if question]


def ask_pair(
    client: CouncilClient, stable: str, candidate: str, question: Question, turn: int
) -> tuple[Pair | None, str | None]:
    """Ask one question of both, taking turns in who comes first; return the pair, or what failed."""
    replies = {}
    for name in (stable, candidate) if turn % 2 == 0 else (candidate, stable):
        try:
            replies[name] = client.ask(question.question, name, store=False, max_tokens=ANSWER_TOKENS)
        except ServerError as error:
            return None, f"{name} failed on probe {question.id}: {error}"
    if not replies[candidate].text.strip():
        return None, f"{candidate} gave an empty answer to probe {question.id}"
    right = {name: answers_agree(reply.text, question.answer) for name, reply in replies.items()}
    times = {name: reply.seconds * 1000 for name, reply in replies.items()}
    return Pair(question.id, right[stable], right[candidate], times[stable], times[candidate]), None

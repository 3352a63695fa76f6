"""What a watch asks: probe questions and yesterday's, each put to stable and candidate alike.

What can be verified is; where there are judges, they compare answers to a few that cannot.
"""

import random
import time
from collections.abc import Sequence
from itertools import chain, zip_longest

from agent0.adapters import Release
from agent0.agreement import is_right
from agent0.client import CouncilClient, Reply, ServerError
from agent0.command import CouncilError
from agent0.evidence import Pair
from agent0.quality import ANSWER_TOKENS, PROBES, normalise, questions_file
from agent0.records import Question, read_jsonl
from agent0.settings import get_settings

REPLAY_SECONDS = 86400
REPLAYS_AT_MOST = 32
OPEN_AT_MOST = 16  # questions for the judges: they cost money, and the time of others
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
    """Users' questions of the last day whose answer can be proven, but none that the candidate trained on.

    None where less than ROLLBACK_THRESHOLD_SUCCESS of them were answered right: failures are trained on, so that what
    is left over would be what stable just happened to get right.
    """
    asked = _yesterday()
    sample = _sample(asked, candidate.name)
    known = {text: answer for text in sample if (answer := _known_answer(asked[text]))}
    right = sum(is_right(asked[text]["response"], answer) for text, answer in known.items())
    if right < get_settings().rollback_threshold_success * len(known):
        return []
    trained = _trained_on(candidate)
    fresh = [text for text in known if text not in trained]
    return [_replay(asked[text], known[text]) for text in fresh[:REPLAYS_AT_MOST]]


def load_open(candidate: Release) -> list[Question]:
    """Users' questions of the last day that nothing verifies, but none that the candidate trained on: for judges."""
    asked, trained = _yesterday(), _trained_on(candidate)
    sample = _sample(asked, candidate.name)
    fresh = [text for text in sample if text not in trained and not _known_answer(asked[text])]
    return [_replay(asked[text], None) for text in fresh[:OPEN_AT_MOST]]


def _yesterday() -> dict[str, dict]:
    """The newest record of each question of the last day."""
    if not get_settings().memory_url and not get_settings().memory_path.exists():
        return {}
    from faiss_memory import FaissMemory

    memory, now = FaissMemory(), time.time()
    records = memory.between(now - REPLAY_SECONDS, now)
    memory.close()
    return {normalise(record["query"]): record for record in records}


def _sample(asked: dict[str, dict], seed: str) -> list[str]:
    return random.Random(seed).sample(sorted(asked), min(8 * REPLAYS_AT_MOST, len(asked)))


def _replay(record: dict, answer: str | None) -> Question:
    return Question(id=record["id"], kind="replay", question=record["query"], answer=answer)


def _known_answer(record: dict) -> str | None:
    from agent0.failures import solve

    solution = solve(record["query"])  # what a user said is nobody's proof
    return solution.result if solution else None


def _trained_on(candidate: Release) -> set[str]:
    from agent0.train import load_pool

    ids = set(candidate.manifest.get("example_ids", []))
    return {normalise(example.instruction) for example in load_pool(get_settings().training_data) if example.id in ids}


def mix(*kinds: Sequence[Question]) -> list[Question]:
    """Take turns between them while there are any."""
    return [question for question in chain.from_iterable(zip_longest(*kinds)) if question]


def ask_both(
    client: CouncilClient, stable: str, candidate: str, question: Question, turn: int
) -> tuple[tuple[Reply, Reply] | None, str | None]:
    """Ask one question of both, taking turns in who comes first; return both replies, or a failure."""
    replies = {}
    for name in (stable, candidate) if turn % 2 == 0 else (candidate, stable):
        try:
            replies[name] = client.ask(question.question, name, store=False, max_tokens=ANSWER_TOKENS)
        except ServerError as error:
            return None, f"{name} failed on probe {question.id}: {error}"
    if not replies[candidate].text.strip():
        return None, f"{candidate} gave an empty answer to probe {question.id}"
    return (replies[stable], replies[candidate]), None


def compare(question: Question, stable: Reply, candidate: Reply) -> Pair:
    """What the two replies to a question with a known answer are worth."""
    right = (is_right(reply.text, question.answer) for reply in (stable, candidate))
    times = (reply.seconds * 1000 for reply in (stable, candidate))
    return Pair(question.id, *right, *times, stable.tokens, candidate.tokens)

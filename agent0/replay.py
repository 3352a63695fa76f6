"""What the base model says to general questions: trained on beside the rewrites, so that an adapter forgets nothing.

Self-distillation: the model's own words are the targets that change it least (arXiv:2402.13669). They are asked of
the server once for each base model, and kept in training_data/.
"""

import re
import time
from hashlib import sha256
from pathlib import Path

from agent0.client import CouncilClient
from agent0.command import CouncilError, log
from agent0.models import base_model_hash
from agent0.quality import REPLAY, questions_file
from agent0.records import Question, TrainingExample, read_jsonl, write_jsonl
from agent0.settings import get_settings

SENTENCE_TOKENS = 40  # enough for the sentence that is kept: many short answers hold more than a few long ones
_SENTENCE = re.compile(r".*?(?:[.!?](?=\s|$)|\n|$)", re.DOTALL)


def replay_examples() -> list[TrainingExample]:
    """Return up to REPLAY_EXAMPLES questions with the base model's answers.

    Raises CouncilError where they must be asked for first and no server answers.
    """
    wanted = get_settings().replay_examples
    if not wanted:
        return []
    path = get_settings().training_data / f"replay_{base_model_hash()[-16:]}.jsonl"
    if not path.exists():
        _ask(path)
    return list(read_jsonl(path, TrainingExample))[:wanted]


def _ask(path: Path) -> None:
    """Ask the base model every question of the replay set, and keep its first sentences."""
    questions = list(read_jsonl(questions_file(REPLAY), Question))
    log.info("asking the base model %d general questions, once", len(questions))
    options = {"model": "base", "store": False, "temperature": 0, "max_tokens": SENTENCE_TOKENS}
    try:
        replies = CouncilClient().ask_many([q.question for q in questions], title="replay", **options)
    except CouncilError as error:
        raise CouncilError(f"replay of general answers: {error}; or set REPLAY_EXAMPLES=0") from error
    said = [(question, first_sentence(reply.text)) for question, reply in zip(questions, replies, strict=True)]
    write_jsonl(path, [_example(question, text) for question, text in said if text])


def first_sentence(text: str) -> str:
    """Return a text's first sentence or line; empty where it is cut off."""
    first = _SENTENCE.match(text.strip())[0]
    return first.strip() if first.endswith((".", "!", "?", "\n")) else ""


def _example(question: Question, text: str) -> TrainingExample:
    name = sha256(f"{question.question}\n{text}".encode()).hexdigest()[:16]
    return TrainingExample(
        instruction=question.question,
        output=text,
        reasoning="What the base model says by itself.",
        quality_score=0.5,
        harvest_timestamp=time.time(),
        id=name,
        answer_id=question.id,
        kind="general",
        origin="replay",
    )

"""The quality of a rewrite, when two askings are one question, and which questions only measure."""

import re
import unicodedata
from pathlib import Path

from agent0.records import Question, read_jsonl
from agent0.settings import get_settings

HELD_OUT, PROBES, GENERAL, REPLAY = "heldout", "probes", "general", "replay"  # files of QUESTIONS_PATH
ANSWER_TOKENS = 56  # length of an answer where one is measured
_SPOKEN = {"percent|per cent": "%", "plus": "+", "minus": "-", "times|multiplied by": "*", "divided by": "/"}
_FILLERS = frozenset(
    re.findall(
        r"\w+", "a an the is are please what calculate compute find evaluate determine how much tell me i you can"
    )
)


def assess_quality(query: str, bad_response: str, good_response: str) -> float:
    """The seed's heuristic, exactly as printed in its README: 0.5 to 0.95. Never the only gate."""
    score = 0.5  # baseline

    # Length improvement (more detailed)
    if len(good_response) > len(bad_response) * 1.5:
        score += 0.2

    # Reasoning indicators
    reasoning_words = ["because", "therefore", "step", "first"]
    if any(word in good_response.lower() for word in reasoning_words):
        score += 0.15

    # Code/math improvements
    if "```" in good_response and "```" not in bad_response:
        score += 0.1

    return min(score, 1.0)


def accepts(score: float, verified_by: str | None) -> bool:
    """Whether a rewrite may train: it is proven, or the heuristic gives it QUALITY_THRESHOLD."""
    return verified_by is not None or score >= get_settings().quality_threshold


def normalise(question: str) -> str:
    """Fold case, spaces and closing punctuation, so that two askings of one question compare equal."""
    folded = unicodedata.normalize("NFC", question).casefold()
    return re.sub(r"\s+", " ", folded).strip().rstrip(" .?!:;…").strip()


def gist(question: str) -> str:
    """What is asked, without courtesies and other words for the same operation: near-duplicates compare equal."""
    text = re.sub(r"\bwhat(?:'|’)?s\b", "what is", normalise(question))
    for words, sign in _SPOKEN.items():
        text = re.sub(rf"\b(?:{words})(?!\w)", sign, text)
    return " ".join(word for word in re.findall(r"[\d.,:/]*\d|\w+|[^\w\s,.?!:;]", text) if word not in _FILLERS)


def held_out_questions() -> set[str]:
    """The gists of questions that are only ever measured on: never harvested, never trained on."""
    files = map(questions_file, (HELD_OUT, PROBES, GENERAL))
    return {gist(row.question) for path in files if path.exists() for row in read_jsonl(path, Question)}


def questions_file(name: str) -> Path:
    """Where the questions of one use lie: HELD_OUT, PROBES, GENERAL or REPLAY."""
    return get_settings().questions_path / f"{name}.jsonl"

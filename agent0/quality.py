"""The quality of a rewrite, whether a response gives the expected answer, and which questions only measure."""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agent0.records import Question, read_jsonl
from agent0.settings import get_settings
from agent0.values import Amount, digits, find_amounts, find_dates, find_times, find_weekdays

HELD_OUT, PROBES, GENERAL, REPLAY = "heldout", "probes", "general", "replay"  # files of QUESTIONS_PATH
ANSWER_TOKENS = 56  # length of an answer where one is measured
_STRONG = re.compile(r"\banswer(?:\s+is|\s+would\s+be|\s*:)\s*:?\s*|\\boxed\s*\{", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_CLAUSE_END = re.compile(
    r"[.!?;](?=\s|$)|\n|,?\s+(?=(?:not|but|nor)\b)|,\s+(?=(?:it|that|so|rather|instead)\b)", re.IGNORECASE
)
_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|cannot|unknown|wrong|incorrect|(?:is|was|are|were|ca|could)n['’]t)\b", re.IGNORECASE
)
_SPOKEN = {"percent|per cent": "%", "plus": "+", "minus": "-", "times|multiplied by": "*", "divided by": "/"}
_FILLERS = frozenset(
    re.findall(
        r"\w+", "a an the is are please what calculate compute find evaluate determine how much tell me i you can"
    )
)
_ASSIGNMENT = re.compile(r"\b([a-z])\s*=\s*(?=[-−$]?[\d.])", re.IGNORECASE)

V = TypeVar("V")


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


def final_answer(text: str) -> str:
    """Return what the text gives as its answer: the words after its last marker, else its last value, else itself."""
    plain = _plain(text)
    segment = _marked(plain)
    if segment is not None:
        return segment
    found = re.findall(r"-?\$?\d[\d,.:/]*(?<=\d)|\b[A-Z][a-z]+day\b", plain)
    return found[-1] if found else plain.strip()


def answers_agree(response: str, expected: str) -> bool:
    """Whether a free-text response gives the expected canonical answer, exactly (7.50 is 7.5, 3 km is 3000 m).

    A denial ("the answer is not 36") or a choice ("36 or 40") agrees with nothing.
    """
    response, expected = _plain(response), _plain(expected)
    if find_weekdays(expected):
        return _pick(response, find_weekdays) == find_weekdays(expected)[0]
    if find_dates(expected):
        return _same_date(_pick(response, find_dates), find_dates(expected)[0])
    if find_times(expected):
        return _pick(response, find_times) == find_times(expected)[0]
    wanted = find_amounts(expected)
    if not wanted:
        return _same_words(response, expected)
    return _same_list(response, expected) if len(wanted) > 1 else _same_amount(response, wanted[0])


def _plain(text: str) -> str:
    """Drop Markdown and LaTeX dress, and write number words in digits."""
    text = re.sub(r"\\d?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text)
    text = re.sub(r"\\text\{([^}]*)\}|\\[()\[\],]|[*`_]{2,}|\\(?=[$%])", lambda m: m[1] or "", text)
    return digits(re.sub(r"([ap])\.m\.?", r"\1m", text.replace("−", "-"), flags=re.IGNORECASE))


def _marked(text: str) -> str | None:
    """Return the sentence part that follows the last marker; "answer is" outranks a bare "="."""
    strong = list(_STRONG.finditer(text))
    tail = text[strong[-1].end() :].lstrip() if strong else text
    if strong:
        end = _SENTENCE_END.search(tail)
        tail = tail[: end.start()] if end else tail
    if "=" in tail:
        tail = tail.rpartition("=")[2].lstrip()
        end = _SENTENCE_END.search(tail)
        tail = tail[: end.start()] if end else tail
    elif not strong:
        return None
    return tail.strip(" }$")


def _pick(text: str, find: Callable[[str], list[V]]) -> V | None:
    """Return the value that the text gives as its answer, or None if it gives none, denies it, or leaves a choice.

    That is the first value behind the last marker, else the last value of the text.
    """
    segment = _marked(text)
    marked = segment is not None and bool(find(segment))
    clauses = [c for c in _CLAUSE_END.split(segment if marked else text) if find(c) and not _DENIED.search(c)]
    if not clauses:
        return None
    at = 0 if marked else -1
    return None if _divided(clauses[at], find) else find(clauses[at])[at]


def _divided(clause: str, find: Callable[[str], list[V]]) -> bool:
    """Whether a clause leaves the choice between values: "36 or 40"."""
    first, *others = [found for side in re.split(r"\bor\b", clause) if (found := find(side))]
    return any(found[0] != first[-1] for found in others)


def _same_date(found: tuple | None, wanted: tuple) -> bool:
    if found is None or found[1:] != wanted[1:]:
        return False
    return None in (found[0], wanted[0]) or found[0] == wanted[0]


def _same_amount(response: str, wanted: Amount) -> bool:
    def values(text: str) -> list[tuple]:
        amounts = find_amounts(text)
        if wanted.unit and _marked(response) is None:  # unmarked: "you pay $36 for 3 shirts" means the dollars
            amounts = [a for a in amounts if a.unit and a.unit.dimension == wanted.unit.dimension] or amounts
        return [(a.value, a.unit) for a in amounts]

    picked = _pick(response, values)
    if picked is None:
        return False
    value, unit = picked
    if unit is None or wanted.unit is None:
        return value == wanted.value
    return unit.dimension == wanted.unit.dimension and value * unit.factor == wanted.value * wanted.unit.factor


def _same_list(response: str, expected: str) -> bool:
    """Compare "x = 2, y = 3" by name, and "2 and 3" as a set."""
    wanted, found = _assignments(expected), _assignments(response)
    if len(wanted) > 1:
        return all(found.get(name) == value for name, value in wanted.items())
    strong = list(_STRONG.finditer(response))
    tail = response[strong[-1].end() :] if strong else response
    sentences = [s for s in _SENTENCE_END.split(tail) if find_amounts(s)]
    if not sentences or _DENIED.search(sentence := sentences[0] if strong else sentences[-1]):
        return False
    return {a.value for a in find_amounts(sentence)} == {a.value for a in find_amounts(expected)}


def _assignments(text: str) -> dict:
    """Return the last value given to each one-letter name."""
    found = [(match[1].lower(), find_amounts(text[match.end() :])) for match in _ASSIGNMENT.finditer(text)]
    named = {name: amounts[0].value for name, amounts in found if amounts}
    return named if len(named) > 1 else {}


def _same_words(response: str, expected: str) -> bool:
    wanted = normalise(expected)
    given = normalise(final_answer(response))
    if any(sign.search(given) and not sign.search(wanted) for sign in (_DENIED, re.compile(r"\bor\b"))):
        return False
    return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", given) is not None

"""Whether a free-text response gives the expected answer: exactly, and not denied, bounded, or one of two."""

import operator
import re
from collections.abc import Callable
from typing import TypeVar

from agent0.quality import normalise
from agent0.values import Amount, digits, find_amounts, find_dates, find_times, find_weekdays

_STRONG = re.compile(r"\banswer(?:\s+is\b(?!n['’]t)|\s+would\s+be|\s*:)\s*:?\s*|\\boxed\s*\{", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_CLAUSE_END = re.compile(
    r"[.!?;](?=\s|$)|\n|,?\s+(?=but\b)|,\s+(?=(?:not|nor|it|that|so|rather|instead)\b)", re.IGNORECASE
)
_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|cannot|unknown|wrong|incorrect|(?:is|was|are|were|ca|could)n['’]t)\b", re.IGNORECASE
)
_EITHER = re.compile(r"\bor\b", re.IGNORECASE)
_CHOICE = re.compile(r"\bor\b|(?<=\d)[-–](?=\d[\d.,]*\D*$)")  # 36 or 40, 36-40
_ASIDE = re.compile(r",\s+(?:which|specifically|also)\b.*", re.DOTALL)  # Spain, which some call Iberia or Hispania
_REVISED = re.compile(
    r"\b(?:actually|wait|oops|correction|sorry|scratch that|on second thou?ght)\b|\bno,", re.IGNORECASE
)
_REASON = re.compile(r",?\s+(?:because|since)\b.*|\b(?:check|proof)\s*:.*", re.IGNORECASE | re.DOTALL)
_BOUND = re.compile(
    r"\b(?:(?:more|less|fewer|greater|better) than|at (?:least|most)|up to|between)"
    r"\s+\$?\d[\d.,]*(?:\s+and\s+\$?\d[\d.,]*)?",
    re.IGNORECASE,
)
_FOREIGN = re.compile(r"[€£¥₹]\s?\d[\d.,]*|\d[\d.,]*\s?(?:[€£¥₹]|euros?\b)", re.IGNORECASE)
_BARE = re.compile(r"\s*[$-]{0,2}\d[\d.,/]*%?(?: [a-z]+){0,2}[.!]\s+(?=[A-Z])")  # "36 apples. I multiplied 3 by 12."
_HALF_OF_DAY = re.compile(r"\d ?[ap]m\b", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"\b([a-z])\s*(?:=|is)\s*(?=[-−$]?[\d.])", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
_FORMULA = re.compile(r"(?:[A-Z][a-z]?\d*){2,}")  # H2O is a word
_RELATION = re.compile(r"\b(?:of|after|before|from|times|plus|minus|more|less)\b", re.IGNORECASE)
_SPELLINGS = [  # what is written otherwise than values.py reads it
    (r"(?<=\d)\\d?frac", r" \\frac"),
    (r"\\d?frac\{(\d+)\}\{(\d+)\}", r"\1/\2"),
    (r"\\text\{([^}]*)\}", r"\1"),
    (r"\\[()\[\],]|[*`_]{2,}|\\(?=[$%])", ""),
    (r"\$(-?[\d.,/]+)\$", r"\1"),
    ("−", "-"),
    (r"(?<=\d)(?=[½¼¾])", " "),
    ("½", "1/2"),
    ("¼", "1/4"),
    ("¾", "3/4"),
    (r"(?i)([ap])\.m\.?", r"\1m"),
    (r"(?i)\bnoon\b", "12:00 PM"),
    (r"(?i)\bmidnight\b", "12:00 AM"),
    (r" ?(?:×|·|\\times|\\cdot|(?<=\d)x(?=\d)) ?", " * "),
    (r" ?(?:÷|\\div) ?", " / "),
]
_SPOKEN = [  # the same, once number words are digits
    (r"(\d+) and (?:a|1) half\b", r"\1 1/2"),
    (r"\b(?:a|1) half\b", "1/2"),
    (r"(?<!\d )\b(?:negative|minus) (?=\d)", "-"),
    (r"\b(\d+) thousand\b", r"\g<1>000"),
    (r"\b(\d+) million\b", r"\g<1>000000"),
    (r"\b(miles|kilometers|km|meters|feet) an? (hour|minute|second)\b", r"\1 per \2"),
    (r"\b(\d+) ?h(?:ours?)? ?(\d+) ?m(?:in)?\b", r"\1 hours \2 minutes"),
]

V = TypeVar("V")


def final_answer(text: str) -> str:
    """Return what the text gives as its answer: the words after its last marker, else its last value, else itself."""
    plain = plain_text(text)
    segment = _marked(plain)
    if segment is not None:
        return segment
    found = re.findall(r"-?\$?\d[\d,.:/]*(?<=\d)|\b[A-Z][a-z]+day\b", plain)
    return found[-1] if found else plain.strip()


def answers_agree(response: str, expected: str) -> bool:
    """Whether a free-text response gives the expected canonical answer, exactly (7.50 is 7.5, 3 km is 3000 m).

    A denial ("the answer is not 36"), a choice ("36 or 40") or a bound ("at least 36") agrees with nothing.
    """
    expected = plain_text(expected)
    for find in (find_weekdays, find_dates, find_times):
        if wanted := find(expected):
            told = _told(response, find)
            found = _pick(told, find)
            if find is find_times and not _HALF_OF_DAY.search(f"{told} {expected}"):
                same = _same_on_the_dial
            else:
                same = _same_date if find is find_dates else operator.eq
            return found is not None and same(found, wanted[0])
    wanted, told = find_amounts(expected), _told(response, find_amounts)
    if not wanted or _FORMULA.fullmatch(expected):
        return _same_words(plain_text(response), expected)
    return _same_list(told, expected) if len(wanted) > 1 else _same_amount(told, wanted[0])


def is_right(response: str, answers: str) -> bool:
    """Whether a free-text response gives one of a question's right answers ("Italy | Italian")."""
    return any(answers_agree(response, answer) for answer in answers.split(" | "))


def plain_text(text: str) -> str:
    """Drop Markdown and LaTeX dress, and write number words in digits."""
    for written, read in _SPELLINGS:
        text = re.sub(written, read, text)
    text = digits(text)
    for written, read in _SPOKEN:
        text = re.sub(written, read, text, flags=re.IGNORECASE)
    return text


def numbers(text: str) -> set[str]:
    """The numbers of a text as they are written, 7.50 as 7.5 and 1,200 as 1200."""
    found = (number.replace(",", "") for number in _NUMBER.findall(plain_text(text)))
    return {number.rstrip("0").rstrip(".") if "." in number else number for number in found}


def _told(response: str, find: Callable[[str], list]) -> str:
    """What of a response tells its answer: what follows a correction of itself, without reasons, checks and bounds."""
    plain = _FOREIGN.sub("", _BOUND.sub("", plain_text(response)))
    *_, revised = _REVISED.split(plain)
    plain = revised if find(revised) else plain
    alone = _REASON.sub("", plain)
    plain = alone if find(alone) else plain
    bare = _BARE.match(plain)
    return bare[0] if bare and find(bare[0]) and _marked(plain) is None else plain


def _marked(text: str) -> str | None:
    """Return the sentence part that follows the last marker; "answer is" outranks a bare "="."""
    strong = list(_STRONG.finditer(text))
    tail = text[strong[-1].end() :].lstrip() if strong else text
    if strong:
        end = _SENTENCE_END.search(tail)
        tail = tail[: end.start()] if end else tail
        if ":" in strong[-1][0]:  # "Answer: 15% of 80 is 12"
            tail = tail.rpartition(" is ")[2]
    if "=" in tail:
        tail = tail.rpartition("=")[2].lstrip()
        end = _SENTENCE_END.search(tail)
        tail = tail[: end.start()] if end else tail
    elif not strong:
        return None
    return tail.strip(" }$")


def _pick(text: str, find: Callable[[str], list[V]]) -> V | None:
    """Return the value that the text gives as its answer, or None if it gives none, denies it, or leaves a choice.

    That is the first value behind the last marker, else the last value of the text, or the one that "is" something
    of the others: "12 is 15% of 80".
    """
    segment = _marked(text)
    marked = segment is not None and bool(find(segment))
    clauses = [c for c in _CLAUSE_END.split(segment if marked else text) if find(c) and not _DENIED.search(c)]
    if not clauses:
        return None
    clause = clauses[0 if marked else -1]
    values = [found for side in _CHOICE.split(clause) if (found := find(side))]
    if any(found[0] != values[0][-1] for found in values[1:]):
        return None
    subject, _, rest = clause.strip().partition(" is ")
    first = marked or (len(subject.split()) < 3 and find(subject) and _RELATION.search(rest))
    return find(clause)[0 if first else -1]


def _same_date(found: tuple, wanted: tuple) -> bool:
    return found[1:] == wanted[1:] and (None in (found[0], wanted[0]) or found[0] == wanted[0])


def _same_on_the_dial(found: int, wanted: int) -> bool:
    """1:00 is 13:00 where nobody says which half of the day it is."""
    return (found - wanted) % (12 * 60) == 0


def _same_amount(response: str, wanted: Amount) -> bool:
    def values(text: str) -> list[tuple]:
        amounts = find_amounts(text)
        if wanted.unit and _marked(response) is None:  # unmarked: "you pay $36 for 3 shirts" means the dollars
            amounts = [a for a in amounts if a.unit and a.unit.dimension == wanted.unit.dimension] or amounts
            amounts = [a for a in amounts if a.unit == wanted.unit] or amounts  # 500 meters in 5 kilometers
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
    told = _marked(response) if _STRONG.search(response) else None  # an equation says nothing of words
    if wanted in ("yes", "no"):
        said = re.findall(r"\b(?:yes|no)\b", normalise(response if told is None else told))
        return said[:1] == [wanted]
    clauses = _CLAUSE_END.split(response if told is None else told)
    if not _DENIED.search(wanted):
        clauses = [clause for clause in clauses if not _DENIED.search(clause)]
    if not _EITHER.search(wanted):
        clauses = [_ASIDE.sub("", clause) if _EITHER.search(clause) else clause for clause in clauses]
        clauses = [clause for clause in clauses if not _EITHER.search(clause)]
    stands = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
    return bool(wanted) and any(stands.search(normalise(clause)) for clause in clauses)

"""Propositions: "If it rains, the street is wet. It rains. Is the street wet?", and letters: "If P then Q. …"."""

import re
from typing import Any

from agent0.council.logic.solver import OPEN, Finding, Names, decide
from agent0.council.logic.words import plain, singular

_IF = re.compile(r"[Ii]f (.+?)(?:, then|,| then) (.+)")
_LETTER = r"([A-Z])"
_FORMS = [  # of letters
    (re.compile(rf"{_LETTER}(?: is true)?"), lambda z3, a: a),
    (re.compile(rf"(?:{_LETTER} is (?:false|not true)|not {_LETTER})"), lambda z3, a: z3.Not(a)),
    (re.compile(rf"(?:[Bb]oth )?{_LETTER} and {_LETTER}(?: are (?:both )?true)?"), lambda z3, a, b: z3.And(a, b)),
    (re.compile(rf"[Ee]ither {_LETTER} or {_LETTER}(?: is true)?, but not both"), lambda z3, a, b: z3.Xor(a, b)),
    (re.compile(rf"[Aa]t least one of {_LETTER} (?:or|and) {_LETTER} is true"), lambda z3, a, b: z3.Or(a, b)),
    (re.compile(rf"{_LETTER} or {_LETTER} is true"), lambda z3, a, b: z3.Or(a, b)),
    (re.compile(rf"{_LETTER} and {_LETTER} is true"), lambda z3, a, b: z3.And(a, b)),
]
_DROPPED = {"is", "are", "do", "does", "the"}


def solve(statements: list[str], question: str) -> Finding | None:
    """Return what follows from conditions and facts; None unless every clause is read."""
    import z3

    names = Names(z3.Bool)
    premises = [(statement, _formula(statement, names)) for statement in statements]
    claim = _question(question, names)
    if claim is None or any(formula is None for _, formula in premises):
        return None
    if not any(_IF.fullmatch(statement) for statement in statements) and not _by_letters(statements):
        return None
    finding = decide(premises, claim)
    return None if finding and finding.answer == OPEN and not names.linked else finding


def _by_letters(statements: list[str]) -> bool:
    return all(any(form.fullmatch(statement) for form, _ in _FORMS) for statement in statements)


def _formula(text: str, names: Names) -> Any:
    import z3

    condition = _IF.fullmatch(text)
    if not condition:
        return _clause(text, names)
    cause, effect = _clause(condition[1], names), _clause(condition[2], names)
    return None if cause is None or effect is None else z3.Implies(cause, effect)


def _clause(text: str, names: Names) -> Any:
    import z3

    for form, combine in _FORMS:
        if found := form.fullmatch(text):
            return combine(z3, *(names(letter) for letter in found.groups() if letter))
    words = re.sub(r"\b(is|are|do|does)n't\b", r"\1 not", text.lower())
    positive = re.sub(r"\bnot ", "", words)
    key = tuple(singular(word) for word in positive.split() if word not in _DROPPED)
    if not plain(positive) or len(key) < 2 or words.count("not ") > 1:
        return None
    return z3.Not(names(key)) if "not " in words else names(key)


def _question(text: str, names: Names) -> Any:
    letter = re.fullmatch(r"Is ([A-Z]) (true|false)", text)
    if letter:
        return _clause(f"{letter[1]} is {letter[2]}", names)
    asked = re.fullmatch(r"(?:is|are|do|does) (.+)", text.lower())
    return _clause(asked[1], names) if asked and " not" not in text.lower() and "n't" not in text else None

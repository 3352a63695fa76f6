"""The registry of rules: a rule is one function under `@rule(kind, pattern, ...)` that works out one question form.

A pattern is a regular expression over the cleaned question, matched in full: nothing in the text may be left
unexplained. `<n>`, `<money>`, `<noun>`… capture a typed value each, and the function gets them in order. It returns
a Solution, or None where the form fits but the numbers do not (a conversion that is not exact, a date that does not
exist). Groups of the pattern's own must not capture.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from typing import Any

from agent0.values import MONTHS, UNIT, UNITS, WEEKDAYS, Unit, find_times, month_number


@dataclass(frozen=True)
class Solution:
    """A worked-out question: the kind, short steps without the closing sentence, the canonical result, and why."""

    kind: str
    steps: str
    result: str
    why: str

    @property
    def output(self) -> str:
        """The steps, ending in the result: the last number takes its unit, or a sentence says what the steps do not."""
        head, equals, last = self.steps.removesuffix(".").rpartition(" = ")
        if equals and re.fullmatch(rf"\$?{re.escape(last)}(?: [a-z ]+)?", self.result):
            return f"{head} = {self.result}."
        return f"{self.steps} The answer is {self.result}."


class Unclear(Exception):
    """The text holds something that the rules do not understand, so that there is no answer to prove."""


Answer = tuple[str, str, str] | None  # steps, result, why: what a rule's function returns
_N = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d{1,6})?|\d{1,12}(?:\.\d{1,6})?)(?![\d.]*\d)"
_PLAIN = r"\d{1,12}(?:\.\d{1,6})?"  # in a list a comma without a space could be either
_MONTH = "|".join(MONTHS).lower()
_NOUN = r"[a-z]+(?:[ -][a-z]+){0,2}"
# A noun that holds one of these changes what is asked, so no rule may read over it.
_LOADED = frozenset(
    re.findall(
        r"\w+",
        """
    not no none except without only half twice double triple dozen pair each every per free about almost
    nearly approximately roughly around more less fewer other another extra discount off tax tip who which
    then but than if or gets returns loses first last second third remaining left additional old new hundred
    thousand million at for and with from to in costs cost pays is are on plus minus times divided quarter
    least most dozens gross hundreds thousands halves quarters couple everyone everybody nobody someone somebody
    """,
    )
)
ASK = r"(?:what is|what's|whats|calculate|compute|find|how much is|evaluate|work out|determine|what do you get for)"


def number(text: str) -> Fraction:
    return Fraction(re.sub(r"[,$]| ?dollars?", "", text))


def _numbers(text: str) -> list[Fraction]:
    return [Fraction(found) for found in re.findall(r"-?\d+(?:\.\d+)?", text)]


def _unit(text: str) -> Unit:
    return UNITS[re.sub(r"\s+", " ", text)]


def _noun(text: str) -> str:
    if _LOADED & set(re.split(r"[ -]", text)):
        raise Unclear(text)
    return text


def _date(text: str) -> tuple[int | None, int, int]:
    """Return (year or None, month, day). Raises Unclear for a day that does not exist in that (or any common) year."""
    month, day, year = re.fullmatch(rf"({_MONTH}) (\d+)(?:st|nd|rd|th)?(?:,? (\d{{4}}))?", text).groups()
    try:
        if not 1900 <= int(year or 2024) <= 2100:
            raise Unclear(text)
        date(int(year or 2023), month_number(month), int(day))
    except ValueError:
        raise Unclear(text) from None
    return int(year) if year else None, month_number(month), int(day)


def _clock(text: str) -> tuple[int, bool]:
    """Return (minutes after midnight, whether it was written with AM or PM)."""
    found = find_times(text)
    if not found:
        raise Unclear(text)
    return found[0], text.endswith("m")


_TYPES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "n": (_N, number),
    "money": (rf"\${_N}|{_N} dollars?", number),
    "list": (rf"-?{_PLAIN}(?:, -?{_PLAIN})*(?:,? and|,) -?{_PLAIN}", _numbers),
    "terms": (rf"-?{_PLAIN}(?:, -?{_PLAIN})+", _numbers),
    "fraction": (r"\d{1,6} ?/ ?\d{1,6}", lambda text: text.replace(" ", "")),
    "unit": (UNIT, _unit),
    "noun": (_NOUN, _noun),
    "name": (r"(?:an? |the |my )?[a-z]+", _noun),
    "day": ("|".join(WEEKDAYS).lower(), str.capitalize),
    "date": (rf"(?:{_MONTH}) \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?", _date),
    "time": (r"\d{1,2}:\d{2}(?: ?[ap]m)?|\d{1,2} ?[ap]m", _clock),
    "expression": (r"[\d.+*/^() -]+", str.strip),
    "spoken": (rf"{_PLAIN}(?: (?:plus|minus|times|multiplied by|x|divided by) {_PLAIN})+", str.strip),
    "letter": (r"[a-z]", str),
    "equation": (r"[\da-z.+*/^() -]+=[\da-z.+*/^() -]+", str.strip),
}
RULES: list[tuple[str, re.Pattern, list[Callable[[str], Any]], Callable[..., Answer]]] = []


def rule(kind: str, *patterns: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register a function for the question forms that the patterns describe."""

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        for pattern in patterns:
            convert = [_TYPES[name][1] for name in re.findall(r"<(\w+)>", pattern) if name != "ask"]
            regex = re.sub(r"<(\w+)>", lambda m: ASK if m[1] == "ask" else f"({_TYPES[m[1]][0]})", pattern)
            RULES.append((kind, re.compile(regex), convert, function))
        return function

    return register


def apply(text: str) -> list[Solution]:
    """Return what each fitting rule works out from a cleaned question."""
    solutions = []
    for kind, pattern, convert, function in RULES:
        match = pattern.fullmatch(text)
        if not match:
            continue
        try:
            answer = function(*(to(found) for to, found in zip(convert, match.groups(), strict=True)))
        except (Unclear, ZeroDivisionError):
            continue
        if answer:
            solutions.append(Solution(kind, *answer))
    return solutions

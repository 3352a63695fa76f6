"""Orders: "Ann is taller than Bob. Bob is taller than Cid. Who is the shortest?", races, and "Who is taller, …?"."""

import re
from dataclasses import dataclass
from typing import Any

from agent0.council.logic.solver import OPEN, Finding, Names, choose, decide
from agent0.council.logic.words import UNNAMED

# scale: words for more, words for less; a comparative ends in -er, the superlative in -est
_SCALES = {
    "height": ("taller", "shorter"),
    "length": ("longer", "shorter"),
    "age": ("older", "younger"),
    "weight": ("heavier", "lighter"),
    "speed": ("faster", "slower"),
    "wealth": ("richer", "poorer"),
    "size": ("bigger larger", "smaller"),
    "strength": ("stronger", "weaker"),
    "level": ("higher", "lower"),
    "warmth": ("warmer hotter", "colder cooler"),
}
_SIGNS: dict[str, dict[str, int]] = {}
for _scale, _pair in _SCALES.items():
    for _sign, _words in zip((1, -1), _pair, strict=True):
        for _word in _words.split():
            _SIGNS.setdefault(_word, {})[_scale] = _sign
_MORE = "|".join(_SIGNS)
_MOST = "|".join(word[:-1] + "st" for word in _SIGNS)
_ENTITY = r"(the [a-z]+(?: [a-z]+)?|[A-Z][a-z]+)"
_COMPARED = re.compile(rf"{_ENTITY} (?:is|runs) ({_MORE}) than {_ENTITY}")
_RACED = re.compile(rf"{_ENTITY} (?:finished|arrived|came) (before|after) {_ENTITY}")
_EQUAL = re.compile(rf"{_ENTITY} is (?:exactly )?as ([a-z]+) as {_ENTITY}")
_RANK = {"": 0, "second ": 1, "third ": 2}
_SUPERLATIVE = re.compile(
    rf"(?:[Ww]ho|[Ww]hich (?P<noun>[a-z]+)) is (?:the )?(?P<rank>second |third |)(?P<most>{_MOST})"
)
_PLACE = re.compile(r"[Ww]ho (?:finished|arrived|came) (?P<place>first|second|third|last)")
_EITHER = re.compile(rf"[Ww]ho is ({_MORE})[,:] {_ENTITY} or {_ENTITY}")
_WHETHER = re.compile(rf"[Ii]s {_ENTITY} ({_MORE}) than {_ENTITY}")


@dataclass
class _Reading:
    """The things compared, the scales that all comparisons may mean, and the premises."""

    names: Names
    scales: set[str]
    premises: list[tuple[str, Any]]

    def sign(self, comparative: str) -> int | None:
        """Return 1 for more, -1 for less, on the one scale that fits; None where none or two fit."""
        self.scales &= _SIGNS.get(comparative, {}).keys()
        signs = {_SIGNS[comparative][scale] for scale in self.scales} if self.scales else set()
        return signs.pop() if len(signs) == 1 else None


def solve(statements: list[str], question: str) -> Finding | None:
    """Return what follows from comparisons; None unless every sentence is one of the forms, all on one scale."""
    import z3

    reading = _Reading(Names(z3.Int), {*_SCALES, "race"}, [])
    clauses = [(s, c) for s in statements for c in re.split(r", and |, | and ", s)]
    if not all(_read(reading, sentence, _lower_the(clause)) for sentence, clause in clauses):
        return None
    return _answer(reading, _lower_the(question))


def _lower_the(text: str) -> str:
    return re.sub(r"^The ", "the ", text)


def _read(reading: _Reading, sentence: str, clause: str) -> bool:
    compared, raced, equal = (form.fullmatch(clause) for form in (_COMPARED, _RACED, _EQUAL))
    if compared:
        sign = reading.sign(compared[2])
        first, second = compared[1], compared[3]
    elif raced:
        reading.scales &= {"race"}
        sign = (-1 if raced[2] == "before" else 1) if reading.scales else None
        first, second = raced[1], raced[3]
    elif equal:
        sign = reading.sign(equal[2] + "er") and 0
        first, second = equal[1], equal[3]
    else:
        return False
    if sign is None or first == second or {first.lower(), second.lower()} & UNNAMED:
        return False
    a, b = reading.names(first), reading.names(second)
    reading.premises.append((sentence, a == b if sign == 0 else (a > b if sign > 0 else a < b)))
    return True


def _answer(reading: _Reading, question: str) -> Finding | None:
    names, premises = reading.names, reading.premises
    if found := _WHETHER.fullmatch(question):
        sign, (a, b) = reading.sign(found[2]), (found[1], found[3])
        return _known(names, a, b) and sign and decide(premises, sign * names[a] > sign * names[b])
    if found := _EITHER.fullmatch(question):
        sign, (a, b) = reading.sign(found[1]), (found[2], found[3])
        if not _known(names, a, b) or not sign:
            return None
        return choose(premises, {a: sign * names[a] > sign * names[b], b: sign * names[b] > sign * names[a]})
    if found := _PLACE.fullmatch(question):
        last = found["place"] == "last"
        rank = 0 if last else ["first", "second", "third"].index(found["place"])
        return _ranked(reading, 1 if last else -1, rank) if reading.scales == {"race"} else None
    if found := _SUPERLATIVE.fullmatch(question):
        if found["noun"] and not all(name.endswith(" " + found["noun"]) for name in names):
            return None
        sign = reading.sign(found[3][:-2] + "r")
        return _ranked(reading, sign, _RANK[found["rank"]]) if sign else None
    return None


def _known(names: Names, *asked: str) -> bool:
    return all(name in names for name in asked) and len(set(asked)) == len(asked)


def _ranked(reading: _Reading, sign: int, rank: int) -> Finding | None:
    """Return the one that exactly `rank` others exceed, and that nobody equals."""
    import z3

    names = reading.names
    if rank >= len(names):
        return None
    claims = {}
    for name, value in names.items():
        others = [other for key, other in names.items() if key != name]
        above = z3.Sum([z3.If(sign * other > sign * value, 1, 0) for other in others])
        claims[name] = z3.And(above == rank, *(other != value for other in others))
    finding = choose(reading.premises, claims)
    return None if finding and finding.answer == OPEN and rank else finding

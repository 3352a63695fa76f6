"""Syllogisms: "All A are B. No B are C. Tom is an A. Is Tom a C?" and the forms beside it.

Classes divide the world into cells, one for each set of classes that a thing may belong to; a statement says which
cells are empty or not. That is exact, and small for the few classes of a question.
"""

import re
from dataclasses import dataclass
from itertools import compress, product

from agent0.council.logic.solver import OPEN, Finding, decide
from agent0.council.logic.words import UNNAMED, names_kind, plain, term

_MOST = 6  # classes in a question
_STATED = re.compile(r"(?:(?P<how>all|every|each|any|no|some|an?) )?(?P<subject>.+?) (?P<verb>is|are|can) (?P<rest>.+)")
_DOES = re.compile(r"(?P<how>all|every|each|no|some) (?P<subject>[a-z]+) (?P<rest>[a-z]+(?: [a-z]+){0,2})")
_ASKED = re.compile(r"(?P<verb>is|are|can|do|does) (?:(?P<how>all|every|each|any|some|an?) )?(?P<rest>.+)")


@dataclass(frozen=True)
class Claim:
    """`how` many of a class (all, no, some, not all), or the one thing named by it, are in another class."""

    how: str
    subject: str
    predicate: str


def solve(statements: list[str], question: str) -> Finding | None:
    """Return what follows about classes; None unless every sentence is read, and existence makes no difference."""
    clauses = [(s, clause) for s in statements for clause in _clauses(s)]
    premises = [(sentence, _statement(clause)) for sentence, clause in clauses]
    if any(claim is None for _, claim in premises):
        return None
    things = {claim.subject for _, claim in premises if claim.how in ("one", "not one")}
    known = {claim.predicate for _, claim in premises} | {c.subject for _, c in premises} - things
    claims = _question(question.lower(), known, things)
    if len(claims) != 1 or len(known) > _MOST or things & known:
        return None
    findings = {_finding(premises, claims[0], sorted(known), sorted(things), exists) for exists in (False, True)}
    if len({finding and finding.answer for finding in findings}) != 1:
        return None
    finding = findings.pop()
    if finding and finding.answer == OPEN:  # of classes the world knows more: not all trees are oaks
        linked = _linked([*(c for _, c in premises), claims[0]])
        return finding if linked and claims[0].how == "one" else None
    return finding


def _clauses(sentence: str) -> list[str]:
    return re.split(r",? and (?=(?:all|every|each|no|some) )", sentence)


def _statement(clause: str) -> Claim | None:
    named = re.fullmatch(r"([A-Z][a-z]+) is (not )?(?:an? )?([a-z -]+)", clause)
    if named and named[1].lower() in UNNAMED:  # a class of that name would be no better
        return None
    if named and plain(named[3]):
        return Claim("not one" if named[2] else "one", named[1].lower(), term(named[3]))
    text = clause[:1].lower() + clause[1:]
    found = _STATED.fullmatch(text) or _DOES.fullmatch(text)
    if not found or text != text.lower():
        return None
    how, subject, rest = found["how"] or "all", found["subject"], found["rest"]
    verb = found.groupdict().get("verb", "")
    if found["how"] in ("a", "an") or (found["how"] is None and (verb != "are" or not names_kind(rest))):
        return None  # "a student is sick" is about one of them, "a dog is an animal" about all; "birds can fly" of most
    negated = rest.startswith("not ")
    rest = rest.removeprefix("not ")
    if not plain(subject) or not plain(rest) or (negated and how != "some"):
        return None
    how = {"no": "no", "some": "not all" if negated else "some"}.get(how, "all")
    return Claim(how, term(subject), _predicate(verb, rest))


def _predicate(verb: str, rest: str) -> str:
    """Classes are named by nouns and adjectives; what things do and can do, with the verb's kind before it."""
    return {"can": "can ", "": "do "}.get(verb, "") + term(rest)


def _question(text: str, known: set[str], things: set[str]) -> list[Claim]:
    """Return the readings of a question in which subject and predicate are both known."""
    found = _ASKED.fullmatch(text)
    if not found:
        return []
    verb = {"do": "", "does": ""}.get(found["verb"], found["verb"])
    words, claims = found["rest"].split(), []
    for cut in range(1, len(words)):
        subject, rest = " ".join(words[:cut]), " ".join(words[cut:])
        negated, rest = rest.startswith("not "), rest.removeprefix("not ")
        predicate = _predicate(verb, rest)
        if predicate not in known:
            continue
        if found["how"] is None and subject in things and not negated:
            claims.append(Claim("one", subject, predicate))
        elif term(subject) in known and (not negated or found["how"] == "some"):
            how = {"some": "not all" if negated else "some", "any": "some", None: "generic", "a": "generic"}
            how["an"] = "generic"
            claims.append(Claim(how.get(found["how"], "all"), term(subject), predicate))
    return claims


def _linked(claims: list[Claim]) -> bool:
    named = [name for claim in claims for name in (claim.subject, claim.predicate)]
    return all(named.count(name) > 1 for name in named)


def _finding(premises: list, claim: Claim, classes: list[str], things: list[str], exists: bool) -> Finding | None:
    """Return what the solver finds, classes taken to have members (`exists`) or not."""
    import z3

    cells = [frozenset(compress(classes, bits)) for bits in product((False, True), repeat=len(classes))]
    filled = {cell: z3.Bool(f"filled {sorted(cell)}") for cell in cells}
    at = {thing: {cell: z3.Bool(f"{thing} at {sorted(cell)}") for cell in cells} for thing in things}

    def some(*tests) -> z3.BoolRef:
        return z3.Or([filled[cell] for cell in cells if all(test(cell) for test in tests)])

    def formula(claim: Claim) -> z3.BoolRef:
        inside, within = (lambda cell: claim.subject in cell), (lambda cell: claim.predicate in cell)
        if claim.how in ("one", "not one"):
            holds = z3.Or([at[claim.subject][cell] for cell in cells if within(cell)])
            return holds if claim.how == "one" else z3.Not(holds)
        exception = some(inside, lambda cell: not within(cell))
        meeting = some(inside, within)
        return {"all": z3.Not(exception), "not all": exception, "some": meeting, "no": z3.Not(meeting)}[claim.how]

    given = [(sentence, formula(claim)) for sentence, claim in premises]
    for places in at.values():
        given.append(("", z3.PbEq([(place, 1) for place in places.values()], 1)))
        given += [("", z3.Implies(place, filled[cell])) for cell, place in places.items()]
    if exists:
        given += [("", some(lambda cell, c=c: c in cell)) for c in classes]
    if claim.how != "generic":
        return _without_silent(decide(given, formula(claim)))
    every, none = (decide(given, formula(Claim(how, claim.subject, claim.predicate))) for how in ("all", "no"))
    if every is None or none is None:
        return None
    if every.answer == "yes":
        return _without_silent(every)
    if none.answer == "yes":
        return _without_silent(Finding("no", none.because))
    return every if every.answer == none.answer == OPEN else None


def _without_silent(finding: Finding | None) -> Finding | None:
    return finding and Finding(finding.answer, tuple(filter(None, finding.because)))

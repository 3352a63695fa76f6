"""Small puzzles: "Ann, Bob and Cid each have a different pet: a cat, a dog and a fish. … Who has the cat?"."""

import re

from agent0.council.logic.solver import Finding, Premise, choose

_VERBS = "has|have|owns?|likes?|plays?|drinks?|eats?|wears?|drives?|speaks?|lives? in"
_SETUP = re.compile(
    rf"(?:[A-Za-z]+ [a-z]+, )?(?P<people>(?:[A-Z][a-z]+, )+[A-Z][a-z]+,? and [A-Z][a-z]+|[A-Z][a-z]+ and [A-Z][a-z]+),?"
    rf" each (?P<verb>{_VERBS}) (?:a|one) (?P<different>different )?(?P<noun>[a-z]+): "
    rf"(?P<things>[a-z ]+(?:, [a-z ]+)*,? (?:and|or) [a-z ]+)(?P<distinct>, and no two (?:{_VERBS}) the same)?"
)


def solve(statements: list[str], question: str) -> Finding | None:
    """Return who has what; None unless the first sentence sets up a one-to-one puzzle and every clue is read."""
    import z3

    setup = _SETUP.fullmatch(statements[0])
    if not setup or not (setup["different"] or setup["distinct"]):
        return None
    people = _listed(setup["people"])
    things = [_bare(thing) for thing in _listed(setup["things"])]
    if len(people) != len(things) or len({*people, *things}) != 2 * len(people) or len(people) > 8:
        return None
    holds = {person: z3.Int(person) for person in people}
    bounds = [z3.And(value >= 0, value < len(things)) for value in holds.values()]
    premises: list[Premise] = [(statements[0], z3.And(z3.Distinct(list(holds.values())), *bounds))]
    for clue in statements[1:]:
        formula = _clue(clue, _stem(setup["verb"]), holds, things)
        if formula is None:
            return None
        premises.append((clue, formula))
    return _answer(question, setup, holds, things, premises)


def _listed(text: str) -> list[str]:
    return re.split(r",? (?:and|or) |, ", text)


def _bare(thing: str) -> str:
    return re.sub(r"^(?:an?|the) ", "", thing)


def _stem(verb: str) -> str:
    return "have" if verb in ("has", "have") else re.sub(r"s\b", "", verb)


def _clue(clue: str, verb: str, holds: dict, things: list[str]):
    """Return the formula of "X has the cat", "X does not have the cat" or "X has neither the cat nor the dog"."""
    import z3

    found = re.fullmatch(rf"([A-Z][a-z]+) (does not |doesn't )?({_VERBS}) (.+)", clue)
    if not found or found[1] not in holds or _stem(found[3]) != verb:
        return None
    neither = re.fullmatch(r"neither (.+) nor (.+)", found[4])
    named = [_bare(thing) for thing in (neither.groups() if neither else [found[4]])]
    if any(thing not in things for thing in named) or (neither and found[2]):
        return None
    has = [holds[found[1]] == things.index(thing) for thing in named]
    return z3.Not(z3.Or(has)) if neither or found[2] else has[0]


def _answer(question: str, setup: re.Match, holds: dict, things: list[str], premises: list[Premise]) -> Finding | None:
    verb, noun = _stem(setup["verb"]), setup["noun"]
    who = re.fullmatch(rf"[Ww]ho ({_VERBS}) (.+)", question)
    if who and _stem(who[1]) == verb and _bare(who[2]) in things:
        return choose(premises, {person: value == things.index(_bare(who[2])) for person, value in holds.items()})
    what = re.fullmatch(rf"(?:[Ww]hat|[Ww]hich) {noun} does ([A-Z][a-z]+) ({_VERBS})", question)
    if what and _stem(what[2]) == verb and what[1] in holds:
        return choose(premises, {thing: holds[what[1]] == number for number, thing in enumerate(things)})
    return None

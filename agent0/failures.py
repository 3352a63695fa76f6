"""Which answers of a day failed, and why: by flag, by feedback, by audit, and by being asked again at once."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from agent0.agreement import answers_agree
from agent0.council.logic import solve as draw
from agent0.council.math import solve as work_out
from agent0.council.protocol import Decision
from agent0.council.self_member import own_words
from agent0.quality import normalise
from agent0.records import Answer, Cause, Failure, Rewrite
from agent0.settings import get_settings

_YES_NO = re.compile(r"\W*(?:the answer is )?(yes|no)\s*(?:[.,;:!]|$)", re.IGNORECASE)

solve = lru_cache(maxsize=10_000)(work_out)  # one question is looked at several times


def find_failures(answers: Sequence[Answer], since: float = 0, late: frozenset[str] = frozenset()) -> list[Failure]:
    """Return the failures among the answers, which are given oldest first, each with its cause and kind.

    Answers before `since` were looked at on their day: of them only the ids in `late`, which were judged after that,
    are new, and those that were no failure until their user asked again.
    """
    again, before = asked_again(answers), asked_again(answer for answer in answers if answer.timestamp < since)
    causes = ((answer, failure_cause(answer, answer.id in again)) for answer in answers)
    found = (
        (answer, cause)
        for answer, cause in causes
        if answer.timestamp >= since or answer.id in late or (cause == "repetition" and answer.id not in before)
    )
    return [Failure(answer=answer, cause=cause, kind=kind_of(answer.query)) for answer, cause in found if cause]


def failure_cause(answer: Answer, repeated: bool = False) -> Cause | None:
    """Return feedback, flag, audit or repetition for an answer that failed; None for one that did not.

    A proof outranks every other sign: a confident answer that is proven wrong failed although the user liked it, and
    one that is proven right did not fail because it was asked again.
    """
    if not answer.success:
        return "feedback" if answer.feedback else "flag"
    solution = solve(answer.query)
    if solution:
        return None if answers_agree(answer.response, solution.result) else "audit"
    if _draws_the_opposite(answer):
        return "audit"
    return "repetition" if repeated and not answer.feedback else None


def asked_again(answers: Iterable[Answer]) -> set[str]:
    """Return the ids of answers after which the same named user asked the same within REPEAT_SECONDS."""
    latest: dict[tuple[str, str], Answer] = {}
    again = set()
    for answer in answers:
        if answer.user is None:
            continue
        asking = answer.user, normalise(answer.query)
        before = latest.get(asking)
        if before and answer.timestamp - before.timestamp <= get_settings().repeat_seconds:
            again.add(before.id)
        latest[asking] = answer
    return again


def kind_of(question: str) -> str:
    """Return the kind of an exactly checkable question, else "open"."""
    solution = solve(question)
    if solution:
        return solution.kind
    return "logic" if draw(question) else "open"


def proven_right(answer: Answer) -> bool:
    """Whether the exact check proves an answer right, however it was marked."""
    solution = solve(answer.query)
    return solution is not None and answers_agree(answer.response, solution.result)


def own_wording(answer: Answer) -> Decision | None:
    """Return the decision to learn an answer in its own words: it is proven right, whole, and each step is right."""
    text, solution = answer.response.strip(), solve(answer.query)
    if not (text and solution and own_words([text], answer.query, solution.result, longest=len(text))):
        return None
    own = Rewrite(
        member="self",
        reasoning=solution.why,
        output=text,
        result=solution.result,
        kind=solution.kind,
        proof=f"math:{solution.kind}",
    )
    return Decision(own, "proven right")


def _draws_the_opposite(answer: Answer) -> bool:
    """Whether an answer begins with yes where the solver concludes no, or the other way round."""
    said = _YES_NO.match(answer.response)
    drawn = draw(answer.query) if said else None
    return bool(drawn) and {said[1].lower(), drawn[1].answer} == {"yes", "no"}

"""The served model as a member: it answers several times, and proposes the answer it gives most often."""

import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

from agent0.client import CouncilClient
from agent0.council.math import solve
from agent0.quality import answers_agree, final_answer, normalise
from agent0.records import Rewrite
from agent0.values import digits, find_amounts

_IS = re.compile(r"=|\b(?:is|are|equals|makes|gives|comes to)\b", re.IGNORECASE)
_UNSURE = re.compile(
    r"\b(?:about|around|approximately|roughly|nearly|almost|maybe|perhaps|probably|possibly|either|might|could|should"
    r"|i (?:think|guess|believe|suppose))\b|[~≈?]",
    re.IGNORECASE,
)


class SelfMember:
    """Self-consistency over a few samples. It has no vote: the model that failed does not judge."""

    name = "self"
    costly = True

    def __init__(self, client: CouncilClient | None = None, samples: int = 5):
        self.client, self.samples = client or CouncilClient(), samples

    def propose(self, question: str, failed_response: str) -> Rewrite | None:
        """Return the first sample of the answer given most often; None if no answer is given twice, or two tie."""
        groups: dict[str, list[str]] = defaultdict(list)
        for text in self.sample(question, self.samples):
            groups[normalise(final_answer(text))].append(text)
        ranked = sorted(groups.values(), key=len, reverse=True)
        if not ranked or len(ranked[0]) < 2 or (len(ranked) > 1 and len(ranked[1]) == len(ranked[0])):
            return None
        text, count = ranked[0][0], len(ranked[0])
        reasoning = f"{count} of {self.samples} independent samples give this answer."
        return Rewrite(member=self.name, reasoning=reasoning, output=text, result=final_answer(text))

    def sample(self, question: str, count: int) -> list[str]:
        """Return what the served model says in so many samples; empty ones and ones that were cut off are left out."""
        with ThreadPoolExecutor(min(count, 8)) as pool:
            asked = range(count)
            replies = list(pool.map(lambda _: self.client.ask(question, store=False, temperature=0.8), asked))
        return [reply.text.strip() for reply in replies if reply.text.strip() and not reply.truncated]


def own_words(texts: list[str], result: str, longest: int) -> str | None:
    """Return the shortest text that gives the result and says nothing that is not so, or None.

    A right answer at the end of wrong steps would teach the steps: each "a = b" in the text must hold. And a guess
    that happens to be right would teach to guess.
    """
    said = [text for text in texts if len(text) <= longest and _ends(text) and not _UNSURE.search(text)]
    good = [text for text in said if answers_agree(text, result) and equations_hold(text)]
    return min(good, key=len, default=None)


def equations_hold(text: str) -> bool:
    """Whether in every sentence like "15% of 80 = 1200 / 100 = 12" the parts that can be worked out are equal.

    "5 times 8 is 40" is such a sentence, too.
    """
    for sentence in re.split(r"[.;!]\s|\n", digits(text)):
        first, *others = _IS.split(sentence)
        values = {_worth(first), *(_worth(part) or _number(part) for part in others)} - {None}
        if others and len(values) > 1:
            return False
    return True


def _worth(part: str) -> Fraction | None:
    """Return what a part comes to, with or without the words before its numbers, or None."""
    part = part.strip(" .,")
    bare = re.sub(r"^[A-Za-z ,:]+(?=[\d(])", "", part)
    solution = solve(f"What is {part}?") or solve(f"What is {bare}?")
    found = find_amounts(solution.result) if solution else []
    return found[0].value if len(found) == 1 else _number(part, whole=True)


def _number(part: str, whole: bool = False) -> Fraction | None:
    """Return the number that a part begins with, or is; None where an expression goes on behind it."""
    found = re.match(r" *-?\$?\d[\d.,]*" + (" *$" if whole else r"(?= *(?:[a-z,%]|$))"), part)
    amounts = find_amounts(found[0]) if found else []
    return amounts[0].value if len(amounts) == 1 else None


def _ends(text: str) -> bool:
    return text[-1] in ".!`)" or text[-1].isdigit()

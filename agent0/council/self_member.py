"""The served model as a member: it answers several times, and proposes the answer it gives most often."""

import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

from agent0.agreement import answers_agree, final_answer, numbers, plain_text
from agent0.client import CouncilClient
from agent0.council.math import solve
from agent0.quality import normalise
from agent0.records import Rewrite
from agent0.values import find_amounts

_IS = re.compile(r"=|\b(?:is|are|equals|makes|gives)\b", re.IGNORECASE)
_NEXT = re.compile(r"(?<=\d),? (?:and |so |then )?(?=[\d($][^=,]*=)")  # between "3 * 2 = 6" and "30 + 6 = 36"
_PLAIN_WORDS = frozenset(
    re.findall(
        r"\w+",
        """the answer is are a an so therefore thus then it its this that of to in by for we get total sum result
        equals makes gives and first next now add subtract multiply divide times plus minus divided multiplied by
        percent altogether left per each there let me us""",
    )
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
        """Return what the served model says in so many samples; empty ones and ones that were cut off are left out.

        Each has its seed: a harvest that goes on after a kill puts the same samples to the vote, which is paid already.
        """
        with ThreadPoolExecutor(min(count, 8)) as pool:
            drawn = pool.map(lambda n: self.client.ask(question, store=False, temperature=0.8, seed=n), range(count))
            replies = list(drawn)
        return [reply.text.strip() for reply in replies if reply.text.strip() and not reply.truncated]


def own_words(texts: list[str], question: str, result: str, longest: int) -> str | None:
    """Return the shortest text that gives the result and says nothing that is not so, or None.

    A right answer at the end of wrong steps would teach the steps, and one with a guess or a tale around it would
    teach those. So a text may hold the words of question and result, the plainest others, and numbers that stand in
    the question, are the result, or were worked out here to the same.
    """
    said = [text for text in texts if len(text) <= longest and _ends(text) and _is_plain(text, f"{question} {result}")]
    good = [text for text in said if answers_agree(text, result) and _shown(text, question, result)]
    return min(good, key=len, default=None)


def _is_plain(text: str, given: str) -> bool:
    words, known = (set(re.findall(r"[a-z]+", plain_text(part).lower())) for part in (text, given))
    plain = known | {f"{word}s" for word in known} | {word.removesuffix("s") for word in known} | _PLAIN_WORDS
    return words <= plain and "?" not in text


def _shown(text: str, question: str, result: str) -> bool:
    """Whether all numbers of the text are given, the result, or shown by an equation; and the result among them."""
    text = plain_text(text)
    given, wanted = numbers(question), numbers(result)
    return wanted <= numbers(text) and all(_holds(s, given | wanted) for s in re.split(r"[.;:!]\s|\n", text))


def _holds(sentence: str, known: set[str]) -> bool:
    """Whether a sentence like "15% of 80 = 1200 / 100 = 12" says nothing but what is known, or equal as it stands."""
    pieces = _NEXT.split(sentence)
    if len(pieces) > 1 and all("=" in piece for piece in pieces):
        return all(_holds(piece, known) for piece in pieces)
    first, *others = _IS.split(sentence)
    worths = {part: value for part in [first, *others] if (value := _worth(part, part is not first)) is not None}
    if len(set(worths.values())) > 1:
        return False
    unshown = [part for part in [first, *others] if part not in worths or len(worths) == 1]
    return all(numbers(part) <= known for part in unshown)


def _worth(part: str, after: bool) -> Fraction | None:
    """Return what a part comes to, with or without the words before its numbers, or None."""
    part = part.strip(" .,")
    bare = re.sub(r"^[A-Za-z ,:]+(?=[\d(])", "", part)
    solution = solve(f"What is {part}?") or solve(f"What is {bare}?")
    found = find_amounts(solution.result) if solution else []
    if len(found) == 1:
        return found[0].value
    alone = re.fullmatch(r"-?\$?\d[\d.,]*" + (r"(?: ?%|(?: [a-z]+){0,2})" if after else ""), part)
    amounts = find_amounts(alone[0]) if alone else []
    return amounts[0].value if len(amounts) == 1 else None


def _ends(text: str) -> bool:
    return text[-1] in ".!`)" or text[-1].isdigit()

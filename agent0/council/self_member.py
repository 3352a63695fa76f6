"""The served model as a member: it answers several times, and proposes the answer it gives most often."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from agent0.client import CouncilClient
from agent0.quality import final_answer, normalise
from agent0.records import Rewrite


class SelfMember:
    """Self-consistency over a few samples. It has no vote: the model that failed does not judge."""

    name = "self"
    costly = True

    def __init__(self, client: CouncilClient | None = None, samples: int = 5):
        self.client, self.samples = client or CouncilClient(), samples

    def propose(self, question: str, failed_response: str) -> Rewrite | None:
        """Return the first sample of the answer given most often; None if no answer is given twice, or two tie."""
        with ThreadPoolExecutor(self.samples) as pool:
            asked = range(self.samples)
            replies = list(pool.map(lambda _: self.client.ask(question, store=False, temperature=0.8), asked))
        groups: dict[str, list[str]] = defaultdict(list)
        for reply in replies:
            if reply.text.strip() and not reply.truncated:
                groups[normalise(final_answer(reply.text))].append(reply.text.strip())
        ranked = sorted(groups.values(), key=len, reverse=True)
        if not ranked or len(ranked[0]) < 2 or (len(ranked) > 1 and len(ranked[1]) == len(ranked[0])):
            return None
        text, count = ranked[0][0], len(ranked[0])
        reasoning = f"{count} of {self.samples} independent samples give this answer."
        return Rewrite(member=self.name, reasoning=reasoning, output=text, result=final_answer(text))

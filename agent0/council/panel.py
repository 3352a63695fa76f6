"""What the endpoints find of two answers to a question that nothing can verify: which one is better."""

import queue
import random
import threading
from collections.abc import Sequence

from agent0.council.protocol import Attendance, Member
from agent0.guard.injection import suspicious
from agent0.guard.privacy import holds_secret, scrub


class Panel:
    """Compares answers in the background, so that nobody waits for a judge: what comes too late is not heard.

    A judge sees neither names nor who serves, and the order is drawn for each question and judge: one that prefers the
    first place prefers nobody, so that between equals each is preferred half of the time.
    """

    def __init__(self, judges: Sequence[Member] = ()):
        self.judges, self._attendance = judges, Attendance()
        self._heard: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._seen: set[str] = set()
        self._closed = threading.Event()

    def compare(self, question: str, stable: str, candidate: str) -> None:
        """Put two answers before the judges, once a question, without personal data.

        What holds a secret, or gives orders, never comes before them.
        """
        if question in self._seen:
            return
        self._seen.add(question)
        if stable.strip() == candidate.strip():
            self._heard.put(0.5)
        else:
            threading.Thread(target=self._compare, args=[question, stable, candidate], daemon=True).start()

    def _compare(self, *texts: str) -> None:
        if any(holds_secret(text) or suspicious(text) for text in texts):
            return
        shown = [scrub(text) for text in texts]
        votes = [self._vote(judge, *shown) for judge in self.judges]
        if told := [vote for vote in votes if vote is not None]:
            self._heard.put(sum(told) / len(told))  # one opinion a question: judges tend to agree

    def _vote(self, judge: Member, question: str, stable: str, candidate: str) -> float | None:
        """1 for the candidate, 0 for stable; None where the judge does not say, or nobody listens any more."""
        if self._closed.is_set():
            return None
        shown = [(stable, 0.0), (candidate, 1.0)]
        random.SystemRandom().shuffle(shown)
        choice = self._attendance.ask(judge, judge.vote, question, [text for text, _ in shown])
        return None if choice is None else shown[choice][1]

    def heard(self) -> list[float]:
        """What is new of opinions, one a question: the share of the judges that prefer the candidate, 0 to 1."""
        return [self._heard.get() for _ in range(self._heard.qsize())]

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

"""How the council decides: a proof outranks everything, a vote needs a quorum of others, else it abstains."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from agent0.command import log
from agent0.quality import answers_agree
from agent0.records import Rewrite
from agent0.settings import get_settings

_PATIENCE = 3  # failures after which a member is no longer asked


class Member(Protocol):
    """Proposes a better answer, or None. Any exception means that the member failed.

    `costly = True` marks a member that is asked only where a vote could carry its proposal. A member may also have
    `vote(question, candidates) -> index | None`: the candidates are anonymous, shuffled and none of its own.
    """

    name: str

    def propose(self, question: str, failed_response: str) -> Rewrite | None: ...


@dataclass(frozen=True)
class Decision:
    """What the council made of one failure; `rewrite` is None where it abstains, and `reason` says why."""

    rewrite: Rewrite | None
    reason: str
    votes: dict[str, float] | None = None

    @property
    def verified_by(self) -> str | None:
        return self.rewrite.proof if self.rewrite else None


class Attendance:
    """Counts the failures of each member; says so once a member, and stops asking one that keeps failing."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self._lock = threading.Lock()

    def ask(self, member: Member, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return call(*arguments), or None where the member fails or has failed too often."""
        if self.failures[member.name] >= _PATIENCE:
            return None
        try:
            return call(*arguments)
        except Exception as error:  # whatever a member dies of, the harvest goes on without it
            with self._lock:
                self.failures[member.name] += 1
                first = self.failures[member.name] == 1
            if first:
                log.warning("council member %s fails: %s: %s", member.name, type(error).__name__, error)
            return None


def convene(
    question: str,
    failed_response: str,
    members: Sequence[Member],
    attendance: Attendance | None = None,
    shuffle: Callable[[list], None] | None = None,
) -> Decision:
    """Ask the members, and accept one rewrite or none.

    Free members propose first; where they prove nothing, the costly ones that a quorum could elect are asked too.
    """
    attendance = attendance or Attendance()
    proposals = _proposals([m for m in members if not _costly(m)], question, failed_response, attendance)
    if not any(rewrite.proof for rewrite in proposals):
        electable = [m for m in members if _costly(m) and len(_jurors(members, m.name)) >= _quorum()]
        proposals += _proposals(electable, question, failed_response, attendance)
    proven = [rewrite for rewrite in proposals if rewrite.proof]
    if not proposals:
        return Decision(None, "no proposal")
    return _by_proof(proven) if proven else _by_vote(question, proposals, members, attendance, shuffle)


def _costly(member: Member) -> bool:
    return getattr(member, "costly", False)


def _quorum() -> int:
    return get_settings().council_quorum


def _jurors(members: Iterable[Member], author: str) -> list[Member]:
    return [m for m in members if hasattr(m, "vote") and m.name != author]


def _proposals(members: Sequence[Member], question: str, failed: str, attendance: Attendance) -> list[Rewrite]:
    if len(members) < 2:
        found = [attendance.ask(m, m.propose, question, failed) for m in members]
    else:
        with ThreadPoolExecutor(len(members)) as pool:
            found = list(pool.map(lambda m: attendance.ask(m, m.propose, question, failed), members))
    return [rewrite for rewrite in found if rewrite]


def _by_proof(proven: list[Rewrite]) -> Decision:
    """Accept the first proof, unless another one contradicts it."""
    first = proven[0]
    if not first.result or any(not answers_agree(other.output, first.result) for other in proven):
        return Decision(None, "proofs disagree")
    return Decision(first, "proven")


def _by_vote(
    question: str,
    candidates: list[Rewrite],
    members: Sequence[Member],
    attendance: Attendance,
    shuffle: Callable[[list], None] | None,
) -> Decision:
    jurors = [m for m in members if hasattr(m, "vote") and any(c.member != m.name for c in candidates)]
    if not any(len(_jurors(members, candidate.member)) >= _quorum() for candidate in candidates):
        return Decision(None, "no quorum")
    with ThreadPoolExecutor(len(jurors)) as pool:
        ballots = list(pool.map(lambda m: _ballot(m, question, candidates, attendance, shuffle), jurors))
    ranked = Counter(choice for choice in ballots if choice is not None).most_common(2)
    if not ranked or ranked[0][1] < _quorum():
        return Decision(None, "no quorum")
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        return Decision(None, "votes are tied")
    winner = ranked[0][0]
    votes = {juror.name: float(choice == winner) for juror, choice in zip(jurors, ballots, strict=True)}
    return Decision(candidates[winner], "votes", votes)


def _ballot(
    juror: Member, question: str, candidates: list[Rewrite], attendance: Attendance, shuffle: Callable | None
) -> int | None:
    """Return the index of the candidate that the juror prefers; it sees neither authors nor its own proposal.

    Without `shuffle` the order differs by question and juror, but not from one run to the next.
    """
    order = [n for n, candidate in enumerate(candidates) if candidate.member != juror.name]
    (shuffle or random.Random(f"{juror.name}\n{question}").shuffle)(order)
    choice = attendance.ask(juror, juror.vote, question, [candidates[n].output for n in order])
    return order[choice] if isinstance(choice, int) and 0 <= choice < len(order) else None

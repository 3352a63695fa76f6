"""How the council decides: a proof outranks everything, a vote needs a quorum of others, else it abstains.

Members propose; other members verify what can be verified; the rest is voted on, each juror weighing what its record on
proven questions is worth; judges must find the elected answer good.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from agent0.agreement import answers_agree
from agent0.command import log
from agent0.council.jury import Jury
from agent0.council.self_member import own_words
from agent0.records import Rewrite
from agent0.settings import get_settings

_PATIENCE = 3  # failures after which a member is no longer asked


class Member(Protocol):
    """Proposes a better answer, or None. Any exception means that the member failed.

    `costly = True` marks a member that is asked only where a vote could carry its proposal, or where its
    `proves(question) -> bool` says that it may prove one. A member may also have
    `vote(question, candidates) -> index | None`: the candidates are anonymous, shuffled and none of its own;
    `verify(question, text) -> str | False | None`: what of another's candidate is proven; False refutes it;
    `judge(question, text) -> float | None`: how good another's candidate is, 0 to 1;
    `sample(question, count) -> list[str]`: answers in the words of the model that is trained.
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
    """Counts the failures of each member; says so once a member, and stops asking one that keeps failing.

    Holds the record of the jury, too: both last for one harvest.
    """

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.jury = Jury()
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


@dataclass(frozen=True)
class Hearing:
    """What the members that cost nothing say to a failure; `decision` is there where they prove an answer."""

    question: str
    failed_response: str
    proposals: list[Rewrite]
    decision: Decision | None


def convene(
    question: str,
    failed_response: str,
    members: Sequence[Member],
    attendance: Attendance | None = None,
    shuffle: Callable[[list], None] | None = None,
) -> Decision:
    """Put one failure before the members, and accept one rewrite or none."""
    attendance = attendance or Attendance()
    return decide(hear(question, failed_response, members, attendance), members, attendance, shuffle)


def hear(question: str, failed_response: str, members: Sequence[Member], attendance: Attendance) -> Hearing:
    """Ask the members that cost nothing. What they prove is decided, and tests the jurors.

    Where many failures are heard before the first vote, each vote has its juror's record behind it.
    """
    proposals, decision = _round(question, failed_response, members, attendance, costly=False)
    return Hearing(question, failed_response, proposals, decision)


def decide(
    hearing: Hearing,
    members: Sequence[Member],
    attendance: Attendance,
    shuffle: Callable[[list], None] | None = None,
) -> Decision:
    """Where nothing is proven yet, ask the costly members that could prove or win a vote, then vote."""
    if hearing.decision:
        return hearing.decision
    proposals, decision = _round(hearing.question, hearing.failed_response, members, attendance, costly=True)
    if decision:
        return decision
    if not (proposals := [*hearing.proposals, *proposals]):
        return Decision(None, "no proposal")
    return _by_vote(hearing.question, proposals, members, attendance, shuffle)


def _round(
    question: str, failed_response: str, members: Sequence[Member], attendance: Attendance, *, costly: bool
) -> tuple[list[Rewrite], Decision | None]:
    """Return what the free or the costly members propose, and the decision where one of them proves it."""
    asked = [
        m for m in members if _costly(m) == costly and (not costly or _worth_asking(m, question, members, attendance))
    ]
    found = _proposals(asked, question, failed_response, attendance)
    proposals = _verified(question, found, members, attendance)
    proven = [rewrite for rewrite in proposals if rewrite.proof]
    if not proven:
        return proposals, None
    return proposals, _with_own_words(question, _by_proof(proven), failed_response, members, attendance)


def _worth_asking(member: Member, question: str, members: Sequence[Member], attendance: Attendance) -> bool:
    if len(_jurors(members, member.name)) >= _quorum():
        return True
    return hasattr(member, "proves") and bool(attendance.ask(member, member.proves, question))


def _verified(question: str, found: list[Rewrite], members: Sequence[Member], attendance: Attendance) -> list[Rewrite]:
    """Return the proposals that no other member refutes; of those that one verifies, the part that it proves."""
    kept = []
    for rewrite in found:
        checkers = [m for m in members if hasattr(m, "verify") and m.name != rewrite.member and not rewrite.proof]
        verdicts = {m.name: attendance.ask(m, m.verify, question, rewrite.output) for m in checkers}
        if False in verdicts.values():
            continue
        if by := next((name for name, verdict in verdicts.items() if verdict), None):
            proven = {"output": verdicts[by], "result": verdicts[by], "proof": f"{by}:verified"}
            rewrite = rewrite.model_copy(update=proven)
        kept.append(rewrite)
    return kept


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
    """Accept the first proof, unless one of another kind contradicts it."""
    first = proven[0]
    others = [other for other in proven[1:] if other.proof != first.proof]
    if not first.result or any(not answers_agree(other.output, first.result) for other in others):
        return Decision(None, "proofs disagree")
    return Decision(first, "proven")


def _with_own_words(
    question: str, decision: Decision, failed_response: str, members: Sequence[Member], attendance: Attendance
) -> Decision:
    """Calibrate the jury on a proven answer, and prefer a right answer in the words of the model that is trained."""
    proven, count = decision.rewrite, get_settings().self_samples
    if proven is None:
        return decision
    if proven.kind != "computed":  # a program by the endpoint that answered proves less than what tests a juror
        _calibrate(question, proven, failed_response, members, attendance)
    exact = proven.proof.startswith("code:")  # what a program prints, or a function: other words say something else
    for member in members if count and not exact else []:
        if hasattr(member, "sample"):
            texts = attendance.ask(member, member.sample, question, count) or []
            if text := own_words(texts, question, proven.result, longest=max(200, 2 * len(proven.output))):
                own = {"member": member.name, "output": text, "reasoning": proven.reasoning}
                return Decision(proven.model_copy(update=own), "proven")
    return decision


def _calibrate(question: str, proven: Rewrite, wrong: str, members: Sequence[Member], attendance: Attendance) -> None:
    """Let jurors and judges choose between a proven answer and the failed one, to learn how far to trust them."""
    jury = attendance.jury
    tested = [m for m in members if (hasattr(m, "vote") or hasattr(m, "judge")) and m.name != proven.member]
    if not tested or not wrong.strip() or answers_agree(wrong, proven.result) or not jury.takes():
        return
    candidates = [proven.output, wrong]
    random.Random(question).shuffle(candidates)
    right = candidates.index(proven.output)
    for member in tested:
        if hasattr(member, "vote"):
            choice = attendance.ask(member, member.vote, question, candidates)
            jury.vote(member.name, question, candidates, choice, right)
        if hasattr(member, "judge"):
            scores = [attendance.ask(member, member.judge, question, text) for text in (proven.output, wrong)]
            if None not in scores:
                jury.score(member.name, *scores)


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
    weights = {juror.name: attendance.jury.weight(juror.name) for juror in jurors}
    choices = {juror.name: choice for juror, choice in zip(jurors, ballots, strict=True)}
    winner, reason = _elected(choices, weights)
    if winner is None:
        return Decision(None, reason)
    if doubt := _doubted(question, candidates[winner], members, attendance):
        return Decision(None, doubt)
    votes = {name: weights[name] * (choice == winner) for name, choice in choices.items()}
    return Decision(candidates[winner], "votes", votes)


def _elected(choices: dict[str, int | None], weights: dict[str, float]) -> tuple[int | None, str]:
    """Return the candidate whose weighted votes, to the nearest whole vote, reach the quorum; else None and why."""
    tally: Counter[int] = Counter()
    for juror, choice in choices.items():
        if choice is not None:
            tally[choice] += weights[juror]
    ranked = tally.most_common(2)
    if not ranked or round(ranked[0][1]) < _quorum():
        return None, "no quorum"
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        return None, "votes are tied"
    return ranked[0][0], "votes"


def _doubted(question: str, elected: Rewrite, members: Sequence[Member], attendance: Attendance) -> str | None:
    """Why the judges, none of them the author, do not back it: most who can tell find it poor, or none spoke."""
    judges = [m for m in members if hasattr(m, "judge") and m.name != elected.member]
    asked = {m.name: attendance.ask(m, m.judge, question, elected.output) for m in judges}
    scores = {name: score for name, score in asked.items() if score is not None}
    if judges and not scores:
        return "no judge gave a score"
    verdicts = [attendance.jury.satisfied(name, score) for name, score in scores.items()]
    told = [verdict for verdict in verdicts if verdict is not None]
    return "judged poor" if told and sum(told) * 2 <= len(told) else None


def _ballot(
    juror: Member, question: str, candidates: list[Rewrite], attendance: Attendance, shuffle: Callable | None
) -> int | None:
    """Return the index of the candidate that the juror prefers; it sees neither authors nor its own proposal.

    Without `shuffle` the order differs by question and juror, but not from one run to the next.
    """
    order = [n for n, candidate in enumerate(candidates) if candidate.member != juror.name]
    (shuffle or random.Random(f"{juror.name}\n{question}").shuffle)(order)
    shown = [candidates[n].output for n in order]
    choice = attendance.ask(juror, juror.vote, question, shown)
    choice = choice if isinstance(choice, int) and 0 <= choice < len(order) else None
    attendance.jury.vote(juror.name, question, shown, choice)
    return None if choice is None else order[choice]

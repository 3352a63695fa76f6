"""What the council knows of its jurors and judges: how they do on questions whose answer is proven."""

import threading
import warnings
from collections import defaultdict
from collections.abc import Sequence

from agent0.command import log
from agent0.quality import normalise
from agent0.settings import get_settings

CALIBRATION = 10  # proven questions put before the jurors in a harvest
_ENOUGH = 5  # of them before a record counts


class Jury:
    """The record of one harvest; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._questions = 0
        self._votes: list[tuple[str, str, bool]] = []  # (candidate, juror, whether it was chosen)
        self._truth: dict[str, bool] = {}  # candidates known to be right or wrong
        self._record: dict[str, list[int]] = defaultdict(lambda: [0, 0])  # juror → right choices, choices
        self._scores: dict[str, list[tuple[float, float]]] = defaultdict(list)  # judge → (right answer's, wrong one's)
        self._weights: tuple[int, dict[str, float]] = (0, {})

    def takes(self) -> bool:
        """Whether one more proven question is wanted for calibration; each yes counts as one."""
        with self._lock:
            self._questions += 1
            return self._questions <= CALIBRATION

    def vote(
        self, juror: str, question: str, candidates: Sequence[str], choice: int | None, right: int | None = None
    ) -> None:
        """Note a juror's choice; `right` is the right candidate's index where it is proven."""
        with self._lock:
            for number, text in enumerate(candidates):
                task = f"{normalise(question)}\n{text}"
                self._votes.append((task, juror, number == choice))
                if right is not None:
                    self._truth[task] = number == right
            if right is not None:
                self._record[juror][0] += choice == right
                self._record[juror][1] += 1

    def err(self, question: str, text: str, votes: dict[str, float]) -> None:
        """Note that a person vetoed what these jurors had voted on: who chose it was wrong."""
        with self._lock:
            task = f"{normalise(question)}\n{text}"
            self._truth[task] = False
            for juror, worth in votes.items():
                self._votes.append((task, juror, worth > 0))
                self._record[juror][0] += worth == 0
                self._record[juror][1] += 1

    def weight(self, juror: str) -> float:
        """How far a vote tells right from wrong: 1 for a faultless juror or a new one, 0 for one that guesses.

        P(chosen | right) - P(chosen | wrong) by the confusion matrix of Dawid and Skene (1979).
        """
        with self._lock:
            if self._record[juror][1] < _ENOUGH:
                return 1.0
            known = sum(choices for _, choices in self._record.values())
            if self._weights[0] != known:
                self._weights = known, _weights(self._votes, self._truth)
            return self._weights[1][juror]

    def score(self, judge: str, right: float, wrong: float) -> None:
        """Note the scores that a judge gives to a proven answer and to a wrong one."""
        with self._lock:
            self._scores[judge].append((right, wrong))

    def satisfied(self, judge: str, score: float) -> bool | None:
        """Whether a judge's score means good, by the cut that its own record sets; None from a judge who cannot tell.

        Before it has a record the cut is QUALITY_THRESHOLD.
        """
        with self._lock:
            pairs = list(self._scores[judge])
        if len(pairs) < _ENOUGH:
            return score >= get_settings().quality_threshold
        if _agreement(pairs) * 4 < len(pairs) * 3:
            return None
        scores = {value for pair in pairs for value in pair}
        cut = max(sorted(scores), key=lambda cut: sum((right >= cut) + (wrong < cut) for right, wrong in pairs))
        return score >= cut

    def report(self) -> None:
        """Log how jurors and judges agree with what is proven."""
        for juror, (right, votes) in sorted(self._record.items()):
            if votes:
                log.info("juror %s: right on %d of %d proven questions, weight %.2f", juror, right, votes,
                         self.weight(juror))  # fmt: skip
        for judge, pairs in sorted(self._scores.items()):
            log.info("judge %s: agrees with %d of %d proven answers", judge, _agreement(pairs), len(pairs))


def _agreement(pairs: list[tuple[float, float]]) -> int:
    return sum(right > wrong for right, wrong in pairs)


def _weights(votes: list[tuple[str, str, bool]], truth: dict[str, bool]) -> dict[str, float]:
    import pandas
    from crowdkit.aggregation import DawidSkene

    names = {True: "yes", False: "no"}
    table = pandas.DataFrame(
        [(task, juror, names[chosen]) for task, juror, chosen in votes], columns=["task", "worker", "label"]
    )
    known = pandas.Series({task: names[right] for task, right in truth.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, about crowd-kit
        errors = DawidSkene().fit(table, true_labels=known).errors_
    weights = {}
    for juror in table["worker"].unique():
        matrix = errors.loc[juror].reindex(index=["no", "yes"], columns=["no", "yes"], fill_value=0.0)
        told = float(matrix.at["yes", "yes"] - matrix.at["yes", "no"])
        weights[juror] = min(1.0, max(0.0, round(told, 3)))
    return weights

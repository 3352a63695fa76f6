"""How much one user, or one question asked in many ways, may move the model; only what is unproven is limited."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from agent0.records import Failure

BURST_SECONDS = 600
_SAME_QUESTION = 0.9  # cosine from which two questions ask the same
_SAME_OUTPUT = 0.95
_RELATED = 0.5  # mean cosine below which questions have nothing to do with each other
_FEW = 3


def bursts(failures: Iterable[Failure], limit: int) -> set[str]:
    """Return the ids of answers in a burst: a user complained more than `limit` times within BURST_SECONDS.

    Complaints are feedback and asking again. Users without a name count as one.
    """
    by_user: dict[str | None, list[tuple[float, str]]] = defaultdict(list)
    for failure in failures:
        if failure.cause in ("feedback", "repetition"):
            answer = failure.answer
            when = (answer.feedback or {}).get("timestamp", answer.timestamp)
            by_user[answer.user].append((when, answer.id))
    return {id for complaints in by_user.values() for id in _crowded(sorted(complaints), limit)}


def _crowded(complaints: list[tuple[float, str]], limit: int) -> set[str]:
    times, crowded = [when for when, _ in complaints], set()
    for first, when in enumerate(times):
        last = bisect_right(times, when + BURST_SECONDS)
        if last - first > limit:
            crowded.update(id for _, id in complaints[first:last])
    return crowded


def beyond_user_cap(users: Sequence[str | None], cap: int) -> set[int]:
    """Return the positions of what comes after a user's first `cap`."""
    seen: Counter[str | None] = Counter()
    beyond = set()
    for n, user in enumerate(users):
        seen[user] += 1
        if seen[user] > cap:
            beyond.add(n)
    return beyond


def beyond_cluster_cap(questions, cap: int) -> set[int]:
    """Return the positions of what comes after the first `cap` askings of one question; rows are unit vectors."""
    return {n for cluster in _clusters(questions, _SAME_QUESTION) for n in cluster[cap:]}


def coordinated(questions, outputs) -> set[int]:
    """Return the positions where unrelated questions get one and the same answer; rows are unit vectors."""
    found = set()
    for cluster in _clusters(outputs, _SAME_OUTPUT):
        if len(cluster) >= _FEW:
            likeness = questions[cluster] @ questions[cluster].T
            pairs = len(cluster) * (len(cluster) - 1)
            if (likeness.sum() - likeness.trace()) / pairs < _RELATED:
                found.update(cluster)
    return found


def _clusters(vectors, threshold: float) -> list[list[int]]:
    """Group each vector with the first earlier one that is at least that near, else alone."""
    leaders: list[int] = []
    clusters: dict[int, list[int]] = {}
    for n, vector in enumerate(vectors):
        near = vectors[leaders] @ vector if leaders else []
        best = max(range(len(leaders)), key=near.__getitem__, default=None)
        if best is not None and near[best] >= threshold:
            clusters[leaders[best]].append(n)
        else:
            leaders.append(n)
            clusters[n] = [n]
    return list(clusters.values())

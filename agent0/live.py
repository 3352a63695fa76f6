"""Live traffic as the server's metrics tell it: what each adapter answered to users between two readings."""

import math
from collections.abc import Sequence
from itertools import product

from agent0.client import CouncilClient, ServerError
from agent0.command import log
from agent0.evidence import Compared, Live
from agent0.metrics import ANSWER, COMPARISONS, COPY, REQUEST_LATENCY, REQUEST_SUCCESSES, REQUESTS, USER

COMPARED = "compared"
Samples = dict[tuple[str, str], float]  # (sample's name, its `le`, `better` or "") -> value


def live_samples(client: CouncilClient, adapters: Sequence[str]) -> dict[tuple[str, str], Samples] | None:
    """The counters of traffic by (adapter, USER or COMPARED); None where the server has no metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(client.metrics()))
    except (ServerError, ValueError) as error:
        log.info("no live evidence: %s", error)
        return None
    found: dict[tuple[str, str], Samples] = {key: {} for key in product(adapters, (USER, COMPARED))}
    for family in families:
        for sample in family.samples:
            labels = sample.labels
            key = sample.name, labels.get("le") or labels.get("better") or ""
            counters = found.get((labels.get("adapter"), labels.get("origin", COMPARED)), {})
            counters[key] = counters.get(key, 0) + sample.value
    return found


def live_traffic(before: Samples, after: Samples, limit_ms: float = math.inf) -> Live | None:
    """What happened between two readings; None where there was no traffic. `slow` counts answers over limit_ms."""
    delta = {key: max(0, value - before.get(key, 0)) for key, value in after.items()}
    requests = delta.get((REQUESTS, ""), 0)
    if not requests:
        return None
    found = [(float(le), count) for (name, le), count in delta.items() if name == f"{REQUEST_LATENCY}_bucket"]
    buckets = sorted(found)
    seconds = bucket_quantile(buckets, 0.95)
    slow = next((buckets[-1][1] - count for edge, count in buckets if edge * 1000 >= limit_ms), 0)
    successes = delta.get((REQUEST_SUCCESSES, ""), 0)
    p95_ms = None if seconds is None else round(seconds * 1000, 1)
    return Live(round(requests), round(successes), p95_ms, round(slow))


def compared_traffic(before: Samples, after: Samples) -> Compared:
    """What came of requests and their copies between two readings."""
    keys = ((COMPARISONS, end) for end in (ANSWER, COPY))
    return Compared(*(max(0, round(after.get(key, 0) - before.get(key, 0))) for key in keys))


def bucket_quantile(buckets: Sequence[tuple[float, float]], q: float) -> float | None:
    """A quantile from cumulative (upper edge, count), by Prometheus's rule: linear inside a bucket.

    In the last bucket, which has no upper edge, it is the lower edge. None for no counts.
    """
    if not buckets or not buckets[-1][1]:
        return None
    rank, low, below = q * buckets[-1][1], 0.0, 0.0
    for edge, count in buckets:
        if count >= rank:
            return low if math.isinf(edge) else low + (edge - low) * (rank - below) / (count - below)
        low, below = edge, count
    return low

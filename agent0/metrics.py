"""Every Prometheus name once. Figures of the nights come from the ledger, so that they survive restarts."""

import shutil
from collections.abc import Iterator

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from agent0 import ledger
from agent0.command import CouncilError, log
from agent0.settings import get_settings

REQUESTS = "autogen_requests_total"
REQUEST_SUCCESSES = "autogen_requests_success_total"
REQUEST_LATENCY = "autogen_request_latency_seconds"
COMPARISONS = "autogen_compared_requests_total"
LATENCY_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5, 2, 3, 5, 10, 30)  # s
# origins of a request: a probe asks not to be stored, a shadow is a copy whose answer nobody sees
USER, PROBE, SHADOW = "user", "probe", "shadow"
ANSWER, COPY, NEITHER = "answer", "copy", "neither"  # which of a request's answer and its copy alone succeeded

# name, help, ledger event; counters count the events, gauges show a field of the newest one
NIGHT_COUNTERS = (
    ("autogen_training_completed_total", "Trainings completed", "training"),
    ("autogen_deployment_success_total", "Deployments that kept serving", "deployment"),
    ("autogen_rollback_triggered_total", "Rollbacks, by monitor or by hand", "rollback"),
)
NIGHT_GAUGES = (
    ("autogen_training_duration_seconds", "Duration of the last training", "training", "seconds"),
    ("autogen_training_loss", "Final loss of the last training", "training", "loss"),
    ("autogen_quality_improvement_ratio", "Held-out success gained, by the last gate", "gate", "improvement"),
    ("autogen_agent0_rewrite_success_rate", "Share of rewrites accepted at the last harvest", "harvest",
     "rewrite_success_rate"),
)  # fmt: skip
# As the gauges, but absent where nothing has happened yet: an alert on their value must not see a made-up 0.
NIGHT_STATE = (
    ("autogen_night_finished_timestamp_seconds", "When the last night ended, unix time", "night", "timestamp"),
    ("autogen_night_exit_code", "Exit code of the last night", "night", "exit_code"),
    ("autogen_held_out_success_ratio", "Held-out success of what the last gate lets serve", "gate", "success"),
)
DISK_FREE = "autogen_disk_free_bytes"


class NightCollector:
    """The figures of the nights, read from the ledger at each scrape; the seven are 0 where nothing has happened yet.

    A ledger that cannot be read yields none of them, which an alert on absence sees; a made-up 0 would not.
    """

    def collect(self) -> Iterator[Metric]:
        free = shutil.disk_usage(get_settings().council_home).free
        yield GaugeMetricFamily(DISK_FREE, "Free space where the releases are kept", value=free)
        try:
            events = ledger.read()
        except CouncilError as error:
            log.error("metrics of the nights are missing: %s", error)
            return
        for name, text, event in NIGHT_COUNTERS:
            count = sum(line["event"] == event for line in events)
            yield CounterMetricFamily(name.removesuffix("_total"), text, value=count)
        for name, text, event, key in NIGHT_GAUGES:
            values = [line.get(key) for line in events if line["event"] == event]
            yield GaugeMetricFamily(name, text, value=(values[-1] if values else None) or 0)
        for name, text, event, key in NIGHT_STATE:
            values = [line[key] for line in events if line["event"] == event and key in line]
            if values:
                yield GaugeMetricFamily(name, text, value=values[-1])


class ServerMetrics:
    """The metrics of one server process, in a registry of its own."""

    def __init__(self):
        prometheus_client.disable_created_metrics()
        self.registry = CollectorRegistry()
        self.registry.register(NightCollector())
        labels = {"labelnames": ("adapter", "origin"), "registry": self.registry}
        self._requests = Counter(REQUESTS, "Requests answered, or failed by the server", **labels)
        self._successes = Counter(REQUEST_SUCCESSES, "Answers above the confidence threshold", **labels)
        self._latency = Histogram(
            REQUEST_LATENCY, "Time from request to whole answer", buckets=LATENCY_BUCKETS, **labels
        )
        names = {"labelnames": ("adapter", "better"), "registry": self.registry}
        self._compared = Counter(COMPARISONS, "Requests whose answer and its copy are both known", **names)

    def compare(self, adapter: str, answer: bool, copy: bool) -> None:
        """Count one request to `adapter` by which of its answer and the shadow's copy alone succeeded."""
        better = NEITHER if answer == copy else ANSWER if answer else COPY
        self._compared.labels(adapter, better).inc()

    def observe(self, adapter: str, origin: str, success: bool, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(adapter, origin).inc()
        self._latency.labels(adapter, origin).observe(seconds)
        successes = self._successes.labels(adapter, origin)  # makes the series, so that 0 of 5 is seen as 0
        if success:
            successes.inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)

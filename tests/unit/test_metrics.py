"""The metrics: the nights' seven from the ledger, the requests' three from the process."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent0 import ledger
from agent0.metrics import DISK_FREE, ServerMetrics

SEVEN = {
    "autogen_training_completed_total": 2,
    "autogen_training_duration_seconds": 30,
    "autogen_training_loss": 0.5,
    "autogen_deployment_success_total": 1,
    "autogen_rollback_triggered_total": 3,
    "autogen_quality_improvement_ratio": 0.125,
    "autogen_agent0_rewrite_success_rate": 0.9,
}


def samples(metrics: ServerMetrics) -> dict:
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def night_figures(metrics: ServerMetrics) -> dict:
    return {key[0]: value for key, value in samples(metrics).items() if len(key) == 1 and key[0] != DISK_FREE}


def test_before_the_first_night_all_seven_are_zero():
    assert night_figures(ServerMetrics()) == dict.fromkeys(SEVEN, 0)


def test_the_nights_survive_a_restart():
    metrics = ServerMetrics()
    ledger.append("training", release="a", loss=0.9, seconds=10)
    ledger.append("training", release="b", loss=0.5, seconds=30)
    ledger.append("gate", release="b", end="promote", improvement=0.125)
    ledger.append("deployment", release="b", improvement=0.5)
    for reason in "xyz":
        ledger.append("rollback", release="b", reason=reason)
    ledger.append("harvest", rewrite_success_rate=0.9)
    assert night_figures(metrics) == night_figures(ServerMetrics()) == SEVEN


def test_what_a_night_left_is_absent_before_the_first_and_then_shown():
    ledger.append("gate", release="b", end="promote", improvement=0.1, success=0.375)
    night = ledger.append("night", exit_code=20)
    found = night_figures(ServerMetrics())
    assert found["autogen_night_finished_timestamp_seconds"] == pytest.approx(night["timestamp"])
    assert (found["autogen_night_exit_code"], found["autogen_held_out_success_ratio"]) == (20, 0.375)
    assert samples(ServerMetrics())[(DISK_FREE,)] > 0


def test_a_figure_that_was_not_measured_is_zero():
    ledger.append("training", release="b", seconds=1)
    assert night_figures(ServerMetrics())["autogen_training_loss"] == 0


def test_an_unreadable_ledger_hides_the_nights_but_not_the_requests(home):
    metrics = ServerMetrics()
    metrics.observe("base", "user", True, 0.1)
    (home / "logs").mkdir()
    (home / "logs" / "ledger.jsonl").write_text("{torn\n")
    assert night_figures(metrics) == {}
    assert samples(metrics)[("autogen_requests_total", ("adapter", "base"), ("origin", "user"))] == 1


def test_requests_are_counted_by_adapter_and_origin():
    metrics = ServerMetrics()
    for success, seconds in ((True, 0.25), (False, 0.95), (False, 1.1)):
        metrics.observe("r1", "user", success, seconds)
    metrics.observe("r1", "probe", False, 0.1)
    found, labels = samples(metrics), (("adapter", "r1"), ("origin", "user"))
    assert found[("autogen_requests_total", *labels)] == 3
    assert found[("autogen_requests_success_total", *labels)] == 1
    assert found[("autogen_requests_success_total", ("adapter", "r1"), ("origin", "probe"))] == 0
    assert found[("autogen_request_latency_seconds_sum", *labels)] == pytest.approx(2.3)
    below = {key[2][1]: value for key, value in found.items() if key[0].endswith("_bucket") and key[3] == labels[1]}
    assert (below["0.3"], below["0.9"], below["1.0"], below["1.25"]) == (1, 1, 2, 3)


def test_two_servers_in_one_process_do_not_share_counts():
    one, two = ServerMetrics(), ServerMetrics()
    one.observe("base", "user", True, 0.1)
    assert not [key for key in samples(two) if key[0] == "autogen_requests_total"]

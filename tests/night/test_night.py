"""One small real night: real model, real training, real server, real scripts; then bad candidates while a client asks.

The tests build on each other, in the order in which they stand.
"""

import json
import re
import threading

import pytest

from agent0 import adapters, ledger
from agent0.command import DONE, NOTHING_TO_DO, REFUSED, ROLLED_BACK
from agent0.quality import GENERAL, HELD_OUT, PROBES, REPLAY
from agent0.records import Question, TrainingExample, read_jsonl, write_jsonl
from agent0.settings import ROOT
from tests.night.planted import plant_bad, plant_slow

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

KINDS = ("speed", "fraction", "units")
# a night of three kinds and hardly any replay forgets much: here that is allowed, so that there is something to deploy
SHORT_NIGHT = {"HARVEST_WINDOW": "today", "MONITOR_DURATION": "2", "NUM_EPOCHS": "2", "MAX_FORGETTING": "1"}


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A QUESTIONS_PATH of its own: what the small night is measured on and replays."""
    folder = tmp_path_factory.mktemp("questions")
    for name, count in ((HELD_OUT, None), (PROBES, None), (GENERAL, 16), (REPLAY, 8)):
        rows = read_jsonl(ROOT / "examples" / f"{name}.jsonl", Question)
        write_jsonl(folder / f"{name}.jsonl", [row for row in rows if row.kind in (*KINDS, "general")][:count])
    return folder


def serving() -> adapters.Release:
    return adapters.target("current") or adapters.ensure_base()


def day_questions() -> list[str]:
    rows = [row for row in read_jsonl(ROOT / "examples" / "day.jsonl", Question) if row.kind in KINDS]
    return [row.question for row in rows][:36]


@pytest.fixture
def asking(council):
    """A client that keeps asking; the test fails if any of its requests does."""
    failed, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                council.client.ask("What is 3/4 of 48?", max_tokens=16)
                stop.wait(0.5)
            except Exception as error:
                failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    stop.set()
    thread.join(60)
    assert not failed, f"{len(failed)} requests failed, the first with {failed[0]}"


def test_a_night_harvests_trains_judges_and_deploys_what_is_better(council, questions):
    council.client.ask_many(day_questions(), max_tokens=48)
    done = council.run(str(ROOT / "cron" / "nightly_improvement.sh"), QUESTIONS_PATH=str(questions), **SHORT_NIGHT)
    assert done.returncode in (DONE, ROLLED_BACK, REFUSED), done.stdout + done.stderr
    night = ledger.last("night")
    assert (night["exit_code"], len(ledger.read("night"))) == (done.returncode, 1)
    assert {"harvest", "training", "gate", "validation"} <= night["stages"].keys()

    (harvest,) = (council.home / "training_data").glob("harvest_*.jsonl")
    examples = list(read_jsonl(harvest, TrainingExample))
    assert len(examples) >= 20 and all(example.verified_by for example in examples)

    latest = adapters.validate("loras/latest")
    metrics = json.loads((latest.path / "training_metrics.json").read_text())
    assert metrics["losses"][-1] < 0.5 * metrics["losses"][0], "the model must have learnt its examples"
    assert latest.manifest["example_ids"] == sorted(example.id for example in examples)
    gate = ledger.last("gate")
    assert (gate["release"], gate["serving"], gate["suites"]["held-out"]["asked"]) == (latest.name, "base", 96)
    held = ledger.last("hold") is not None
    assert (gate["end"] == "promote") == (held or done.returncode != REFUSED)
    (report,) = (council.home / "logs").glob("report_*.html")
    assert latest.name in report.read_text() and "Before → after, by kind" in report.read_text()
    if gate["end"] == "promote":
        summary = "rollback_summary.json" if done.returncode == ROLLED_BACK else "deployment_summary.json"
        evidence = json.loads((latest.path / summary).read_text())["evidence"]
        assert evidence["pairs"] and evidence["failure"] is None
    expected = latest if done.returncode == DONE else adapters.ensure_base()
    assert serving() == expected
    assert council.client.health()["adapter"] == expected.name


def test_the_same_night_again_has_nothing_to_do(council):
    serves = serving()
    done = council.run(str(ROOT / "train_lora.sh"))
    assert done.returncode == NOTHING_TO_DO, done.stdout + done.stderr
    assert serving() == serves


@pytest.mark.parametrize(
    ("plant", "milliseconds"),
    [(plant_bad, "1000"), (plant_slow, "1")],  # 1: stable is beyond it, so that stable is the bar on any machine
)
def test_a_planted_bad_or_slow_adapter_is_rolled_back_while_a_client_asks(council, asking, plant, milliseconds):
    serves = serving()
    adapters.point("latest", plant())
    limits = {"MONITOR_DURATION": "30", "ROLLBACK_THRESHOLD_LATENCY": milliseconds}  # it ends once it is proven
    done = council.run(str(ROOT / "deploy_lora.sh"), "loras/latest", **limits)
    assert done.returncode == ROLLED_BACK, done.stdout + done.stderr
    assert serving() == serves
    assert council.client.health()["adapter"] == serves.name
    assert re.search(r"right|success|worse|\d ms", ledger.last("rollback")["reason"])
    assert json.loads((serves.path / "rollback_summary.json").read_text())["verdict"] == "rolled back"


def test_a_rollback_by_hand_always_has_a_way_back(council, asking):
    done = council.run(str(ROOT / "rollback_lora.sh"))
    assert done.returncode in (DONE, NOTHING_TO_DO), done.stdout + done.stderr
    assert adapters.target("current").is_base
    assert council.client.health()["adapter"] == "base"


def test_metrics_tell_what_happened(council):
    text = council.client.metrics()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("autogen_") and "{" not in line)
    assert float(values["autogen_training_completed_total"]) == 1
    assert float(values["autogen_rollback_triggered_total"]) == len(ledger.read("rollback")) >= 2
    assert float(values["autogen_deployment_success_total"]) == len(ledger.read("deployment"))
    assert float(values["autogen_training_loss"]) == pytest.approx(ledger.last("training")["loss"])
    assert 0 < float(values["autogen_agent0_rewrite_success_rate"]) <= 1

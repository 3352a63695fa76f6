"""The night's own stages: what they let pass, what they refuse, and what the night tells."""

import os
import time

import pytest

from agent0 import adapters, ledger, morning, night, notify, report
from agent0.client import Reply, ServerError
from agent0.command import CouncilError
from agent0.settings import get_settings


class Server:
    """A scripted Council server."""

    url = "http://127.0.0.1:8000"
    status, adapter, text = "healthy", "base", "2 + 2 = 4. The answer is 4."
    asked: tuple = ()

    def health(self):
        return {"status": self.status, "adapter": self.adapter}

    def ask(self, question, **options):
        self.asked = (question, options)
        return Reply("id", self.text, 0.1, False)


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(night, "CouncilClient", lambda: server)
    return server


@pytest.fixture
def told(monkeypatch):
    """The messages that were sent."""
    messages = []
    monkeypatch.setattr(notify, "send", messages.append)
    monkeypatch.setenv("COUNCIL_NIGHT", "20261123T020000Z")
    get_settings.cache_clear()
    return messages


def release(name):
    """A release folder of that name, with no more in it than a link needs."""
    folder = adapters.adapters_folder() / name
    folder.mkdir(parents=True)
    return adapters.Release(folder)


def test_preflight_makes_sure_that_there_is_a_way_back(server, home):
    assert night.preflight() == 0
    assert (home / "loras/adapters/base").is_dir()


def test_preflight_warns_of_a_key_that_others_can_read(server, home, caplog):
    (home / ".env").write_text("COUNCIL_API_KEY=s3cret\n")
    (home / ".env").chmod(0o644)
    get_settings.cache_clear()
    assert night.preflight() == 0
    assert "COUNCIL_API_KEY" in caplog.text and "chmod 600" in caplog.text and "s3cret" not in caplog.text


def test_preflight_refuses_a_full_disk(server, monkeypatch):
    monkeypatch.setenv("MIN_FREE_DISK_GB", "1e9")
    get_settings.cache_clear()
    with pytest.raises(CouncilError, match="MIN_FREE_DISK_GB"):
        night.preflight()


@pytest.mark.parametrize("stage", [night.preflight, night.validate])
def test_a_sick_server_is_refused(server, stage):
    server.status = "starting"
    with pytest.raises(ServerError, match="starting"):
        stage()


def test_preflight_says_how_to_start_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setenv("COUNCIL_URL", "http://127.0.0.1:9")
    get_settings.cache_clear()
    with pytest.raises(ServerError, match="make serve"):
        night.preflight()


def test_validate_asks_a_question_that_stays_out_of_memory(server):
    adapters.point("current", release("r1"))
    server.adapter = "r1"
    assert night.validate() == 0
    assert server.asked[1]["store"] is False


@pytest.mark.parametrize(("current", "serving"), [("r1", "base"), (None, "r1"), ("r1", "r2")])
def test_validate_refuses_a_server_that_serves_something_else_than_current(server, current, serving):
    if current:
        adapters.point("current", release(current))
    server.adapter = serving
    with pytest.raises(CouncilError, match="loras/current"):
        night.validate()


def test_validate_takes_base_for_no_current_and_for_the_base_release(server):
    assert night.validate() == 0
    adapters.point("current", adapters.ensure_base())
    assert night.validate() == 0


def test_validate_refuses_an_empty_answer(server):
    server.text = " \n"
    with pytest.raises(CouncilError, match="nothing"):
        night.validate()


def test_cleanup_removes_old_logs_of_the_scripts_only(home):
    logs = home / "logs"
    logs.mkdir()
    old = time.time() - (night.LOG_DAYS + 1) * 86400
    for name in ("nightly_1.log", "training_1.log", "server.log", "ledger.jsonl"):
        (logs / name).touch()
        os.utime(logs / name, (old, old))
    (logs / "nightly_2.log").touch()
    assert night.cleanup() == 0
    assert sorted(path.name for path in logs.iterdir()) == ["ledger.jsonl", "nightly_2.log", "server.log"]


def test_cleanup_keeps_what_serves_and_keep_releases_more(monkeypatch, home):
    monkeypatch.setenv("KEEP_RELEASES", "1")
    get_settings.cache_clear()
    made = [release(f"2026112{day}T020000Z-0000000{day}") for day in range(4)]
    adapters.point("current", made[0])
    night.cleanup()
    assert made[0].path.exists() and made[3].path.exists()
    assert not made[1].path.exists() and not made[2].path.exists()


def test_a_night_is_told_once_with_its_figures(told):
    file = {"date": "2026-11-22", "file": "harvest_20261122.jsonl", "seconds": 12}
    ledger.append("harvest", failures=15, accepted=12, abstained=3, **file)
    assert night.tell(10, "training", 14, {"harvest": 12.0, "training": 1.0}) == 0
    (event,) = ledger.read("night", night="20261123T020000Z")
    assert (event["outcome"], event["exit_code"], event["seconds"]) == ("nothing to do", 10, 14)
    assert event["stages"] == {"harvest": 12, "training": 1}
    (message,) = told
    assert message.title == "Night: nothing to do"
    assert message.lines == [
        "Harvest: 15 failures, 12 accepted, 3 abstained",
        "Time: 14 s (harvest 12 s, training 1 s)",
        f"Report: {report.report_path(morning.started('20261123T020000Z').date())}",
    ]


def test_a_night_tells_nothing_of_another_night(told, monkeypatch):
    ledger.append("training", release="tonight")
    monkeypatch.setenv("COUNCIL_NIGHT", "20261124T020000Z")
    get_settings.cache_clear()
    night.tell(10, "training", 1, {})
    assert "tonight" not in "".join(told[0].lines)


def test_a_night_is_told_where_the_ledger_is_damaged(told):
    ledger.ledger_path().parent.mkdir()
    ledger.ledger_path().write_text("not json\n")
    assert night.tell(1, "harvest", 1, {}) == 0
    (message,) = told
    assert message.title == "Night: failed in harvest (exit 1)"
    assert any("ledger.jsonl:1 is not JSON" in line for line in message.lines)


def test_a_night_is_told_where_a_setting_is_bad(told, monkeypatch):
    monkeypatch.setenv("BATCH_SIZE", "many")
    get_settings.cache_clear()
    assert night.tell(2, "pre-flight", 1, {}) == 0
    assert told[0].title == "Night: bad setting in pre-flight (exit 2)"

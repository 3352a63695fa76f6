"""Notifications: the form each receiver takes, what people read, and that the webhook's URL stays a secret."""

import json
import socket
from dataclasses import replace

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from tenacity import wait_none

from agent0 import ledger, notify
from agent0.command import CouncilError, log, start_log
from agent0.settings import get_settings
from agent0.story import Message, compose, describe
from tests.webhook import Receiver

MESSAGE = Message(
    "night", "Night: failed <in> training & co (exit 1)", ["Refused: <!channel> a&b"], "error", {"exit_code": 1}
)
CARD = replace(
    MESSAGE,
    verdict="r1 was tried <and> taken back.",
    facts={"Held-out": "15.6% → 37.5%", "p95": "2000 → 1900 ms"},
    link="http://127.0.0.1:8000/reports/20261123",
)


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def webhook(monkeypatch, home):
    """Set NOTIFICATION_WEBHOOK, with a log file and no waiting between tries; return a function that sets it."""
    monkeypatch.setattr(notify._post.retry, "wait", wait_none())

    def set_webhook(url):
        monkeypatch.setenv("NOTIFICATION_WEBHOOK", url)
        monkeypatch.setenv("COUNCIL_LOG", str(home / "run.log"))
        get_settings.cache_clear()
        start_log()

    yield set_webhook
    log.handlers.clear()


def test_slack_takes_text_and_blocks_with_user_text_escaped():
    body = notify.payload("hooks.slack.com", MESSAGE)
    ((block,),) = [card["blocks"] for card in body["attachments"]]
    assert body["text"] == "Night: failed &lt;in&gt; training &amp; co (exit 1)"
    assert block["elements"] == [{"type": "mrkdwn", "text": "Refused: &lt;!channel&gt; a&amp;b"}]


def test_a_slack_card_has_the_verdict_the_figures_the_report_and_one_colour():
    (card,) = notify.payload("hooks.slack.com", CARD)["attachments"]
    verdict, figures, report, story = card["blocks"]
    assert verdict["text"]["text"] == "r1 was tried &lt;and&gt; taken back."
    assert [field["text"] for field in figures["fields"]] == ["*Held-out*\n15.6% → 37.5%", "*p95*\n2000 → 1900 ms"]
    assert report["text"]["text"] == "<http://127.0.0.1:8000/reports/20261123|The morning report>"
    assert story["type"] == "context"
    colours = {notify.payload("hooks.slack.com", replace(CARD, severity=name))["attachments"][0]["color"]
               for name in ("info", "warning", "error")}  # fmt: skip
    assert len(colours) == 3 and card["color"] in colours


def test_a_discord_card_has_them_too():
    (embed,) = notify.payload("discord.com", CARD)["embeds"]
    assert embed["description"] == CARD.verdict
    fields = {field["name"]: field["value"] for field in embed["fields"]}
    assert fields == {**CARD.facts, "Report": CARD.link, "What happened": "Refused: <!channel> a&b"}


def test_slack_text_is_cut_to_what_slack_takes_without_half_an_entity():
    body = notify.payload("hooks.slack.com", Message("night", "<" * 2000, ["&" * 5000], verdict="&" * 5000))
    verdict, story = body["attachments"][0]["blocks"]
    assert len(body["text"]) <= 3000 and body["text"].replace("&lt;", "") == "…"
    for text, limit in ((verdict["text"]["text"], 3000), (story["elements"][0]["text"], 2000)):
        assert len(text) <= limit and text.replace("&amp;", "") == "…"


@pytest.mark.parametrize("host", ["discord.com", "discordapp.com", "ptb.discord.com"])
def test_discord_takes_an_embed_that_mentions_nobody(host):
    body = notify.payload(host, MESSAGE)
    (embed,) = body["embeds"]
    assert embed["title"] == MESSAGE.title
    assert embed["description"] == "Refused: <!channel> a&b"
    assert body["allowed_mentions"] == {"parse": []}
    assert embed["color"] != notify.payload(host, Message("night", "fine", []))["embeds"][0]["color"]


@pytest.mark.parametrize("host", ["example.org", "notdiscord.com", "hooks.slack.com.example.org"])
def test_any_other_host_takes_plain_json(host):
    assert notify.payload(host, MESSAGE) == {
        "event": "night",
        "title": MESSAGE.title,
        "text": "Refused: <!channel> a&b",
        "severity": "error",
        "exit_code": 1,
    }


def test_a_message_is_posted_once(receiver, webhook):
    webhook(receiver.url)
    assert notify.send(MESSAGE) is True
    assert [body["title"] for body in receiver.received] == [MESSAGE.title]


@pytest.mark.parametrize(("state", "path"), [("start", "/hook/s3cret/start"), ("success", "/hook/s3cret"),
                                              ("fail", "/hook/s3cret/fail")])  # fmt: skip
def test_the_dead_mans_switch_is_told(receiver, webhook, monkeypatch, state, path, capsys):
    webhook("")
    monkeypatch.setenv("HEALTHCHECK_URL", receiver.url)
    get_settings.cache_clear()
    assert notify.ping(state) is True
    assert receiver.paths == [path]
    assert "s3cret" not in capsys.readouterr().out


def test_the_dead_mans_switchs_query_stays_a_query(receiver, webhook, monkeypatch):
    webhook("")
    monkeypatch.setenv("HEALTHCHECK_URL", f"{receiver.url}?create=1")
    get_settings.cache_clear()
    assert notify.ping("fail") is True
    assert receiver.paths == ["/hook/s3cret/fail?create=1"]


def test_an_impossible_host_is_a_warning(webhook):
    webhook("https://hooks..example/x")
    assert notify.send(MESSAGE) is False


@pytest.fixture
def setting(webhook, monkeypatch):
    """Set one setting, without a webhook."""

    def set_one(name, value):
        monkeypatch.setenv(name, str(value))
        webhook("")

    return set_one


def test_alertmanager_hears_what_fires_and_what_does_not_any_more(receiver, setting):
    setting("ALERTMANAGER_URL", f"{receiver.url}/")
    notify.send(CARD)
    notify.send(replace(CARD, severity="info", title="Night: deployed", link=""))
    assert receiver.paths == ["/hook/s3cret/api/v2/alerts"] * 2
    bad, good = (
        {alert["labels"]["severity"]: alert for alert in body} for body in map(json.loads, receiver.bodies)
    )  # fmt: skip
    assert set(bad) == set(good) == {"warning", "error"}
    firing = [name for alerts in (bad, good) for name, alert in alerts.items() if alert["endsAt"] > alert["startsAt"]]
    assert firing == ["error"] and bad["error"]["labels"] == good["error"]["labels"]
    assert bad["error"]["labels"]["alertname"] == "CouncilNight"
    assert bad["error"]["annotations"] == {"summary": CARD.title, "description": CARD.verdict}
    assert bad["error"]["generatorURL"] == CARD.link and "generatorURL" not in good["error"]


def test_the_figures_of_the_nights_reach_a_pushgateway_and_a_textfile(receiver, setting, home):
    ledger.append("gate", improvement=0.125, success=0.375)
    setting("METRICS_TEXTFILE", home / "council.prom")
    setting("PUSHGATEWAY_URL", receiver.url)
    notify.publish()
    assert receiver.methods == ["PUT"] and receiver.paths == ["/hook/s3cret/metrics/job/council"]
    written = (home / "council.prom").read_text()
    for text in (receiver.bodies[0].decode(), written):
        samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
        assert samples["autogen_quality_improvement_ratio"] == 0.125
        assert samples["autogen_held_out_success_ratio"] == 0.375
        assert "autogen_night_exit_code" not in samples
    assert (home / "council.prom").stat().st_mode & 0o777 == 0o644


def test_what_cannot_be_published_is_a_warning_without_the_url(capsys, receiver, setting):
    notify.publish()
    receiver.statuses = [400]
    setting("PUSHGATEWAY_URL", receiver.url)
    notify.publish()
    setting("ALERTMANAGER_URL", "http://example.org/s3cret")
    notify.send(MESSAGE)
    said = capsys.readouterr().out
    assert "Pushgateway at 127.0.0.1 was not told: HTTP 400" in said
    assert "Alertmanager at ? was not told: example.org must be https://" in said
    assert len(receiver.bodies) == 1 and "s3cret" not in said


@pytest.mark.parametrize("path", ["council.txt", "nowhere/council.prom"])
def test_a_textfile_that_node_exporter_would_not_read_is_refused(setting, home, path):
    setting("METRICS_TEXTFILE", home / path)
    with pytest.raises(CouncilError, match=r"METRICS_TEXTFILE=.*a \.prom file in a folder that is there"):
        get_settings()


def test_a_switch_that_is_not_there_is_a_warning_and_without_one_nothing_is_sent(webhook, monkeypatch, capsys):
    webhook("")
    assert notify.ping("start") is False
    monkeypatch.setenv("HEALTHCHECK_URL", f"http://127.0.0.1:{closed_port()}/s3cret")
    get_settings.cache_clear()
    assert notify.ping("fail") is False
    said = capsys.readouterr().out
    assert "dead man's switch at 127.0.0.1 was not told" in said and "s3cret" not in said


def test_without_a_webhook_one_line_says_so(capsys, webhook):
    webhook("")
    assert notify.send(MESSAGE) is False
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("statuses", "posts", "taken"),
    [
        ([500, 429], 3, True),
        ([503, 503, 503], 3, False),
        ([404], 1, False),
        ([302], 1, False),
    ],
)
def test_it_is_tried_three_times_where_that_can_help_and_redirects_are_not_followed(
    receiver, webhook, statuses, posts, taken
):
    receiver.statuses = statuses
    webhook(receiver.url)
    assert notify.send(MESSAGE) is taken
    assert len(receiver.received) == posts


def test_a_slow_receiver_is_not_told_twice(webhook, monkeypatch):
    tries = []

    def never_answers(*_, **options):
        tries.append(options["timeout"])
        raise requests.ReadTimeout("https://example.org/s3cret")

    monkeypatch.setattr(requests.Session, "request", never_answers)
    webhook("https://example.org/s3cret")
    assert notify.send(MESSAGE) is False
    assert tries == [notify.TIMEOUT]


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/s3cret",
        "http://example.org/s3cret",
        "ftp://example.org/s3cret",
        "https://example.org:port/s3cret",
        "http://[::1/s3cret",
        "s3cret",
        "https:///s3cret",
    ],
)
def test_a_failed_alert_is_a_warning_that_never_shows_the_url(url, webhook, home, capfd):
    webhook(url.format(port=closed_port()))
    assert notify.send(MESSAGE) is False
    output = capfd.readouterr()
    assert "was not told" in output.out
    assert "s3cret" not in output.out + output.err + (home / "run.log").read_text()


def test_the_alert_about_a_bad_setting_is_sent_all_the_same(receiver, webhook, monkeypatch, home):
    (home / ".env").write_text(f"NOTIFICATION_WEBHOOK={receiver.url}\n")
    monkeypatch.setenv("BATCH_SIZE", "many")
    get_settings.cache_clear()
    assert notify.send(MESSAGE) is True


def test_a_run_by_hand_tells_what_it_did_itself(receiver, webhook, monkeypatch):
    webhook(receiver.url)
    ledger.append("rollback", release="r2", to="r1", reason="success 70% is below 85%", source="monitor")
    monkeypatch.setattr("sys.argv", ["notify", "deployment", "--exit-code", "20", "--since", "20200101T000000Z"])
    notify.main()
    (body,) = receiver.received
    assert (body["title"], body["severity"]) == ("Deployment: rolled back", "warning")
    assert "r2 out, r1 back: success 70% is below 85%" in body["text"]


def test_a_run_by_hand_does_not_tell_what_an_earlier_run_did(receiver, webhook, monkeypatch):
    webhook(receiver.url)
    ledger.append("deployment", release="r2", previous="r1", improvement=0.1, seconds=60)
    monkeypatch.setattr("sys.argv", ["notify", "deployment", "--exit-code", "1", "--since", "29990101T000000Z"])
    notify.main()
    (body,) = receiver.received
    assert body["title"] == "Deployment: failed (exit 1)"
    assert "r2" not in body["text"]


@pytest.mark.parametrize("exit_code", ["2", "10", "75"])
def test_nobody_is_told_that_nothing_was_done_by_hand(receiver, webhook, monkeypatch, exit_code):
    webhook(receiver.url)
    monkeypatch.setattr("sys.argv", ["notify", "training", "--exit-code", exit_code, "--since", "20200101T000000Z"])
    notify.main()
    assert receiver.received == []


@pytest.mark.parametrize(
    ("kind", "exit_code", "title"),
    [
        ("night", 0, "Night: deployed"),
        ("night", 10, "Night: nothing to do"),
        ("night", 30, "Night: candidate not deployed"),
        ("night", 137, "Night: failed in training (exit 137)"),
        ("night", 143, "Night: stopped in training (exit 143)"),
        ("training", 0, "Training: trained"),
        ("rollback", 0, "Rollback: rolled back"),
    ],
)
def test_the_title_is_the_verdict(kind, exit_code, title):
    assert compose(kind, exit_code, [], "training").title == title


def test_events_read_as_lines_and_a_missing_figure_as_a_question_mark():
    assert describe({"event": "harvest", "failures": 15, "accepted": 12, "abstained": 3}) == (
        "Harvest: 15 failures, 12 accepted, 3 abstained"
    )
    positives = {"event": "harvest", "failures": 1, "accepted": 1, "abstained": 0, "positives": 2}
    assert describe(positives) == "Harvest: 1 failures, 1 accepted, 0 abstained, 2 right answers kept"
    training = {"event": "training", "release": "r2", "examples": 40, "new_examples": 12, "loss": 0.4217}
    assert describe(training) == "Training: r2 on 40 examples (12 new), loss 0.422, ? s"
    deployment = {"event": "deployment", "release": "r2", "previous": "r1", "improvement": 0.061}
    assert describe(deployment) == "Deployment: r2 in place of r1, success +6.1 points"
    assert describe({"event": "refusal", "release": "r2", "reason": "NaN"}) == "Refused: r2: NaN"
    hold = {"event": "hold", "release": "r2", "serving": "r1", "reason": "evidence 3 to 1"}
    assert describe(hold) == "Hold: r1 goes on serving, r2 is kept: evidence 3 to 1"
    assert describe({"event": "night"}) == ""


def test_a_failed_night_shows_the_last_line_of_the_stage_it_failed_in(monkeypatch, home):
    lines = [
        "2026-11-23T02:00:00Z n.sh: ===== harvest =====",
        "2026-11-23T02:00:01Z 3 failures",
        "2026-11-23T02:00:02Z n.sh: ===== harvest: exit 0 after 1 s =====",
        "2026-11-23T02:00:02Z n.sh: ===== training =====",
        "2026-11-23T02:00:03Z train.py: the disk is full; make room",
        "2026-11-23T02:00:03Z train_lora.sh: exit 1",
        "2026-11-23T02:00:03Z n.sh: ===== training: exit 1 after 1 s =====",
        "2026-11-23T02:00:04Z removed 0 logs",
    ]
    path = home / "nightly.log"
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("COUNCIL_LOG", str(path))
    message = compose("night", 1, [], "training")
    assert message.lines == ["Last line: train.py: the disk is full; make room", f"Log: {path}"]

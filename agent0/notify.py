"""Tell what happened: people by a webhook (Slack, Discord, any JSON receiver), Alertmanager, a dead man's switch, and
where a night's figures are kept (Pushgateway, node-exporter).

The URLs are secrets: nothing here logs more of them than the host.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import requests
from prometheus_client import CollectorRegistry, push_to_gateway, write_to_textfile
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from agent0 import ledger, outbound
from agent0.command import DONE, LOCKED, NOTHING_TO_DO, USAGE, CouncilError, log, run_command
from agent0.metrics import NightCollector
from agent0.settings import as_given, get_settings
from agent0.story import Message, compose

TIMEOUT = 5  # seconds to connect, and seconds to answer
STAMP = "%Y%m%dT%H%M%SZ"  # how the scripts write a moment, UTC
_NOT_NEWS = (USAGE, NOTHING_TO_DO, LOCKED)  # to the person who just typed the command
_FIRING = timedelta(hours=26)  # how long an alert stands by itself: until the next night has had its say
_RECEIVERS = {
    "NOTIFICATION_WEBHOOK": "webhook",
    "HEALTHCHECK_URL": "dead man's switch",
    "ALERTMANAGER_URL": "Alertmanager",
    "PUSHGATEWAY_URL": "Pushgateway",
}
_COLOURS = {"info": 0x2EB67D, "warning": 0xECB22E, "error": 0xE01E5A}


class NotTaken(Exception):
    """The receiver did not take the message, and asking again would not help."""


class TryAgain(NotTaken):
    """The receiver is busy or broken for the moment."""


def payload(host: str, message: Message) -> dict:
    """Return what to post to a webhook at `host`: Slack's form, Discord's, or plain JSON."""
    text = "\n".join(message.lines)
    if host in ("hooks.slack.com", "hooks.slack-gov.com"):
        return _slack_card(message, text)
    if f".{host}".endswith((".discord.com", ".discordapp.com")):
        return _discord_card(message, text)
    said = {"verdict": message.verdict, "facts": message.facts, "report": message.link}
    return {
        **message.fields,
        **{name: value for name, value in said.items() if value},
        "event": message.event,
        "title": message.title,
        "text": text,
        "severity": message.severity,
    }


def _slack_card(message: Message, text: str) -> dict:
    """The title, and a card with the severity's colour: verdict, figures side by side, link, the story in small."""

    def section(**content) -> dict:
        return {"type": "section", **content}

    def mrkdwn(text: str, limit: int) -> dict:
        return {"type": "mrkdwn", "text": _slack(text, limit)}

    fields = [{"type": "mrkdwn", "text": f"*{_slack(n, 100)}*\n{_slack(v, 1000)}"} for n, v in message.facts.items()]
    blocks = [section(text=mrkdwn(message.verdict, 3000))] if message.verdict else []
    blocks += [section(fields=fields[:10])] if fields else []
    link = f"<{_slack(message.link, 2000)}|The morning report>" if message.link else ""
    blocks += [section(text={"type": "mrkdwn", "text": link})] if link else []
    blocks += [{"type": "context", "elements": [mrkdwn(text, 2000)]}] if text else []
    card = {"color": f"#{_COLOURS[message.severity]:06X}", "blocks": blocks}
    return {"text": _slack(message.title, 3000), "attachments": [card] if blocks else []}


def _discord_card(message: Message, text: str) -> dict:
    embed = {"title": message.title[:256], "description": (message.verdict or text)[:4096]}
    embed["color"] = _COLOURS[message.severity]
    facts = {**message.facts, **({"Report": message.link} if message.link else {})}
    fields = [{"name": n[:256], "value": v[:1024], "inline": n != "Report"} for n, v in facts.items()]
    if message.verdict and text:
        fields.append({"name": "What happened", "value": text[:1024], "inline": False})
    return {"embeds": [{**embed, "fields": fields[:25]}], "allowed_mentions": {"parse": []}}


def _slack(text: str, limit: int) -> str:
    """Escape as Slack asks, so that no user text becomes a mention or a link; cut without leaving half an entity."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped if len(escaped) <= limit else re.sub(r"&[a-z]*$", "", escaped[: limit - 1]) + "…"


def send(message: Message) -> bool:
    """Post message to Alertmanager, where it is set, and to NOTIFICATION_WEBHOOK; return whether the latter took it.

    Without a webhook nothing is sent. A failed alert is a warning: it never fails the job that it tells of.
    """
    if address := as_given("ALERTMANAGER_URL").rstrip("/"):
        told = f"{address}/api/v2/alerts"
        _told("ALERTMANAGER_URL", told, lambda _: _post(told, json=alerts(message)), message.title)
    url = as_given("NOTIFICATION_WEBHOOK")  # past a bad setting elsewhere: just what people must be told of
    if not url:
        log.info("NOTIFICATION_WEBHOOK is not set, so nobody is told: %s", message.title)
        return False
    return _told("NOTIFICATION_WEBHOOK", url, lambda host: _post(url, json=payload(host, message)), message.title)


def ping(state: Literal["start", "success", "fail"]) -> bool:
    """Tell the dead man's switch at HEALTHCHECK_URL how the night stands, and return whether it was told.

    The addresses are healthchecks.io's: URL/start, URL, URL/fail. Without a switch nothing is sent; a failed ping is
    a warning.
    """
    path, mark, query = as_given("HEALTHCHECK_URL").partition("?")
    if not path:
        return False
    url = path.rstrip("/") + ("" if state == "success" else f"/{state}") + mark + query
    return _told("HEALTHCHECK_URL", url, lambda _: _post(url, json={"state": state}), state)


def alerts(message: Message) -> list[dict]:
    """Return what Alertmanager's POST /api/v2/alerts takes: an alert of each severity, firing or resolved."""
    now = datetime.now(UTC)
    labels = {"alertname": f"Council{message.event.capitalize()}", "job": "council"}
    said = {"summary": message.title, "description": message.verdict or "\n".join(message.lines)}
    link = {"generatorURL": message.link} if message.link else {}
    ends = {name: now + _FIRING if name == message.severity else now for name in ("warning", "error")}
    return [
        {"labels": {**labels, "severity": name}, "annotations": said, "startsAt": now.isoformat(),
         "endsAt": end.isoformat(), **link}
        for name, end in ends.items()
    ]  # fmt: skip


def publish() -> None:
    """Hand the figures of the nights to METRICS_TEXTFILE and PUSHGATEWAY_URL, where set; a failure is a warning."""
    try:
        path, url = get_settings().metrics_textfile, as_given("PUSHGATEWAY_URL").rstrip("/")
        if not (path or url):
            return
        figures = CollectorRegistry()
        figures.register(NightCollector())
        if path:
            _write(path, figures)
        if url:
            send = {"job": "council", "registry": figures, "handler": _handler}
            _told("PUSHGATEWAY_URL", url, lambda _: push_to_gateway(url, **send), "the figures of the nights")
    except (CouncilError, OSError) as error:
        log.warning("the figures of the nights were not published: %s", error)


def _write(path: Path, figures: CollectorRegistry) -> None:
    before = os.umask(0o022)  # node-exporter is another user, and there is nobody's text in it
    try:
        write_to_textfile(str(path), figures)
    finally:
        os.umask(before)


def _handler(url: str, method: str, timeout: float | None, headers: list, data: bytes) -> Callable[[], None]:
    """How prometheus_client sends: here, by the same rules as everything else."""
    return lambda: _post(url, method, data=data, headers=dict(headers))


def _told(name: str, url: str, send: Callable[[str], None], title: str) -> bool:
    """Call send(host) for the URL of that setting, where it may be sent to; return whether it was taken."""
    host, who = "", _RECEIVERS[name]
    try:
        host = outbound.checked_host(url)
        send(host)
    except (NotTaken, outbound.Forbidden) as error:
        log.warning("%s at %s was not told: %s", who, host or "?", error)
        return False
    except requests.RequestException as error:  # its text holds the URL
        log.warning("%s at %s was not told: %s", who, host, type(error).__name__)
        return False
    log.info("%s at %s was told: %s", who, host, title)
    return True


@retry(
    retry=retry_if_exception_type((requests.ConnectionError, TryAgain)),
    stop=stop_after_attempt(3),
    wait=wait_random_exponential(multiplier=1, max=5),
    reraise=True,
)
def _post(url: str, method: str = "POST", **content) -> None:
    """Send once, and up to twice more where the receiver is out of reach or busy; a slow answer may be a taken one."""
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # its warnings hold the URL
    sent = {"timeout": TIMEOUT, "allow_redirects": False, "stream": True, **content}
    with outbound.session() as session, session.request(method, url, **sent) as response:
        status = response.status_code
    if status == 429 or status >= 500:
        raise TryAgain(f"HTTP {status}")
    if not 200 <= status < 300:
        raise NotTaken(f"HTTP {status}")


def main() -> int:
    """Tell of one training, deployment or rollback that was run by hand, and publish the figures."""
    parser = argparse.ArgumentParser(prog="python -m agent0.notify", description=main.__doc__)
    parser.add_argument("kind", choices=["training", "deployment", "rollback"])
    parser.add_argument("--exit-code", type=int, required=True)
    parser.add_argument("--since", required=True, metavar="YYYYMMDDTHHMMSSZ", help="when the run started")
    arguments = parser.parse_args(sys.argv[1:])
    if arguments.exit_code in _NOT_NEWS:
        return DONE
    publish()
    since, events, more = datetime.strptime(arguments.since, STAMP).replace(tzinfo=UTC).timestamp(), [], ()
    try:
        events = [event for event in ledger.read() if event["timestamp"] >= since]
    except CouncilError as error:
        more = (f"The ledger is not complete: {error}",)
    send(compose(arguments.kind, arguments.exit_code, events, more=more))
    return DONE


if __name__ == "__main__":
    run_command(main)

"""Tell people what happened: one webhook, in the form that Slack, Discord or any JSON receiver takes.

The webhook's URL is a secret: nothing here logs more of it than its host.
"""

import argparse
import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import requests
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from agent0 import ledger, outbound
from agent0.command import DONE, LOCKED, NOTHING_TO_DO, USAGE, CouncilError, log, run_command
from agent0.settings import as_given
from agent0.story import Message, compose

TIMEOUT = 5  # seconds to connect, and seconds to answer
STAMP = "%Y%m%dT%H%M%SZ"  # how the scripts write a moment, UTC
_NOT_NEWS = (USAGE, NOTHING_TO_DO, LOCKED)  # to the person who just typed the command
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
    """Post message to NOTIFICATION_WEBHOOK, and return whether it was taken.

    Without a webhook nothing is sent. A failed alert is a warning: it never fails the job that it tells of.
    """
    url = as_given("NOTIFICATION_WEBHOOK")  # past a bad setting elsewhere: just what people must be told of
    if not url:
        log.info("NOTIFICATION_WEBHOOK is not set, so nobody is told: %s", message.title)
        return False
    return _told("NOTIFICATION_WEBHOOK", url, lambda host: payload(host, message), message.title)


def ping(state: Literal["start", "success", "fail"]) -> bool:
    """Tell the dead man's switch at HEALTHCHECK_URL how the night stands, and return whether it was told.

    The addresses are healthchecks.io's: URL/start, URL, URL/fail. Without a switch nothing is sent; a failed ping is
    a warning.
    """
    url = as_given("HEALTHCHECK_URL").rstrip("/")
    if not url:
        return False
    return _told("HEALTHCHECK_URL", url if state == "success" else f"{url}/{state}", lambda _: {"state": state}, state)


def _told(name: str, url: str, body: Callable[[str], dict], title: str) -> bool:
    """Post body(host) to the URL of that setting; return whether it was taken."""
    host, who = "", "webhook" if name == "NOTIFICATION_WEBHOOK" else "dead man's switch"
    try:
        host = outbound.checked_host(url)
        _post(url, body(host), local=outbound.is_loopback(host))
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
def _post(url: str, body: dict, local: bool) -> None:
    """Post once, and up to twice more where the receiver is out of reach or busy; a slow answer may be a taken one."""
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # its warnings hold the URL
    with outbound.session() as session:
        session.trust_env = not local  # a proxy must not carry loopback traffic away
        with session.post(url, json=body, timeout=TIMEOUT, allow_redirects=False, stream=True) as response:
            status = response.status_code
    if status == 429 or status >= 500:
        raise TryAgain(f"HTTP {status}")
    if not 200 <= status < 300:
        raise NotTaken(f"HTTP {status}")


def main() -> int:
    """Tell of one training, deployment or rollback that was run by hand."""
    parser = argparse.ArgumentParser(prog="python -m agent0.notify", description=main.__doc__)
    parser.add_argument("kind", choices=["training", "deployment", "rollback"])
    parser.add_argument("--exit-code", type=int, required=True)
    parser.add_argument("--since", required=True, metavar="YYYYMMDDTHHMMSSZ", help="when the run started")
    arguments = parser.parse_args(sys.argv[1:])
    if arguments.exit_code in _NOT_NEWS:
        return DONE
    since, events, more = datetime.strptime(arguments.since, STAMP).replace(tzinfo=UTC).timestamp(), [], ()
    try:
        events = [event for event in ledger.read() if event["timestamp"] >= since]
    except CouncilError as error:
        more = (f"The ledger is not complete: {error}",)
    send(compose(arguments.kind, arguments.exit_code, events, more=more))
    return DONE


if __name__ == "__main__":
    run_command(main)

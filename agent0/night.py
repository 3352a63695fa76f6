"""The night's own stages: check before it starts, validate what serves, clean up, and tell what happened."""

import argparse
import sys
import time
from dataclasses import replace

from agent0 import adapters, ledger, notify, story
from agent0.client import CouncilClient, ServerError
from agent0.command import DONE, CouncilError, log, run_command
from agent0.settings import exposed_secret, get_settings
from agent0.train import check_disk

FUNCTIONAL_QUESTION = "What is 2 + 2?"
LOG_DAYS = 30
LOG_KINDS = ("harvest", "training", "deployment", "rollback", "nightly")


def preflight() -> int:
    """Check what a night needs before it spends anything: disk, a way back, a healthy server.

    Raises CouncilError that names what is missing.
    """
    notify.ping("start")
    if exposed := exposed_secret():
        log.warning(exposed)
    check_disk(get_settings())
    adapters.ensure_base()
    log.info("disk, adapters and server are ready; %s serves", _healthy(CouncilClient())["adapter"])
    return DONE


def validate() -> int:
    """Check that the server answers with what loras/current names. Raises CouncilError where it does not."""
    client = CouncilClient()
    serving, current = _healthy(client)["adapter"], adapters.target("current")
    expected = "base" if current is None or current.is_base else current.name
    if serving != expected:
        raise CouncilError(f"the server answers with {serving}, loras/current is {expected}; restart the server")
    reply = client.ask(FUNCTIONAL_QUESTION, store=False, max_tokens=48)
    if not reply.text.strip():
        raise CouncilError(f"{serving} answers {FUNCTIONAL_QUESTION!r} with nothing; run rollback_lora.sh")
    log.info("%s serves, and answers in %.1f s", serving, reply.seconds)
    return DONE


def _healthy(client: CouncilClient) -> dict:
    """Return the server's health. Raises ServerError unless it says that it is healthy."""
    health = client.health()
    if health.get("status") != "healthy":
        raise ServerError(f"{client.url}/health says {health.get('status')!r}; restart the server")
    return health


def cleanup() -> int:
    """Remove releases beyond KEEP_RELEASES, never one in use, logs older than LOG_DAYS, records than MEMORY_DAYS."""
    settings = get_settings()
    gone = adapters.prune(settings.keep_releases)
    oldest = time.time() - LOG_DAYS * 86400
    logs = [path for kind in LOG_KINDS for path in settings.logs.glob(f"{kind}_*.log")]
    stale = [path for path in logs if path.stat().st_mtime < oldest]
    for path in stale:
        path.unlink()
    log.info("removed %s", ", ".join([*gone, *(path.name for path in stale)]) or "nothing: all is in use or new")
    from agent0.memory import forget_by_rule  # not above: a night must be able to tell even where this is broken

    return forget_by_rule()


def tell(exit_code: int, stage: str, seconds: float, stages: dict[str, float]) -> int:
    """Write the night's event to the ledger and its report, send its notification and figures, whatever fails of it."""
    words, severity = story.outcome(exit_code)
    spent = ", ".join(f"{name} {took:g} s" for name, took in stages.items())
    more = [f"Time: {seconds:g} s" + (f" ({spent})" if spent else "")]
    events: list[dict] = []
    try:
        event = ledger.append("night", outcome=words, exit_code=exit_code, stage=stage, seconds=seconds, stages=stages)
        events = ledger.read(night=event["night"])
    except (CouncilError, OSError) as error:
        more.append(f"The ledger is not complete: {error}")
        log.warning(more[-1])
    link = _report(more)
    message = story.compose("night", exit_code, events, stage, tuple(more))
    message = replace(message, verdict=story.verdict(exit_code, stage, events), link=link)
    log.info("\n  ".join([message.title, *message.lines]))
    notify.send(message)
    notify.publish()
    notify.ping("fail" if severity == "error" else "success")
    return DONE


def _report(more: list[str]) -> str:
    """Write the morning report and return its address; where that fails, say so in `more`: the night stands."""
    try:
        from agent0 import report  # here, so that what it needs cannot keep the night from being told

        path = report.write()
    except Exception as error:  # whatever is wrong with a page, the night is told
        known = isinstance(error, CouncilError)
        more.append(f"The morning report could not be written: {error if known else repr(error)}")
        log.warning(more[-1], exc_info=not known)
        return ""
    more.append(f"Report: {path}")
    return f"{get_settings().council_url}/reports/{path.stem.removeprefix('report_')}"


def _stage(text: str) -> tuple[str, float]:
    name, _, seconds = text.partition("=")
    return name, float(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m agent0.night", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for stage in (preflight, validate, cleanup):
        commands.add_parser(stage.__name__, help=stage.__doc__.splitlines()[0]).set_defaults(run=stage)
    telling = commands.add_parser("tell", help=tell.__doc__)
    telling.add_argument("--exit-code", type=int, required=True)
    telling.add_argument("--at", dest="stage", default="", help="the stage that the night ended in")
    telling.add_argument("--seconds", type=float, required=True)
    telling.add_argument("--stage", dest="stages", type=_stage, action="append", default=[], metavar="NAME=SECONDS")
    options = vars(parser.parse_args(sys.argv[1:]))
    if options.pop("command") != "tell":
        return options["run"]()
    return tell(**{**options, "stages": dict(options["stages"])})


if __name__ == "__main__":
    run_command(main)

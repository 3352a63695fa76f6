"""The way back: take out what serves, and put the last release that was good in service in its place."""

import time

from agent0 import adapters
from agent0.adapters import Release
from agent0.client import CouncilClient
from agent0.command import DONE, FAILED, NOTHING_TO_DO, CouncilError, log
from agent0.switch import answers, noted_signals, only_one, serving_release, try_serve, unload_release
from agent0.trial import record_rollback, recover, written_down


def rollback(to: str | None = None, dry_run: bool = False) -> int:
    """Take out what serves and put the last good release, or `to`, in its place; return the exit code.

    The link moves even where the server is down. Raises CouncilError where the server is up but does not follow.
    """
    client = CouncilClient()
    with only_one():
        if not dry_run and recover(client) and to is None:
            return DONE  # the candidate had never been accepted, and is out
        out, back = serving_release(), _target(to)
        if back is None:
            log.info("nothing to roll back to: %s serves", out.name)
            return NOTHING_TO_DO
        if dry_run:
            log.info("would roll back from %s to %s", out.name, back.name)
            return DONE
        with noted_signals():
            return _go_back(client, out, back)


def _target(to: str | None) -> Release | None:
    """The release to go back to, checked; None where it serves already. Raises CouncilError for a broken `to`."""
    if to:
        wanted = adapters.validate(to)
        return None if wanted == adapters.target("current") else wanted
    if serving_release().is_base and not adapters.dangling("current"):
        return None
    for release in adapters.rollback_targets():
        try:
            return adapters.validate(release.path)
        except CouncilError as error:
            log.warning("warning: %s is passed over: %s", release.name, error)
    return None


def _go_back(client: CouncilClient, out: Release, back: Release) -> int:
    started, trouble, up = time.time(), None, answers(client)
    if up:
        trouble = try_serve(client, back)
    adapters.point("current", back)
    seconds = round(time.time() - started, 3)
    reason = f"rolled back by hand from {out.name} to {back.name}"
    told = {"verdict": "rolled back", "release": out.name, "to": back.name, "reason": reason}
    server = trouble or ("the server serves it" if up else "the server is down and will load it when it starts")
    timings = {"started": started, "finished": time.time(), "seconds": seconds}
    with written_down(back, FAILED):
        record_rollback(out, back, {**told, "server": server, "timings": timings}, "manual")
    if trouble:
        raise CouncilError(f"loras/current points to {back.name}, but the server does not serve it: {trouble}")
    if up:
        unload_release(client, out)
    log.info("%s is taken out, loras/current is %s: %s, after %.2f s", out.name, back.name, server, seconds)
    return DONE


def print_targets() -> int:
    """Print what a rollback could go back to, the first choice first."""
    for release in adapters.rollback_targets():
        print(release.name)
    return DONE

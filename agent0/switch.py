"""What the server answers with: load and unload releases, route between them, and see that it follows."""

import contextlib
import fcntl
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

from agent0 import adapters
from agent0.adapters import Release
from agent0.client import CouncilClient, ServerError
from agent0.command import LOCKED, CouncilError, log
from agent0.settings import get_settings

_LOADED = re.compile(r"already (been )?loaded")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def healthy(client: CouncilClient) -> dict:
    """The server's health. Raises CouncilError unless it is healthy."""
    try:
        health = client.health()
    except ValueError:
        raise CouncilError(f"{client.url}/health is not JSON: this is not a Council server; set COUNCIL_URL") from None
    if health.get("status") != "healthy":
        raise CouncilError(f"{client.url} says status {health.get('status')!r}; mend or restart the server first")
    return health


def load_release(client: CouncilClient, release: Release) -> None:
    """Load a release on the server under its name. Raises ServerError; having it already is fine."""
    if release.is_base:
        return
    try:
        client.load_adapter(release.name, str(release.path))
    except ServerError as error:
        if not _LOADED.search(str(error)):
            raise


def unload_release(client: CouncilClient, release: Release) -> None:
    """Free the server's memory; a failure is only worth a warning."""
    if release.is_base:
        return
    try:
        client.unload_adapter(release.name)
    except CouncilError as error:
        log.warning("warning: %s stays loaded: %s", release.name, error)


def serve(client: CouncilClient, release: Release) -> None:
    """Load a release, route everything to it, and see that the server says so. Raises CouncilError."""
    load_release(client, release)
    client.route(release.name)
    check_route(client, release)


def split(client: CouncilClient, stable: Release, canary: Release, share: float) -> None:
    """Let the canary answer its share (0 to 1) of the users, and see that the server says so. Raises CouncilError.

    Stable answers copies of what the canary gets, as what to compare with.
    """
    client.route(stable.name, canary.name, share, shadow=stable.name)
    check_route(client, stable, canary, share)


def check_route(client: CouncilClient, stable: Release, canary: Release | None = None, share: float = 0) -> None:
    """Raise CouncilError where the server does not say that it routes so."""
    health, wanted = healthy(client), (stable.name, canary and canary.name, share)
    found = (health.get("adapter"), health.get("canary"), health.get("share") or 0)
    if found != wanted:
        told, expected = ("{} serves, canary {} at {:.0%}".format(*route) for route in (found, wanted))
        raise CouncilError(f"{client.url} says that {told}, where it must be: {expected}; somebody changed the route")


def try_serve(client: CouncilClient, release: Release) -> str | None:
    """Like serve, but return what went wrong instead of raising it: the links must move in any case."""
    try:
        serve(client, release)
    except Exception as error:  # whatever the server does
        log.warning("warning: the server does not serve %s, restart it: %s", release.name, error)
        return str(error)
    return None


def answers(client: CouncilClient) -> bool:
    """Whether a server is there; a sick one counts."""
    try:
        client.health()
    except (ServerError, ValueError) as error:  # what is not JSON is an answer, too
        if isinstance(error, ServerError) and error.status is None:
            log.warning("warning: the server is down: %s", error)
            return False
    return True


def serving_release() -> Release:
    """The release that serves: what current points to, else base."""
    base, current = adapters.ensure_base(), adapters.target("current")
    if adapters.dangling("current"):
        log.warning("warning: loras/current points to no release; base is taken for it")
    return current or base


def journal() -> Path:
    """The file that says that a trial is under way; one that is left tells the next run that it was cut off."""
    return get_settings().loras / adapters.JOURNAL


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold loras/.rollout.lock. Raises CouncilError (exit 75) where another rollout does."""
    path = get_settings().loras / ".rollout.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip()
            raise CouncilError(
                f"process {holder} is rolling out; wait, or `kill {holder}`: it rolls back", LOCKED
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def noted_signals() -> Iterator[list[str]]:
    """Write SIGTERM, SIGINT and SIGHUP down in the list this yields, in place of dying half-way.

    Raising from the handler instead could leave a lock of the log, the bar or the connection pool held for ever.
    """
    noted: list[str] = []
    heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup stays nohup
    before = {n: signal.signal(n, lambda number, _: noted.append(signal.Signals(number).name)) for n in heard}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Put a release into service and watch it, or take it out again.

python -m agent0.rollout deploy [PATH]                      (default: loras/latest)
python -m agent0.rollout rollback [--to RELEASE] [--list] [--dry-run]
"""

import argparse
import contextlib
import fcntl
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agent0 import adapters, ledger
from agent0.adapters import Release
from agent0.client import CouncilClient, ServerError
from agent0.command import DONE, LOCKED, NOTHING_TO_DO, REFUSED, ROLLED_BACK, CouncilError, log, run_command
from agent0.evidence import Evidence, Pair, Thresholds, Verdict, live_samples, live_traffic, load_probes, probe, verdict
from agent0.records import Question, write_json
from agent0.settings import get_settings

DEPLOYED, WITHDRAWN = "deployment_summary.json", "rollback_summary.json"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LOADED = re.compile(r"already (been )?loaded")
_REFUSALS = (400, 409, 413, 422)  # HTTP statuses by which a server refuses an adapter, not the caller


# The server


def _health(client: CouncilClient) -> dict:
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


def _serve(client: CouncilClient, release: Release) -> None:
    """Load, route, and see that the server says so. Raises CouncilError."""
    load_release(client, release)
    client.route(release.name)
    serving = _health(client).get("adapter")
    if serving != release.name:
        raise CouncilError(f"{client.url} was routed to {release.name} but says that {serving} serves")


def unload_release(client: CouncilClient, release: Release) -> None:
    """Free the server's memory; a failure is only worth a warning."""
    if release.is_base:
        return
    try:
        client.unload_adapter(release.name)
    except CouncilError as error:
        log.warning("warning: %s stays loaded: %s", release.name, error)


def serving_release() -> Release:
    """The release that serves: what current points to, else base."""
    base, current = adapters.ensure_base(), adapters.target("current")
    if adapters.dangling("current"):
        log.warning("warning: loras/current points to no release; base is taken for it")
    return current or base


def _journal() -> Path:
    """The file that says that a trial is under way; one that is left tells the next run that it was cut off."""
    return get_settings().loras / adapters.JOURNAL


# Deployment


@dataclass
class Trial:
    """A candidate between the moment it starts to serve and the verdict on it."""

    client: CouncilClient
    candidate: Release
    previous: Release
    probes: list[Question] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    evidence: Evidence = field(default_factory=Evidence)

    def run(self) -> int:
        """Switch, watch, and promote or withdraw; whatever goes wrong before the verdict withdraws."""
        before = [live_samples(self.client, name) for name in (self.previous.name, self.candidate.name)]
        with _noted_signals() as signals:
            try:
                self._switch()
                self._watch(*before, signals)
                judged = verdict(self.evidence, Thresholds.of(get_settings()))
                if judged.promoted:
                    return self._promote(judged)
            except Exception as error:
                judged = Verdict(False, str(error) if isinstance(error, CouncilError) else f"unexpected {error!r}")
            return self.withdraw(judged)

    def _switch(self) -> None:
        names = {"candidate": self.candidate.name, "previous": self.previous.name}
        write_json(_journal(), {**names, "started": self.started})
        adapters.point(adapters.stamped("rollback"), self.previous)
        adapters.point("current", self.candidate)
        _serve(self.client, self.candidate)
        log.info("%s serves, on trial; %s is the way back", self.candidate.name, self.previous.name)

    def _watch(self, stable_before: dict | None, candidate_before: dict | None, signals: list[str]) -> None:
        names, seconds = (self.previous.name, self.candidate.name), get_settings().monitor_duration
        pairs: list[Pair] = []
        self.evidence = Evidence(pairs)  # fills while it is watched, so that an error tells what was seen
        failure = probe(self.client, *names, self.probes, seconds, pairs, stopped=lambda: bool(signals))
        live = live_traffic(candidate_before, live_samples(self.client, self.candidate.name))
        self.evidence = Evidence(pairs, failure, live, live_traffic({}, stable_before))
        if signals:
            raise CouncilError(f"stopped by {signals[0]}")
        serving = None if failure else _health(self.client).get("adapter")
        if not failure and serving != self.candidate.name:
            raise CouncilError(f"{serving} serves at the end of the watch: somebody else changed the route")

    def _promote(self, judged: Verdict) -> int:
        summary = self._summary("promoted", judged)
        taken = {"improvement": judged.improvement, "seconds": summary["timings"]["seconds"]}
        ledger.append("deployment", release=self.candidate.name, previous=self.previous.name, **taken)
        write_json(self.candidate.path / DEPLOYED, summary)
        adapters.drop_links("failed", self.candidate)  # it has earned its place now
        _journal().unlink()
        unload_release(self.client, self.previous)
        log.info("%s is promoted over %s: %s", self.candidate.name, self.previous.name, judged.reason)
        return DONE

    def withdraw(self, judged: Verdict) -> int:
        """Let the previous release serve again, and write down why."""
        trouble = _try_serve(self.client, self.previous)
        adapters.point("current", self.previous)
        summary = {
            **self._summary("rolled back", judged),
            "server": trouble or "the server serves the previous release",
        }
        _record_rollback(self.candidate, self.previous, summary, "monitor")
        _journal().unlink(missing_ok=True)
        if not trouble:
            unload_release(self.client, self.candidate)
        log.info("%s is rolled back, %s serves again: %s", self.candidate.name, self.previous.name, judged.reason)
        return ROLLED_BACK

    def _summary(self, outcome: str, judged: Verdict) -> dict:
        settings, finished = get_settings(), time.time()
        return {
            "verdict": outcome,
            "release": self.candidate.name,
            "previous": self.previous.name,
            "reason": judged.reason,
            "improvement": judged.improvement,
            "bars": [asdict(bar) for bar in judged.bars],
            "evidence": self.evidence.summary(),
            "thresholds": asdict(Thresholds.of(settings)),
            "timings": {"started": self.started, "finished": finished, "seconds": round(finished - self.started, 3)},
            "settings": settings.public(),
        }


def _try_serve(client: CouncilClient, release: Release) -> str | None:
    """Like _serve, but return what went wrong instead of raising it: the links must move in any case."""
    try:
        _serve(client, release)
    except Exception as error:  # whatever the server does
        log.warning("warning: the server does not serve %s, restart it: %s", release.name, error)
        return str(error)
    return None


def _record_rollback(out: Release, back: Release, summary: dict, source: str) -> None:
    """Mark what was taken out as failed, and tell both releases and the ledger."""
    if not out.is_base and out.path.exists():
        adapters.point(adapters.stamped("failed"), out)
        write_json(out.path / WITHDRAWN, summary)
    write_json(back.path / WITHDRAWN, summary)
    ledger.append("rollback", release=out.name, to=back.name, reason=summary["reason"], source=source)


def deploy(wanted: str) -> int:
    """Put a release into service if it earns it; return the exit code.

    Raises CouncilError: exit 30 where the release or the server's checks refuse it, 1 where nothing could be tried.
    """
    client = CouncilClient()
    with _only_one():
        recover(client)
        candidate, previous = _accept(wanted), serving_release()
        if candidate == previous:
            log.info("nothing to deploy: %s serves already", candidate.name)
            return NOTHING_TO_DO
        serving = _health(client).get("adapter")
        probes = load_probes(candidate.name)
        if serving != previous.name:
            log.warning("warning: the server serves %s, loras/current says %s: routing", serving, previous.name)
            _serve(client, previous)
        with _refusals(candidate.name):
            load_release(client, candidate)
        return Trial(client, candidate, previous, probes).run()


def _accept(wanted: str) -> Release:
    with _refusals(wanted):
        return adapters.validate(wanted)


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Write a refusal of the release, by us or by the server, into the ledger, and exit with 30."""
    try:
        yield
    except CouncilError as error:
        if isinstance(error, ServerError) and error.status in _REFUSALS:
            error.exit_code = REFUSED
        if error.exit_code == REFUSED:
            ledger.append("refusal", release=name, reason=str(error))
        raise


def recover(client: CouncilClient) -> bool:
    """Withdraw the candidate of a deployment that was cut off (power, kill -9) before its verdict; say if one was."""
    left = adapters.interrupted()
    if left is None:
        return False
    candidate, previous = (Release(adapters.adapters_folder() / left[key]) for key in ("candidate", "previous"))
    if adapters.promoted_at(candidate) >= left["started"]:  # it was cut off after its verdict
        _journal().unlink()
        return False
    trial = Trial(client, candidate, previous, started=left["started"])
    trial.withdraw(Verdict(False, "the deployment was cut off before its verdict"))
    return True


# The way back


def rollback(to: str | None = None, dry_run: bool = False) -> int:
    """Take out what serves and put the last good release, or `to`, in its place; return the exit code.

    The link moves even where the server is down. Raises CouncilError where the server is up but does not follow.
    """
    client = CouncilClient()
    with _only_one():
        if not dry_run and recover(client) and to is None:
            return DONE  # what served had never been accepted, and is out
        out, back = serving_release(), _way_back(to)
        if back is None:
            log.info("nothing to roll back to: %s serves", out.name)
            return NOTHING_TO_DO
        if dry_run:
            log.info("would roll back from %s to %s", out.name, back.name)
            return DONE
        with _noted_signals():
            return _go_back(client, out, back)


def _way_back(to: str | None) -> Release | None:
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
    started, trouble, up = time.time(), None, _answers(client)
    if up:
        trouble = _try_serve(client, back)
    adapters.point("current", back)
    reason = f"rolled back by hand from {out.name} to {back.name}"
    told = {"verdict": "rolled back", "release": out.name, "to": back.name, "reason": reason}
    server = trouble or ("the server serves it" if up else "the server is down and will load it when it starts")
    timings = {"started": started, "finished": time.time(), "seconds": round(time.time() - started, 3)}
    _record_rollback(out, back, {**told, "server": server, "timings": timings}, "manual")
    if trouble:
        raise CouncilError(f"loras/current points to {back.name}, but the server does not serve it: {trouble}")
    if up:
        unload_release(client, out)
    log.info("%s is taken out, loras/current is %s: %s", out.name, back.name, server)
    return DONE


def _answers(client: CouncilClient) -> bool:
    """Whether a server is there; a sick one counts."""
    try:
        client.health()
    except ServerError as error:
        if error.status is None:
            log.warning("warning: the server is down: %s", error)
            return False
    except ValueError:
        pass  # it answers, if not in JSON
    return True


def print_targets() -> int:
    """Print what a rollback could go back to, the first choice first."""
    for release in adapters.rollback_targets():
        print(release.name)
    return DONE


# One at a time, and signals


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
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
def _noted_signals() -> Iterator[list[str]]:
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m agent0.rollout", description="Put a release into service, or out.")
    commands = parser.add_subparsers(dest="command", required=True)
    put = commands.add_parser("deploy", help="serve a release, watch it, keep it or roll it back")
    put.add_argument("path", nargs="?", default="loras/latest", help="a release or a link to one (loras/latest)")
    take = commands.add_parser("rollback", help="go back to the last good release")
    take.add_argument("--to", metavar="RELEASE", help="go back to this one instead")
    take.add_argument("--list", action="store_true", help="print the releases to go back to, and stop")
    take.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    arguments = parser.parse_args()
    if arguments.command == "deploy":
        return deploy(arguments.path)
    return print_targets() if arguments.list else rollback(arguments.to, arguments.dry_run)


if __name__ == "__main__":
    run_command(main)

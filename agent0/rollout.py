"""Put a release into service, where it earns it, or take it out again.

python -m agent0.rollout deploy [PATH]                      (default: loras/latest)
python -m agent0.rollout rollback [--to RELEASE] [--list] [--dry-run]
"""

import argparse
import contextlib
from collections.abc import Iterator

from agent0 import adapters, ledger
from agent0.adapters import Release
from agent0.client import CouncilClient, ServerError
from agent0.command import NOTHING_TO_DO, REFUSED, CouncilError, log, run_command
from agent0.council.endpoint import endpoint_members
from agent0.council.panel import Panel
from agent0.probing import load_open, load_probes, load_replays, mix
from agent0.switch import healthy, load_release, only_one, serve, serving_release
from agent0.trial import Trial, recover
from agent0.way_back import print_targets, rollback

_REFUSALS = (400, 409, 413, 422)  # HTTP statuses by which a server refuses an adapter, not the caller


def deploy(wanted: str) -> int:
    """Put a release into service if it earns it; return the exit code.

    Raises CouncilError: exit 30 where the release or the server's checks refuse it, 1 where nothing could be tried.
    """
    client = CouncilClient()
    with only_one():
        recover(client)
        candidate, previous = _accept(wanted), serving_release()
        if candidate == previous:
            log.info("nothing to deploy: %s serves already", candidate.name)
            return NOTHING_TO_DO
        health = healthy(client)
        panel = Panel(endpoint_members())
        opened = load_open(candidate) if panel.judges else []
        questions = mix(load_probes(candidate.name), load_replays(candidate), opened)
        if (health.get("adapter"), health.get("canary")) != (previous.name, None):
            log.warning("warning: the server routes to %s, loras/current says %s: routing", health, previous.name)
            serve(client, previous)
        with _refusals(candidate.name):
            load_release(client, candidate)
        return Trial(client, candidate, previous, questions, panel).run()


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    put = commands.add_parser("deploy", help="try a release beside the one that serves; promote, hold or roll back")
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

"""A person refuses a release: one that is on hold, or waits as loras/latest, is never deployed nor gone back to.

python -m agent0.refuse RELEASE [--undo] [--reason TEXT]      (--list: what is refused)

What serves is not refused but rolled back (`bash rollback_lora.sh`), and may be refused then. The ledger, the release's
own refusal.json and the morning report say who refused it. Its examples stay in the pool: veto those that are wrong.
"""

import argparse
import getpass
import time

from agent0 import adapters, ledger
from agent0.adapters import Release
from agent0.command import DONE, FAILED, NOTHING_TO_DO, CouncilError, log, run_command
from agent0.records import sync_folder, write_json
from agent0.switch import only_one, serving_release


def refuse_release(wanted: str, by: str, undo: bool = False, reason: str = "") -> bool:
    """Refuse a release, or take that back; return whether that changes anything.

    `by` says who. `reason` goes into the log only: the ledger holds no text. Raises CouncilError where there is no such
    release (exit 30), where it serves, and where it is on trial right now (exit 75).
    """
    release = adapters.resolve(wanted)
    with only_one():
        if release == serving_release() and not undo:
            raise CouncilError(f"{release.name} serves; go back first: `bash rollback_lora.sh`", FAILED)
        if release.is_base:
            raise CouncilError("base is the model itself, the last way back: it cannot be refused", FAILED)
        if (adapters.refused(release) is not None) is not undo:
            return False
        _mark(release, by, undo)
    state = "allowed again" if undo else "refused"
    log.info("%s is %s by %s%s", release.name, state, by, f": {reason}" if reason else "")
    return True


def _mark(release: Release, by: str, undo: bool) -> None:
    """Write it down, last of all beside the weights, where it takes effect: what was cut off can be repeated."""
    ledger.append("refusal undone" if undo else "refusal", release=release.name, reason=f"by {by}", by=by)
    if undo:
        (release.path / adapters.REFUSED).unlink()
        sync_folder(release.path)
    else:
        write_json(release.path / adapters.REFUSED, {"by": by, "timestamp": time.time()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", nargs="?", help="a release's name, or a link to it (loras/latest)")
    parser.add_argument("--undo", action="store_true", help="allow it again")
    parser.add_argument("--reason", default="", help="for the log")
    parser.add_argument("--list", action="store_true", help="print what is refused and by whom, and stop")
    arguments = parser.parse_args()
    if arguments.list:
        for release in adapters.releases():
            if mark := adapters.refused(release):
                print(f"{release.name}  by {mark['by']}")
        return DONE
    if not arguments.release:
        parser.error("name a release, or --list; `python -m agent0.adapters list` prints them")
    by = f"{getpass.getuser()}, on the command line"
    if refuse_release(arguments.release, by, arguments.undo, arguments.reason):
        return DONE
    log.info("nothing to do: %s is %s", arguments.release, "not refused" if arguments.undo else "refused already")
    return NOTHING_TO_DO


if __name__ == "__main__":
    run_command(main)

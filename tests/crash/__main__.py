"""Kill every kind of work at many points, and cut the power there, and see that nothing acknowledged is lost.

python -m tests.crash [--points N] [--only SCENARIO]      N points over all scenarios (default 10000)

At each point a fresh home is worked on until it is killed just before its n-th call that changes a file; at the points
of a power cut, what was not synced by then is taken back, all of it or a random half. Then the home is checked, and the
work is done once more. With MEMORY_PEERS_PYTHON (as for `make bench-memory`) two peers' stores are killed likewise.
"""

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
from agent0.settings import get_settings
from tests.crash import scenarios, tracer

SHARES = (None, 1.0, 0.5)  # only killed; power cut, all that was not synced is lost; a random half of it is


def survey(name: str, points: int, place: Path) -> tuple[int, int, list[str]]:
    """Try `points` points of one scenario; return them, the calls of a whole run, and what went wrong."""
    scenario, template, home = scenarios.ALL[name](), place / "template", place / "home"
    wrong = []
    try:
        _at_home(template)
        scenario.prepare()
        calls = _whole_run(scenario, template, home)
        for number in range(points):
            share = SHARES[number % len(SHARES)]
            at = 1 + number // len(SHARES) * calls // -(-points // len(SHARES))
            if trouble := _point(scenario, template, home, at, share, number):
                wrong.append(f"{name}: call {at} of {calls}, power cut {share}: {trouble}")
    finally:
        scenario.close()
    return points, calls, wrong


def _whole_run(scenario: scenarios.Scenario, template: Path, home: Path) -> int:
    _fresh(template, home)
    ended = tracer.run(scenario.work)
    scenario.check(ended.said)
    return ended.calls


def _point(
    scenario: scenarios.Scenario, template: Path, home: Path, at: int, share: float | None, seed: int
) -> str | None:
    """Kill one run and check what it left; return what is wrong with it."""
    _fresh(template, home)
    journal = tracer.Journal(home) if share else None
    ended = tracer.run(scenario.work, at, journal)
    if journal:
        journal.cut_power(share, seed)
    try:
        scenario.check(ended.said)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _fresh(template: Path, home: Path) -> None:
    for old in (home, Path(f"{home}.kept")):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(template, home, symlinks=True)
    _at_home(home)


def _at_home(home: Path) -> None:
    home.mkdir(exist_ok=True)
    os.environ["COUNCIL_HOME"] = str(home)
    get_settings.cache_clear()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--only", choices=scenarios.ALL)
    options = parser.parse_args()
    logging.getLogger("council").setLevel(logging.CRITICAL)
    names = [options.only] if options.only else list(scenarios.ALL)
    wrong = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        scenarios.base_model(Path(scratch) / "base")
        for name in names:
            place, start = Path(scratch) / name.replace(" ", "-"), time.monotonic()
            place.mkdir()
            tried, calls, found = survey(name, -(-options.points // len(names)), place)
            wrong += found
            took = time.monotonic() - start
            print(f"{name:22} {calls:5} calls, {tried:5} points, {len(found):3} wrong, {took:6.1f} s", flush=True)
    print("\n".join(wrong[:20]))
    if (peers := os.environ.get("MEMORY_PEERS_PYTHON")) and not options.only:
        subprocess.run([peers, "-m", "tests.crash.peers"], check=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.alarm(3600)  # a hang is a failure
    sys.exit(main())

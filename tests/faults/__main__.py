"""Nights in which one or two things go wrong, each followed by a healthy one.

python -m tests.faults [--nights N] [--first N] [--only FAULT]      (default: 1000 nights, as many at a time as cores)

The scripts, stages, links, logs, ledger and alerts are real; the trainer's arithmetic and the engine are stand-ins.
A full or read-only disk needs a small file system of its own, and so the right to mount one.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from tests.faults import nights
from tests.faults.place import Place, base_model, small_questions


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True)
        return done.returncode == 0 and subprocess.run(["umount", folder]).returncode == 0


@contextmanager
def fresh_place(scratch: Path, on_tmpfs: bool):
    """Yield a place made for one fault."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    home = folder / "home"
    home.mkdir()
    if on_tmpfs:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", home], check=True)
    place = Place(home, scratch / "questions", scratch / "base")
    try:
        yield place
    finally:
        place.close()
        if on_tmpfs:
            subprocess.run(["umount", "-l", home], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def run(scratch: Path, names: list[str]) -> list[str]:
    """Run one faulted night and the healthy one after it; return what was wrong."""
    with fresh_place(scratch, any(nights.FAULTS[name].on_tmpfs for name in names)) as place:
        try:
            return nights.try_night(place, names)
        except Exception as error:
            return [f"{type(error).__name__}: {error}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first night")
    parser.add_argument("--only", choices=nights.FAULTS)
    options = parser.parse_args()
    os.environ |= {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    mounts, start, tally = can_mount(), time.monotonic(), Counter()
    numbers = range(options.first, options.first + options.nights)
    drawn = [[options.only] if options.only else nights.draw(number, mounts) for number in numbers]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        small_questions(scratch / "questions")
        base_model(scratch / "base")
        with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("fork")) as pool:
            nights_run = tqdm(pool.map(partial(run, scratch), drawn), total=len(drawn), unit="night", disable=False)
            for number, names, wrong in zip(numbers, drawn, nights_run, strict=True):
                tally["wrong" if wrong else "right"] += 1
                for line in wrong:
                    tqdm.write(f"{number}: {' + '.join(names)}: {line}")
    print(f"{sum(tally.values())} faulted nights, each with a healthy one after it: {dict(tally)}", end="; ")
    print(f"{time.monotonic() - start:.0f} s, disk faults {'included' if mounts else 'left out: no right to mount'}")
    return 1 if tally["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

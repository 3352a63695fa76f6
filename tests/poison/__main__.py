"""Print what the guard keeps out, and what it costs: python -m tests.poison [--misses]"""

import argparse
import os
import tempfile

from agent0.command import DONE, FAILED, run_command
from tests.poison.suite import timed

KEPT_OUT, GOOD_LOST = 0.99, 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--misses", action="store_true", help="name the cases that got through and the rows lost")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"COUNCIL_HOME": home, "QUALITY_THRESHOLD": "0"}
        result, text = timed()
    print(text)
    if arguments.misses:
        for (_, held_out), cases in result.leaked.items():
            if not held_out:
                print("got through:", *cases)
        print("lost:", *(f"{case} ({count} x)" for case, count in result.lost.items()))
    return DONE if result.kept_out() >= KEPT_OUT and result.good_lost() <= GOOD_LOST else FAILED


if __name__ == "__main__":
    run_command(main)

"""A sample of `make crash-test`, and that the harness notices what it is there for; in processes of their own."""

import subprocess
import sys

import pytest

from agent0.settings import ROOT
from tests.crash import tracer

pytestmark = pytest.mark.skipif(not tracer.supported, reason="kills at system calls need Linux on x86-64")
UNSYNCED = """
import os, runpy, sys
os.fdatasync = lambda handle: None
from tests.crash import scenarios
scenarios.AddAndFeedback.checkpoint_every = 10**6  # a checkpoint syncs by itself
sys.argv = ["crash", "--points", "6", "--only", "add and feedback"]
runpy.run_module("tests.crash", run_name="__main__")
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_what_was_acknowledged_survives_kills_and_power_cuts():
    done = run("-m", "tests.crash", "--points", "66")
    assert done.returncode == 0, done.stdout + done.stderr
    table = [line for line in done.stdout.splitlines() if "points" in line]
    assert len(table) == 11 and all(" 6 points,   0 wrong" in line for line in table), done.stdout


def test_no_moment_of_a_clean_up_leaves_half_a_release():
    done = run("-m", "tests.crash", "--points", "66", "--only", "clean-up")  # each of its calls
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_memory_that_does_not_sync_is_caught():
    done = run("-c", UNSYNCED)
    assert done.returncode == 1 and "lost: added" in done.stdout, done.stdout + done.stderr

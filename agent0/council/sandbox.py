"""Runs Python of strangers: in a process of its own, isolated by jail.py, killed at a deadline. Never unsandboxed."""

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from agent0.command import CouncilError, log

JAIL = Path(__file__).with_name("jail.py")
OUTPUT = 1 << 16  # bytes of stdout that are read; jail.py limits what is written


@dataclass(frozen=True)
class Run:
    """What a program printed, whether it ended by itself without error, and if not, why."""

    output: str
    ok: bool
    reason: str = ""


@lru_cache(maxsize=1)
def isolates() -> bool:
    """Whether this machine lets us isolate a program; says so once where it does not."""
    probe = _run("print(6 * 7)", 10)
    works = probe == Run("42\n", True)
    if not works:
        log.warning("no code is run, since it cannot be isolated here: %s", probe.reason)
    return works


def run_python(program: str, seconds: int = 4) -> Run:
    """Run a program for at most so many seconds of wall and processor time.

    Raises CouncilError where this machine cannot isolate it; it is not run then.
    """
    if not isolates():
        raise CouncilError("programs cannot be isolated on this machine; allow user namespaces to run them")
    return _run(program, seconds)


def _run(program: str, seconds: int) -> Run:
    command = [os.path.realpath(sys.executable), "-I", "-S", str(JAIL), str(seconds), str(os.getpid())]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        jail = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=errors, env={}, cwd="/", start_new_session=True
        )
        try:
            jail.communicate(program.encode(errors="replace"), timeout=seconds)
        except subprocess.TimeoutExpired:
            return Run(_read(out), False, f"no end after {seconds} s")
        finally:
            if jail.poll() is None:
                os.killpg(jail.pid, signal.SIGKILL)
                jail.wait()
        if jail.returncode:
            return Run(_read(out), False, _last_line(errors) or f"exit {jail.returncode}")
        whole = os.fstat(out.fileno()).st_size <= OUTPUT
        return Run(_read(out), whole, "" if whole else f"more than {OUTPUT} bytes of output")


def _read(file: BinaryIO) -> str:
    return os.pread(file.fileno(), OUTPUT, 0).decode(errors="replace")


def _last_line(file: BinaryIO) -> str:
    lines = _read(file).strip().splitlines()
    return lines[-1][:200] if lines else ""

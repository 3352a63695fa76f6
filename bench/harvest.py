"""The harvest's calls against an endpoint that fails: throughput as a ratio to the ideal and to bespokelabs-curator.

python -m bench.harvest [--calls 10000]     with CURATOR_PYTHON naming a Python that has bespokelabs-curator

The endpoint is local and bound by latency. The ideal is the time that its calls take at full concurrency, with a call
that hangs counting until the client's time-out. Both clients have the same concurrency, time-out and number of tries.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

CONCURRENCY, LATENCY, TIMEOUT, FAIL, TRIES = 24, 0.2, 1.0, 0.1, 4
PEER = Path(__file__).with_name("curator_peer.py")


@dataclass(frozen=True)
class Run:
    """One client's run: seconds, questions answered, what the endpoint counted, resident megabytes early and late."""

    seconds: float
    answered: int
    counts: dict
    memory: tuple[float, float] | None = None

    @property
    def ideal(self) -> float:
        """The seconds that this run's calls take at full concurrency."""
        hung = self.counts.get("hang", 0)
        return ((self.counts["calls"] - hung) * LATENCY + hung * TIMEOUT) / CONCURRENCY

    @property
    def rate(self) -> float:
        return self.answered / self.seconds


@contextmanager
def flaky_server():
    """Yield the URL of a fresh endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--latency", str(LATENCY), "--fail", str(FAIL), "--hang", str(1.5 * TIMEOUT)]
    server = subprocess.Popen([sys.executable, "-m", "bench.flaky_server", *options])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                requests.get(f"{url}/count", timeout=1)
                break
            except requests.ConnectionError:
                time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait()


def counts(url: str) -> dict:
    return requests.get(f"{url}/count", timeout=10).json()


def run_ours(calls: int) -> Run:
    """Ask through the council's own member and its durable store, as a harvest does."""
    from agent0.council.answers import Answers
    from agent0.council.endpoint import EndpointMember

    memory: list[float] = []

    def ask(number: int) -> bool:
        if number in (calls // 5, calls - 1):
            memory.append(_resident())
        try:
            return member.propose(f"Why does river number {number} flow?", "24") is not None
        except Exception:  # a call that failed TRIES times is one that was not answered
            return False

    with flaky_server() as url, tempfile.TemporaryDirectory() as folder:
        member = EndpointMember(url, "flaky", attempts=TRIES, answers=Answers(Path(folder) / "council.db"))
        start = time.monotonic()
        with ThreadPoolExecutor(2 * CONCURRENCY) as pool:
            answered = sum(pool.map(ask, range(calls)))
        return Run(time.monotonic() - start, answered, counts(url), (min(memory), max(memory)))


def run_curator(python: str, calls: int) -> Run | None:
    """Ask the same through bespokelabs-curator in its own interpreter; None where it does not run, with a line why."""
    limits = {"calls": calls, "concurrency": CONCURRENCY, "timeout": TIMEOUT, "tries": TRIES}
    with flaky_server() as url, tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "HOME": folder, "CURATOR_CACHE_DIR": folder, "OPENAI_API_KEY": "none"}
        environment |= {"TELEMETRY_ENABLED": "false", "CURATOR_DISABLE_RICH_DISPLAY": "1", "CURATOR_VIEWER": "0"}
        command = [python, str(PEER), json.dumps({"url": url, **limits})]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"curator: does not run here: {done.stderr.strip().splitlines()[-1:]}")
            return None
        result = json.loads(done.stdout.strip().splitlines()[-1])
        return Run(result["seconds"], result["answered"], counts(url))


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def line(name: str, run: Run) -> str:
    seen = ", ".join(f"{run.counts.get(what, 0)} x {what}" for what in ("429", "500", "hang", "length"))
    return (
        f"{name:10} {run.answered:6} answered in {run.seconds:6.1f} s, {run.rate:6.1f} a second,"
        f" {100 * run.ideal / run.seconds:5.1f} % of ideal ({run.counts['calls']} calls; {seen})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    calls = parser.parse_args().calls
    os.environ |= {"COUNCIL_TIMEOUT": str(TIMEOUT), "COUNCIL_CONCURRENCY": str(CONCURRENCY)}
    ours = run_ours(calls)
    print(line("ours", ours))
    early, late = ours.memory
    print(f"{'':10} memory {early:.0f} MB after a fifth of the calls, {late:.0f} MB at the end")
    python = os.environ.get("CURATOR_PYTHON")
    if not python:
        print("curator: skipped; set CURATOR_PYTHON to a Python that has bespokelabs-curator")
    elif peer := run_curator(python, calls):
        print(line("curator", peer))
        print(f"{'':10} ours / curator: {ours.rate / peer.rate:.2f}")


if __name__ == "__main__":
    main()

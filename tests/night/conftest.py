"""A real Council server with the embedded model, in a home of its own, shared by the tests of one night."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent0.client import CouncilClient, ServerError
from agent0.settings import ROOT, get_settings


@dataclass
class Council:
    """A running server: its home, its client, and the environment that reaches it from a bare shell."""

    home: Path
    client: CouncilClient
    environment: dict[str, str]

    def run(self, *command: str, **extra: str) -> subprocess.CompletedProcess:
        """Run a script as cron does: bare environment, another directory."""
        environment = {"HOME": os.environ["HOME"], "PATH": "/usr/bin:/bin", **self.environment, **extra}
        return subprocess.run(["bash", *command], env=environment, cwd="/", capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def running_council(tmp_path_factory):
    home = tmp_path_factory.mktemp("council")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    environment = {"COUNCIL_HOME": str(home), "COUNCIL_URL": url}
    with open(home / "server.log", "w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "agent0.serve"], cwd=ROOT, env={**os.environ, **environment}, stdout=out, stderr=out
        )
    client = CouncilClient(url)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None and time.monotonic() < deadline, (home / "server.log").read_text()
            try:
                client.health()
                break
            except ServerError:
                time.sleep(0.5)
        yield Council(home, client, environment)
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def council(running_council, monkeypatch):
    """The module's server, with this process's settings pointed at it."""
    for name, value in running_council.environment.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return running_council

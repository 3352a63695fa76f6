"""A sample of `make fault-nights`."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent0.windows import day_window
from faiss_memory import FaissMemory
from tests.faults import __main__ as fault_nights
from tests.faults import nights
from tests.faults.place import base_model, small_questions


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("BASE_MODEL", "embedded")  # set back at the end
    monkeypatch.setenv("COUNCIL_URL", "http://127.0.0.1:8000")
    small_questions(tmp_path / "questions")
    base_model(tmp_path / "base")
    return tmp_path


@pytest.mark.parametrize("fault", ["SIGTERM at training", "a bad setting"])
def test_a_faulted_night_is_told_as_it_was_and_the_next_one_succeeds(scratch, fault):
    assert fault_nights.run(scratch, [fault]) == []


def test_every_kind_of_fault_is_tried_alone_before_two_at_a_time():
    drawn = [nights.draw(number, on_tmpfs=True) for number in range(1000)]
    assert {names[0] for names in drawn if len(names) == 1} == nights.FAULTS.keys()
    assert sum(len(names) == 2 for names in drawn) > 800


URLS = ("HEALTHCHECK_URL", "ALERTMANAGER_URL", "PUSHGATEWAY_URL")  # a part of each is as secret as a key
CANARIES = (
    "canary-hook",
    "canary-server-key",
    "canary-juror-key",
    "canary-upstream-key",
    *map("canary-{}".format, URLS),
)


class Echo(BaseHTTPRequestHandler):
    """An endpoint that refuses, and says the caller's key and path aloud."""

    def do_POST(self):
        body = f"{self.path} {self.headers}".encode()
        self.server.paths.append(self.path)
        self.send_response(401, f"{self.path} {self.headers['Authorization']}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST

    def log_message(self, *_):
        """Keep the output clean."""


def watch_processes(stop: threading.Event, seen: set[str]) -> None:
    while not stop.is_set():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(path.read_text(errors="replace"))
            except OSError:  # it ended
                continue
        time.sleep(0.02)


def test_no_secret_is_written_told_or_shown_to_others(scratch):
    echo = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    echo.paths = []
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    stop, commands = threading.Event(), set()
    with fault_nights.fresh_place(scratch, on_tmpfs=False) as place:
        memory, at = FaissMemory(), day_window(place.days[0]).since
        memory.add("Which soup goes with rye bread?", {"response": "No.", "confidence": 0.1, "timestamp": at})
        memory.close()
        watcher = threading.Thread(target=watch_processes, args=(stop, commands), daemon=True)
        watcher.start()
        night = place.night(
            NOTIFICATION_WEBHOOK=f"{place.receiver.url}-{CANARIES[0]}",
            COUNCIL_API_KEY=CANARIES[1],
            JUROR_KEY=CANARIES[2],
            UPSTREAM_API_KEY=CANARIES[3],
            COUNCIL_ENDPOINTS=f"http://127.0.0.1:{echo.server_port}/v1|juror|JUROR_KEY",
            **{name: f"http://127.0.0.1:{echo.server_port}/canary-{name}" for name in URLS},
        )
        stop.set()
        watcher.join()
        echo.shutdown()
        echo.server_close()
        files = [path for path in place.path.rglob("*") if path.is_file() and not path.is_symlink()]
        written = {path: path.read_bytes() for path in files}
        open_to_others = [path for path in (place.path / "logs").iterdir() if path.stat().st_mode & 0o077]
    assert night.code == 0 and len(night.alerts) == 1, night.log
    assert "juror" in night.log, "the endpoint was to be asked"
    for name in URLS:
        assert any(name in path for path in echo.paths), f"{name} was to be asked"
    assert any("agent0.rollout" in command for command in commands) and len(written) > 20
    for canary in CANARIES:
        assert canary not in night.output + str(night.alerts) + "".join(commands)
        assert not [path for path, content in written.items() if canary.encode() in content]
    assert open_to_others == []

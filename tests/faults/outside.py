"""What goes wrong around a night: its clock, whom it calls, its links, and the memory's index."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import libfaketime
import numpy

from faiss_memory import FaissMemory
from tests.faults.place import Place

CLOCK = {
    "LD_PRELOAD": str(Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"),
    "DONT_FAKE_MONOTONIC": "1",
    "NO_FAKE_STAT": "1",
    "FAKETIME_NO_CACHE": "1",
}


def clock_jumps(by: str, hook: str) -> Callable:
    """The clock of the whole machine jumps `by` when that stage begins."""

    def strike(place: Place, stack: ExitStack) -> dict[str, str]:
        clock = place.path.parent / "clock"
        clock.write_text("+0\n")
        place.hook(hook, f'echo "{by}" >"{clock}"')
        return CLOCK | {"FAKETIME_TIMESTAMP_FILE": str(clock)}

    return strike


def clocks_change(which: str) -> Callable:
    """A night in a time zone where summer time begins or ends seconds after it has begun."""

    def strike(place: Place, stack: ExitStack) -> dict[str, str]:
        soon, half_a_year = datetime.now(UTC) + timedelta(seconds=4), timedelta(182)
        begins, ends = (soon, soon + half_a_year) if which == "begins" else (soon + half_a_year, soon)
        return {"TZ": f"STD0DST-1,{_posix(begins)},{_posix(ends + timedelta(hours=1))}"}  # its end in summer time

    return strike


def _posix(moment: datetime) -> str:
    """A moment as POSIX TZ has it, n/h:m:s with days counted from 0."""
    return f"{moment.timetuple().tm_yday - 1}/{moment:%H:%M:%S}"


def silence(**environment: str) -> Callable:
    """Somebody accepts connections and never says a word; {url} in the settings is theirs."""

    def strike(place: Place, stack: ExitStack) -> dict[str, str]:
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64)).getsockname()[1]
        return {name: value.format(url=f"http://127.0.0.1:{port}") for name, value in environment.items()}

    return strike


def endpoints_say(text: str, members: int = 3) -> Callable:
    """So many endpoints answer whatever they are asked with this text."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            message = {"role": "assistant", "content": text}
            body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Keep the output clean."""

    def strike(place: Place, stack: ExitStack) -> dict[str, str]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        url = f"http://127.0.0.1:{server.server_port}/v1"
        return {"COUNCIL_ENDPOINTS": ",".join(f"{url}|m{number}" for number in range(members))}

    return strike


def linked(link: str, to: str) -> Callable:
    """Somebody has made the link by hand."""

    def strike(place: Place, stack: ExitStack) -> None:
        (place.path / "loras").mkdir(exist_ok=True)
        (place.path / "loras" / link).symlink_to(to)

    return strike


def unlink(link: str) -> Callable:
    """Somebody takes such a link away, where the night has not."""

    def mend(place: Place) -> None:
        path = place.path / "loras" / link
        if path.is_symlink() and path.readlink().is_absolute():
            path.unlink()

    return mend


def _embed(texts: list[str]):
    """Vectors that differ where the texts do; the search over them is real."""
    vectors = [numpy.random.default_rng(sum(text.encode())).normal(size=32) for text in texts]
    return numpy.array([vector / numpy.linalg.norm(vector) for vector in vectors], "float32")


def _indexed(question: str) -> str:
    """The question that is found for this one."""
    memory = FaissMemory()
    memory._index._embed = _embed
    found = memory.query(question, 1)[0]["query"]
    memory.close()
    return found


def index_truncated(place: Place, stack: ExitStack) -> None:
    _indexed("What is 12 * 17?")
    for file in (place.path / "memory").glob("index-*/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def index_works(place: Place) -> None:
    """Raises where the index was not rebuilt from the database."""
    place.use()
    question = "What is 15 * 17?"
    if (found := _indexed(question)) != question:
        raise AssertionError(f"the index finds {found!r} for {question!r}")

"""A real uvicorn with our limits: bodies too long or too slow, headers too long or too slow, paths from a request."""

import json
import socket
import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI, Request

from agent0 import adapters
from agent0.command import CouncilError
from agent0.serve import errors, limits


@pytest.fixture
def port(monkeypatch):
    monkeypatch.setattr(limits, "MAX_BODY", 100_000)
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(limits, "HEADER_SECONDS", 0.3)
    app = FastAPI()
    errors.install(app)
    app.add_middleware(limits.BodyLimit)

    @app.post("/length")
    async def length(request: Request) -> int:
        return len(await request.body())

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=limits.PatientProtocol, log_level="error", timeout_keep_alive=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(20)


def talk(port: int, *pieces: bytes, pause: float = 0) -> bytes:
    """Send the pieces and return all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionError:
            pass
    return answer


def post(body: bytes, length: int | None = None) -> bytes:
    fields = f"Host: localhost\r\nConnection: close\r\nContent-Length: {length or len(body)}"
    return f"POST /length HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body


def test_a_body_within_the_limit_is_taken(port):
    answer = talk(port, post(b"x" * 100_000))
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"100000")


def test_a_body_over_the_limit_is_refused_in_the_usual_form(port):
    answer = talk(port, post(b"x" * 100_001))
    assert answer.startswith(b"HTTP/1.1 413")
    assert "send less" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_a_stranger_without_the_key_may_send_little(port):
    request = post(b"x" * (limits.STRANGERS_BODY + 1)).replace(b"localhost", b"example.org")
    assert talk(port, request).startswith(b"HTTP/1.1 413")


def test_chunks_without_an_end_are_refused(port):
    head = b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    assert talk(port, head, *[chunk] * 4).startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_come_is_given_up(port):
    assert talk(port, post(b"x", length=50)).startswith(b"HTTP/1.1 408")


def test_headers_that_do_not_come_are_given_up(port):
    start = time.monotonic()
    assert talk(port, b"POST /length HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""
    assert talk(port) == b""
    assert time.monotonic() - start < 8, "the server waited as long as the client"


def test_slow_headers_of_a_later_request_are_given_up_too(port):
    first = post(b"x").replace(b"Connection: close\r\n", b"")
    answer = talk(port, first, b"POST /length HTTP/1.1\r\nHost", pause=0.1)
    assert answer.count(b"HTTP/1.1 200") == 1


def test_headers_over_the_limit_are_refused(port):
    answer = talk(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize(
    "path", ["/etc", "../..", "loras/../../..", "file:///etc", "adapters/..", ".", "/proc/self/root", "..%2f..", "a\0b"]
)
def test_no_path_of_a_request_leads_out_of_the_adapters_folder(home, path):
    adapters.ensure_base()
    with pytest.raises((CouncilError, ValueError)):
        adapters.validate(path)


def test_a_link_that_leads_out_of_the_adapters_folder_is_no_release(home, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    adapters.ensure_base()
    (home / "loras/adapters/20260101T000000Z-00000000").symlink_to(outside)
    with pytest.raises(CouncilError, match="not a release"):
        adapters.validate("20260101T000000Z-00000000")

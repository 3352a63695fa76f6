"""The client of the scripts, against a server that is full for a while."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agent0.client import CouncilClient, ServerError

ANSWER = {"id": "a", "choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}


@pytest.fixture
def full_server():
    """Yields (url, refusals): it answers 429 with each of these Retry-After, then the question."""
    refusals: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b"{}" if refusals else json.dumps(ANSWER).encode()
            self.send_response(429 if refusals else 200)
            if refusals:
                self.send_header("Retry-After", refusals.pop(0))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Keep the output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", refusals
    server.shutdown()
    server.server_close()


def test_a_full_server_is_asked_again_when_it_says(full_server):
    url, refusals = full_server
    refusals += ["1", "0"]
    reply = CouncilClient(url).ask("What is 2 + 2?")
    assert reply.text == "4" and refusals == []
    assert reply.seconds < 1, "waiting is not what the answer took"


def test_a_server_that_stays_full_is_a_failure_within_the_time_out(full_server):
    url, refusals = full_server
    refusals += ["30"]
    with pytest.raises(ServerError) as failed:
        CouncilClient(url, timeout=5).ask("What is 2 + 2?")
    assert failed.value.status == 429

"""A scripted Council server on a real socket: every adapter behaves as its test says."""

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from agent0.quality import PROBES, questions_file
from agent0.records import Question, read_jsonl


@dataclass
class Behaviour:
    """How one adapter answers: the share of right answers, seconds of delay, what it says, what load says."""

    right: float = 1.0
    delay: float = 0.0
    mode: str = "answer"  # or "error", "empty", "garbage", "not json"
    load_status: int = 200
    view: str = "Perhaps."  # of a question without a known answer
    live: tuple[int, int, float] = (0, 0, 0.01)  # user requests, successes, seconds each; seen once it is asked


@dataclass
class Stub:
    """The server's state; tests read and write it directly."""

    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    stable: str = "base"
    canary: str | None = None
    share: float = 0
    shares: list[float] = field(default_factory=list)  # of the canary, as they were set
    loaded: set[str] = field(default_factory=lambda: {"base"})
    counters: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    asked: list[dict] = field(default_factory=list)
    follows_routes: bool = True
    has_metrics: bool = True
    on_ask: object = lambda stub: None
    url: str = ""

    def __post_init__(self):
        probes = [probe for probe in read_jsonl(questions_file(PROBES), Question) if probe.answer]
        self.answers = {probe.question: (n, probe.answer) for n, probe in enumerate(probes)}

    def behaviour(self, name: str) -> Behaviour:
        return self.behaviours.setdefault(name, Behaviour())

    def start(self):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"stub": self}))
        server.daemon_threads = True
        self.server, self.url = server, f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    stub: Stub

    def log_message(self, *arguments):
        pass

    def reply(self, status: int, body: dict | str):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def error(self, status: int, message: str):
        self.reply(status, {"error": {"message": message, "type": "invalid_request_error", "code": status}})

    def do_GET(self):
        stub = self.stub
        if self.path == "/health":
            route = {"adapter": stub.stable, "canary": stub.canary, "share": stub.share}
            self.reply(200, {"status": "healthy", "model": "tiny", "engine": "stub", **route})
        elif self.path == "/metrics" and stub.has_metrics:
            self.reply(200, metrics(stub.counters))
        else:
            self.error(404, "not found")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        {
            "/v1/chat/completions": self.chat,
            "/v1/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": self.unload,
            "/v1/route": self.route,
        }[self.path](body)

    def chat(self, body):
        stub, name = self.stub, body["model"]
        stub.asked.append(body)
        if name not in stub.loaded:
            return self.error(404, f"model {name} is not loaded")
        behaviour = stub.behaviour(name)
        if not any(body["model"] == name for body in stub.asked[:-1]):
            requests, successes, _ = stub.counters.get(name, (0, 0, 0))
            more, good, seconds = behaviour.live
            stub.counters[name] = (requests + more, successes + good, seconds)
        stub.on_ask(stub)
        time.sleep(behaviour.delay)
        if behaviour.mode == "error":
            return self.error(500, "out of memory")
        if behaviour.mode == "not json":
            return self.reply(200, "<html>")
        message = {"role": "assistant", "content": say(stub, behaviour, body["messages"][0]["content"])}
        self.reply(200, {"id": "chatcmpl-1", "choices": [{"message": message, "finish_reason": "stop"}]})

    def load(self, body):
        name, status = body["lora_name"], self.stub.behaviour(body["lora_name"]).load_status
        if status == 409:
            return self.error(status, "4 adapters are loaded already; unload one first")
        if status != 200:
            return self.error(status, f"{name} cannot be loaded: shapes do not fit")
        if name in self.stub.loaded:
            return self.error(400, f"The lora adapter '{name}' has already been loaded.")
        self.stub.loaded.add(name)
        self.reply(200, "Success")

    def unload(self, body):
        name = body["lora_name"]
        if name not in self.stub.loaded or name in (self.stub.stable, self.stub.canary):
            return self.error(400, f"{name} cannot be unloaded")
        self.stub.loaded.discard(name)
        self.reply(200, "Success")

    def route(self, body):
        stub, name, canary = self.stub, body["stable"], body.get("canary")
        if name not in stub.loaded or canary not in {None, *stub.loaded}:
            return self.error(404, f"{name} or {canary} is not loaded")
        old = stub.stable
        if stub.follows_routes:
            stub.stable, stub.canary, stub.share = name, canary, body.get("share", 0)
            stub.shares.append(stub.share)
        self.reply(200, {"stable": name, "previous": old})


def say(stub: Stub, behaviour: Behaviour, question: str) -> str:
    if behaviour.mode == "empty":
        return " \n"
    if behaviour.mode == "garbage":
        return "!!!!!!!!"
    if question not in stub.answers:
        return behaviour.view
    number, answer = stub.answers[question]
    return f"The answer is {answer}." if number % 10 < behaviour.right * 10 else "I would not know."


def metrics(counters: dict[str, tuple[int, int, float]]) -> str:
    lines = ["# TYPE autogen_requests_total counter"]
    for name, (requests, successes, seconds) in counters.items():
        labels = f'adapter="{name}",origin="user"'
        lines.append(f"autogen_requests_total{{{labels}}} {requests}")
        lines.append(f'autogen_requests_total{{adapter="{name}",origin="probe"}} 999')
        lines.append(f"autogen_requests_success_total{{{labels}}} {successes}")
        worse = requests - successes  # stable's copies are all right
        lines.append(f'autogen_compared_requests_total{{adapter="{name}",better="copy"}} {worse}')
        for edge in (0.1, 0.5, 1, 5, "+Inf"):
            count = requests if seconds <= float(edge) else 0
            lines.append(f'autogen_request_latency_seconds_bucket{{{labels},le="{edge}"}} {count}')
    return "\n".join(lines) + "\n"

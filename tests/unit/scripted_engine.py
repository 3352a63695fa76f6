"""An engine whose adapters behave as a test says, behind the real HTTP server, and clients that keep asking."""

import contextlib
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import uvicorn
from council_stub import Behaviour, Stub, say

from agent0.client import CouncilClient
from agent0.serve.__main__ import serve_current
from agent0.serve.api import create_app
from agent0.serve.interface import Result
from agent0.serve.routing import BASE, Router
from faiss_memory import FaissMemory

USER_QUESTION = "Will it rain?"


@dataclass(frozen=True)
class Scripted:
    name: str


@dataclass
class Job:
    adapter: Scripted

    def cancel(self):
        pass


class ScriptedEngine:
    """What the server needs of an engine. `behaviours` is by adapter; mode "error" raises as a broken adapter does."""

    kind = model = "scripted"

    def __init__(self):
        self.router, self.stub = Router(Scripted(BASE), self.model), Stub()
        self.behaviours: dict[str, Behaviour] = {}
        self.answered: Counter[str] = Counter()

    def load(self, name, folder):
        self.router.add(Scripted(name))

    def unload(self, name):
        self.router.unload(name)

    def trouble(self):
        return None

    def submit(self, messages, on_event, *, model, key="", **options):
        adapter = self.router.resolve(model, key)
        threading.Thread(target=self._answer, args=(adapter.name, messages[-1]["content"], on_event)).start()
        return Job(adapter)

    def _answer(self, name, question, on_event):
        behaviour = self.behaviours.get(name) or Behaviour()
        self.answered[name] += 1
        time.sleep(behaviour.delay)
        if behaviour.mode == "error":
            return on_event(ZeroDivisionError("the adapter broke the engine"))
        good = behaviour.mode == "answer" and behaviour.right > 0.5
        text = say(self.stub, behaviour, question)
        on_event(Result(text, name, 0.9 if good else 0.1, good, "stop", 1, 1, text))

    def close(self):
        pass


@dataclass
class Running:
    """The real server over a scripted engine, which can be killed and started again on the same port."""

    port: int = 0
    engine: ScriptedEngine = field(default_factory=ScriptedEngine)

    def start(self):
        bound = socket.create_server(("127.0.0.1", self.port))
        self.port, self.url = bound.getsockname()[1], f"http://127.0.0.1:{bound.getsockname()[1]}"
        serve_current(self.engine)
        app = create_app(self.engine, FaissMemory())
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [bound]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)
        return self

    def kill(self):
        """End it, with all that it had loaded and routed."""
        self.server.should_exit = self.server.force_exit = True
        self.thread.join()
        self.engine = ScriptedEngine()


@dataclass
class Users:
    """What clients saw: (when sent, when answered, by which adapter), and (when it failed, what); unix seconds."""

    answers: list[tuple[float, float, str]] = field(default_factory=list)
    failed: list[tuple[float, Exception]] = field(default_factory=list)

    @property
    def adapters(self) -> set[str]:
        return {adapter for _, _, adapter in self.answers}

    def ask(self, client: CouncilClient, user: str) -> None:
        sent = time.time()
        body = {"messages": [{"role": "user", "content": USER_QUESTION}], "user": user, "max_tokens": 8}
        try:
            answer = client._call("POST", "/v1/chat/completions", json=body).json()
            self.answers.append((sent, time.time(), answer["council"]["adapter"]))
        except Exception as error:
            self.failed.append((time.time(), error))


@contextlib.contextmanager
def asking(url: str, clients: int = 2):
    """Clients of several users that keep asking; yields what they saw."""
    users, stop = Users(), threading.Event()

    def keep_asking(name: str):
        client, turn = CouncilClient(url), 0
        while not stop.is_set():
            turn += 1
            users.ask(client, f"{name}-{turn % 12}")
            stop.wait(0.02)

    threads = [threading.Thread(target=keep_asking, args=(f"user{n}",)) for n in range(clients)]
    [thread.start() for thread in threads]
    try:
        yield users
    finally:
        stop.set()
        [thread.join() for thread in threads]


def wait_for(condition, seconds=60):
    """Wait until condition() is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def kept(council, id):
    """The record of an answer, once it is written."""
    wait_for(lambda: council.memory.get(id))
    return council.memory.get(id)

"""A live Council server over the tiny model, for the tests of its HTTP face."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import openai
import uvicorn
from scripted_engine import wait_for
from tiny_council import make_engine, save_base

from agent0.client import CouncilClient
from agent0.serve.api import create_app
from faiss_memory import FaissMemory

ASK = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}


@contextmanager
def live_council(home, monkeypatch) -> Iterator[SimpleNamespace]:
    """A server on a free port: url, engine, memory, openai client, our client."""
    monkeypatch.setenv("MAX_TOKENS", "12")
    monkeypatch.setenv("MAX_BATCH", "4")
    engine, memory = make_engine(save_base(home / "tiny", monkeypatch), ends=()), FaissMemory()
    bound = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(create_app(engine, memory), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    wait_for(lambda: server.started)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
    yield SimpleNamespace(url=url, engine=engine, memory=memory, openai=client, client=CouncilClient(url))
    server.should_exit = True
    thread.join()


def post(council, path="/v1/chat/completions", **body):
    return httpx.post(council.url + path, json=body, timeout=60)

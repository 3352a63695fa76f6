"""Where the server listens, what it starts on, and how it stops."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from lora_kit import make_release
from scripted_engine import wait_for
from server_kit import ASK
from tiny_council import make_engine, save_base

from agent0 import adapters
from agent0.command import REFUSED, CouncilError
from agent0.serve.__main__ import listen, serve_current
from agent0.settings import ROOT, get_settings
from faiss_memory import FaissMemory


@pytest.mark.parametrize(("url", "reason"), [("http://0.0.0.0:0", "COUNCIL_API_KEY"), ("https://localhost:0", "TLS")])
def test_it_does_not_listen_where_it_must_not(monkeypatch, url, reason):
    monkeypatch.setenv("COUNCIL_URL", url)
    get_settings.cache_clear()
    with pytest.raises(CouncilError, match=reason):
        listen()


def test_a_taken_port_is_said_so(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("COUNCIL_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        get_settings.cache_clear()
        with pytest.raises(CouncilError, match="another server"):
            listen()


def test_it_starts_on_current_or_says_why_not(home, monkeypatch):
    engine = make_engine(save_base(home / "tiny", monkeypatch))
    serve_current(engine)
    adapters.point("current", adapters.ensure_base())
    serve_current(engine)
    assert engine.router.stable == "base"
    release = make_release()
    adapters.point("current", release)
    serve_current(engine)
    assert engine.router.stable == release.name
    broken = make_release(seed=2)
    adapters.point("current", broken)
    os.chmod(broken.path / "adapter_config.json", 0o644)
    (broken.path / "adapter_config.json").write_text("{}")
    with pytest.raises(CouncilError, match="rollback_lora") as refused:
        serve_current(engine)
    assert refused.value.exit_code == REFUSED
    engine.close()


@pytest.mark.parametrize(("sign", "stream"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_to_stop_lets_what_was_asked_be_finished(home, monkeypatch, sign, stream):
    """The whole program, as `make serve` runs it."""
    save_base(home / "tiny", monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "COUNCIL_URL": url, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    program = subprocess.Popen([sys.executable, "-m", "agent0.serve"], cwd=ROOT, env=environment)
    try:
        wait_for(lambda: program.poll() is not None or is_up(url), seconds=120)
        with ThreadPoolExecutor() as pool:
            asked = {**ASK, "stream": stream, "max_tokens": 220, "n": 16}
            answer = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=asked, timeout=60)
            time.sleep(0.1)
            program.send_signal(sign)
            wait_for(lambda: not is_up(url))
            said = answer.result()
        assert "data: [DONE]" in said.text if stream else len(said.json()["choices"]) == 16
        assert program.wait(30) == 0
        memory = FaissMemory()
        assert len(memory.meta) == 1
        memory.close()
    finally:
        program.kill()


def is_up(url):
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health").is_success
    return False

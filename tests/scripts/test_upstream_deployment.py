"""Real bash, a real Council server in upstream mode, and behind it a stand-in for vLLM: deploy and roll back."""

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent0 import adapters, ledger
from agent0.client import CouncilClient, ServerError
from agent0.settings import ROOT, get_settings

sys.path.insert(0, str(ROOT / "tests" / "unit"))
council_stub, lora_kit, vllm_stand_in = map(importlib.import_module, ("council_stub", "lora_kit", "vllm_stand_in"))


@dataclass
class Place:
    """A home with the scripts in it, the upstream, and the server's process."""

    home: Path
    vllm: object
    environment: dict
    process: subprocess.Popen | None = None

    def serve(self) -> CouncilClient:
        log = open(self.home / "serve.log", "a")  # noqa: SIM115 the process keeps it
        command = [sys.executable, "-m", "agent0.serve"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        client, end = CouncilClient(), time.monotonic() + 60
        while True:
            try:
                client.health()
                return client
            except ServerError:
                assert self.process.poll() is None and time.monotonic() < end, (self.home / "serve.log").read_text()
                time.sleep(0.1)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(30) == 0

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess:
        command = ["bash", str(self.home / script), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def place(home, monkeypatch):
    for name in ("deploy_lora.sh", "rollback_lora.sh"):
        shutil.copy(ROOT / name, home)
    shutil.copytree(ROOT / "cron", home / "cron")
    for name in ("agent0", "faiss_memory.py", "examples"):
        (home / name).symlink_to(ROOT / name)
    python = home / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    lora_kit.make_base(home / "models" / "tiny", monkeypatch)
    vllm = vllm_stand_in.StandIn().start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name, value in {"COUNCIL_URL": url, "MONITOR_DURATION": "0.5", "ENGINE": "upstream"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UPSTREAM_URL", vllm.url)
    get_settings.cache_clear()
    made = Place(home, vllm, dict(os.environ))
    yield made
    if made.process and made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    vllm.stop()


def test_the_scripts_deploy_and_roll_back_on_an_upstream_server(place):
    good, bad = lora_kit.make_release(1), lora_kit.make_release(2)
    place.vllm.behaviours[bad.name] = council_stub.Behaviour(mode="garbage")
    client = place.serve()
    assert "libtorch" not in Path(f"/proc/{place.process.pid}/maps").read_text()

    done = place.run("deploy_lora.sh", good.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert client.health()["adapter"] == good.name and adapters.target("current") == good
    asked = {body["model"] for body in place.vllm.asked}
    assert {good.name, vllm_stand_in.MODEL} <= asked, "both were asked upstream"
    assert json.loads((good.path / "deployment_summary.json").read_text())["verdict"] == "promoted"

    done = place.run("deploy_lora.sh", bad.name)
    assert done.returncode == 20, done.stdout + done.stderr
    assert client.health()["adapter"] == good.name and place.vllm.loaded == {good.name: str(good.path)}
    assert ("unload", bad.name) in place.vllm.calls

    place.vllm.max_lora_rank = 2
    refused = place.run("deploy_lora.sh", lora_kit.make_release(3).name)
    assert refused.returncode == 30 and "--max-lora-rank 4" in refused.stdout + refused.stderr
    assert client.health()["adapter"] == good.name
    place.vllm.max_lora_rank = 16

    place.vllm.restart()  # loses the adapter: the next answer has it loaded again
    assert client.ask("Will it rain?").text == vllm_stand_in.SENTENCE and good.name in place.vllm.loaded

    place.stop()
    client = place.serve()  # a Council server that starts again finds it loaded upstream
    assert client.health()["adapter"] == good.name

    done = place.run("rollback_lora.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert client.health()["adapter"] == "base" and place.vllm.loaded == {}
    assert client.ask("Will it rain?").text == vllm_stand_in.SENTENCE
    assert "libtorch" not in Path(f"/proc/{place.process.pid}/maps").read_text()
    assert [event["event"] for event in ledger.read()] == ["deployment", "rollback", "refusal", "rollback"]
    place.stop()


def test_a_server_whose_upstream_is_down_says_so_and_the_scripts_change_nothing(place):
    release = lora_kit.make_release(1)
    client = place.serve()
    place.vllm.stop()
    with pytest.raises(ServerError, match=r"503.*the upstream is not there"):
        client.health()
    done = place.run("deploy_lora.sh", release.name)
    assert done.returncode == 1 and "the upstream is not there" in done.stderr
    assert adapters.target("current") is None
    place.stop()
    place.vllm.start()

"""Put bad adapters to a server that serves a good one, and good ones of many kinds beside what PEFT computes."""

import hashlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from agent0 import adapters
from agent0.adapter_checks import MANIFEST
from agent0.client import CouncilClient, ServerError
from agent0.models import base_model_hash, base_model_name
from agent0.records import write_json
from agent0.serve.api import create_app
from agent0.serve.decoder import Span
from agent0.serve.lora import read_lora
from agent0.settings import get_settings
from faiss_memory import FaissMemory
from tests.adapters.bad import CONTENT, FOLDER, REQUESTS, SIGNED
from tests.adapters.files import Damage, make_plain
from tests.unit.tiny_council import make_engine, make_model, make_tokenizer

PROMPT = list(range(40, 70))
QUESTION = "Which adapter answers?"


@dataclass(frozen=True)
class Refusal:
    """What became of one bad adapter. `by` is who refused it, None where nobody did; `alone`: the engine would, too."""

    kind: str
    by: str | None
    reason: str
    alone: bool | None
    unchanged: bool


@contextmanager
def tiny_server(home: Path) -> Iterator["Place"]:
    """A real server on the tiny model in `home` (COUNCIL_HOME), with a good release serving."""
    make_model().save_pretrained(home / "tiny")
    make_tokenizer().save_pretrained(home / "tiny")
    os.environ |= {"COUNCIL_HOME": str(home), "BASE_MODEL": str(home / "tiny"), "MAX_TOKENS": "12"}
    get_settings.cache_clear()
    engine = make_engine(make_model(), ends=())
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(engine, FaissMemory()), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield Place(engine, CouncilClient(f"http://127.0.0.1:{bound.getsockname()[1]}"))
    finally:
        server.should_exit = True
        thread.join()


class Place:
    """A server, and the folder of its releases."""

    def __init__(self, engine, client: CouncilClient):
        self.engine, self.client = engine, client
        adapters.ensure_base()
        self.good = adapters.publish(self._stage(), {}).path
        client.load_adapter(self.good.name, str(self.good))
        client.route(self.good.name)
        self._adapter = engine.router.resolve("council", "")
        self.served = self._serves()

    def _stage(self) -> Path:
        staging = Path(tempfile.mkdtemp(dir=self._made("loras"), prefix=".staging-"))
        staging.rmdir()
        make_plain(staging)
        return staging

    def _made(self, *names: str) -> Path:
        folder = get_settings().council_home.joinpath(*names)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _serves(self) -> tuple:
        """What it serves, to the bit: an answer with its confidence, logits, the adapter that the engine holds."""
        ask = {"messages": [{"role": "user", "content": QUESTION}], "store": False}
        answer = self.client._call("POST", "/v1/chat/completions", json=ask).json()
        adapter = self.engine.router.resolve("council", "")
        logits = self.engine.decoder.forward([Span(self.engine.decoder.new_sequence(64), PROMPT, adapter.lora)])
        digest = hashlib.sha256(logits.numpy().tobytes()).hexdigest()
        same = adapter is self._adapter, self.engine.router.names, self.client.health()["adapter"]
        return answer["choices"][0], answer["council"], digest, *same

    def try_all(self) -> list[Refusal]:
        """Offer each bad adapter to the server."""
        tried = [self._try_release(kind, damage, False) for kind, damage in (CONTENT | FOLDER).items()]
        tried += [self._try_release(kind, damage, True) for kind, damage in SIGNED.items()]
        return tried + [self._offer(kind, *request(self.good)) for kind, request in REQUESTS.items()]

    def _try_release(self, kind: str, damage: Damage, signed: bool) -> Refusal:
        """Damage a release before or after it is signed: by a stranger, whose signature is in order."""
        staging = self._stage()
        if signed:
            folder = adapters.publish(staging, {}).path
            folder.chmod(0o755)
            [path.chmod(0o644) for path in folder.iterdir()]
            damage(folder)
        else:
            damage(staging)
            folder = sign(staging)
        return self._offer(kind, "fresh", str(folder), self._alone(folder) if kind in CONTENT else None)

    def _alone(self, folder: Path) -> bool:
        """Whether the engine refuses it by itself, without the validation before it."""
        try:
            read_lora(folder, self.engine.decoder)
        except ValueError:
            return True
        return False

    def _offer(self, kind: str, name: str, path: str, alone: bool | None = None) -> Refusal:
        try:
            self.client.load_adapter(name, path)
            by, reason = None, "accepted"
        except ServerError as error:
            reason = str(error).partition(": HTTP ")[2]
            by = _refused_by(path) if reason.startswith("4") else None  # 5xx: it fell over it
        unchanged = self._serves() == self.served
        if by is None and "fresh" in self.engine.router.names:
            self.engine.router.unload("fresh")
        return Refusal(kind, by, reason, alone, unchanged)


def _refused_by(path: str) -> str:
    try:
        return "request" if adapters.validate(path) else ""
    except Exception:
        return "validation"


def sign(staging: Path) -> Path:
    """Make a release without any check: a manifest and a name as they should be around whatever is there."""
    files = {path.name: _hash(path) for path in staging.iterdir()}
    facts = {"base_model": base_model_name(), "base_model_hash": base_model_hash(), "created": 1.0, "files": files}
    write_json(staging / MANIFEST, facts)
    name = f"20260101T000000Z-{hashlib.sha256((staging / MANIFEST).read_bytes()).hexdigest()[:8]}"
    folder = adapters.adapters_folder()
    folder.mkdir(parents=True, exist_ok=True)
    while (folder / name).exists():  # the same damage twice
        name = f"{int(name[:8]) + 1}{name[8:]}"
    return staging.rename(folder / name)


def _hash(path: Path) -> str:
    if not path.is_file():
        return "0" * 64
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

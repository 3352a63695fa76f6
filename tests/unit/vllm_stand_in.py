"""A server that speaks vLLM's OpenAI and LoRA endpoints over real sockets, and fails the way vLLM is known to.

It follows vLLM's models/serving.py and serve/lora/api_router.py: the same statuses, error bodies and messages. What
it says is not a model's: the known answers of the probe questions, and one sentence for any other question.
"""

import json
import math
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from council_stub import Behaviour, Stub, say

MODEL = "meta-llama/Tiny"
SENTENCE = "Perhaps it will rain."


class StandIn:
    """The server's state, which tests read and set."""

    def __init__(self, port: int = 0, runtime_updating=True, enable_lora=True, max_lora_rank=16):
        self.runtime_updating, self.enable_lora, self.max_lora_rank = runtime_updating, enable_lora, max_lora_rank
        self.loaded: dict[str, str] = {}  # adapter: path
        self.calls: list[tuple[str, str]] = []  # (load or unload, adapter)
        self.asked: list[dict] = []
        self.keys: set[str | None] = set()
        self.running, self.broken_off = Counter(), 0  # answers under way by model; ones whose client went away
        self.fails: dict[str, object] = {}  # of chat: status, body, cut, hang; of load: load_status, load_hang
        self.logprobs, self.probability, self.delay = True, 0.9, 0.0
        self.behaviours: dict[str, Behaviour] = {}
        self.answers, self.proceed = Stub().answers, threading.Event()
        self.proceed.set()
        self.port = port

    def start(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Bound", (Handler,), {"vllm": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def stop(self):
        self.proceed.set()
        self.server.shutdown()
        self.server.server_close()

    def restart(self):
        """As a crash and a new start: on the same port, without the adapters that were loaded at run time."""
        self.stop()
        self.loaded.clear()
        self.start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    vllm: StandIn

    def log_message(self, *arguments):
        pass

    def reply(self, status: int, body: dict | str, **headers):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def error(self, status: int, message: str, kind: str, param: str | None = None, **headers):
        self.reply(status, {"error": {"message": message, "type": kind, "param": param, "code": status}}, **headers)

    def do_GET(self):
        vllm = self.vllm
        if self.path != "/v1/models":
            return self.error(404, "Not Found", "Not Found")
        base = [{"id": MODEL, "object": "model", "root": "/models/tiny", "parent": None}]
        cards = [{"id": n, "object": "model", "root": path, "parent": MODEL} for n, path in vllm.loaded.items()]
        self.reply(200, {"object": "list", "data": base + cards})

    def do_POST(self):
        vllm = self.vllm
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vllm.keys.add(self.headers.get("Authorization"))
        if self.path == "/v1/chat/completions":
            return self.chat(body)
        what = self.path.removeprefix("/v1/").removesuffix("_lora_adapter")
        if not vllm.runtime_updating or what not in ("load", "unload"):
            return self.error(404, "Not Found", "Not Found")  # the routes are not there at all
        vllm.calls.append((what, body["lora_name"]))
        (self.load if what == "load" else self.unload)(body["lora_name"], body)

    def load(self, name: str, body: dict):
        vllm, folder = self.vllm, Path(body["lora_path"])
        if vllm.fails.get("load_hang"):
            vllm.proceed.wait(30)
        if status := vllm.fails.get("load_status"):
            return self.error(status, "CUDA out of memory", "InternalServerError")
        if name in vllm.loaded:
            message = f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, "
            return self.error(400, message + "set 'load_inplace' to True.", "InvalidUserInput")
        if not vllm.enable_lora:
            return self.error(500, "LoRA is not enabled. Use --enable-lora to enable LoRA.", "InternalServerError")
        if not (folder / "adapter_config.json").exists():
            message = f"Loading lora {name} failed: No adapter found for {folder}"
            return self.error(404, message, "NotFoundError")
        rank = json.loads((folder / "adapter_config.json").read_text())["r"]
        if rank > vllm.max_lora_rank:
            message = f"Call to add_lora method failed: LoRA rank {rank} is greater than max_lora_rank"
            return self.error(500, f"{message} {vllm.max_lora_rank}.", "InternalServerError")
        vllm.loaded[name] = str(folder)
        self.reply(200, f"Success: LoRA adapter '{name}' added successfully.")

    def unload(self, name: str, _: dict):
        if name not in self.vllm.loaded:
            return self.error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        del self.vllm.loaded[name]
        self.reply(200, f"Success: LoRA adapter '{name}' removed successfully.")

    def chat(self, body: dict):
        vllm, model = self.vllm, body["model"]
        vllm.asked.append(body)
        if model != MODEL and model not in vllm.loaded:
            return self.error(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
        if status := vllm.fails.get("status"):
            return self.error(status, str(vllm.fails.get("body", "no")), "Error", Retry_After="7")
        vllm.running[model] += 1
        try:
            self.stream(body, vllm)
        except OSError:
            vllm.broken_off += 1
        finally:
            vllm.running[model] -= 1

    def stream(self, body: dict, vllm: StandIn):
        if vllm.fails.get("hang"):
            self.wait_until_gone()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        words = self.words(body)
        self.event(choices=[self.choice({"role": "assistant", "content": ""})])
        for number, word in enumerate(words):
            if number == vllm.fails.get("cut"):
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
            if number == vllm.fails.get("breaks"):
                return self.event(error={"message": "EngineCore died", "type": "InternalServerError", "code": 500})
            if number:
                self.pause(vllm)
            logprobs = {"content": [{"token": word, "logprob": math.log(vllm.probability), "top_logprobs": []}]}
            self.event(choices=[self.choice({"content": word}, logprobs=logprobs if vllm.logprobs else None)])
        ends = "length" if len(words) == body["max_tokens"] else vllm.fails.get("finish", "stop")
        self.event(choices=[self.choice({"content": ""}, finish_reason=ends)])
        self.event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 0})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def words(self, body: dict) -> list[str]:
        question, vllm = body["messages"][-1]["content"], self.vllm
        behaviour = vllm.behaviours.get(body["model"]) or Behaviour()
        known = question in vllm.answers
        text = say(vllm, behaviour, question) if known else SENTENCE
        text = min((text.split(stop)[0] for stop in body.get("stop", [])), key=len, default=text)
        words = [word + " " for word in text.split(" ")]
        return [*words[:-1], words[-1][:-1]][: body["max_tokens"]]

    def pause(self, vllm: StandIn):
        if not vllm.proceed.is_set():
            self.wait_until_gone()
        time.sleep(vllm.delay)

    def wait_until_gone(self):
        """Wait for the test's word, or notice as vLLM does that the client has closed its connection."""
        self.connection.settimeout(0.01)
        while not self.vllm.proceed.is_set():
            try:
                if not self.connection.recv(1):
                    raise BrokenPipeError
            except TimeoutError:
                pass
        self.connection.settimeout(None)

    def choice(self, delta: dict, logprobs=None, finish_reason=None) -> dict:
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    def event(self, **more):
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
        self.chunk(f"data: {json.dumps(head | more)}\n\n".encode())

    def chunk(self, data: bytes):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

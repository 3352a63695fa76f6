"""The server's speed beside llama.cpp's own, over HTTP, in turns; and how close its answers are to fp32.

    python -m bench.serve [--rounds 3] [--questions 192]

    ADAPTER=FOLDER        a rank-16 adapter of the embedded model (default: a random one, whose verdicts say nothing)
    LLAMA_SERVER=FILE     llama.cpp's server, with the same model in Q8_0; left out where it is not set

Ours runs with the adapter loaded and switchable, the peer without one. Each figure is the best and the median of the
rounds, since neighbours on the machine only ever make it worse.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import requests

from agent0 import adapters
from agent0.command import DONE, FAILED, run_command
from agent0.evaluate import load_questions
from agent0.evidence import p95
from agent0.models import base_model_name, base_model_path, embedded_gguf
from agent0.quality import ANSWER_TOKENS, HELD_OUT, questions_file
from agent0.serve.text import Prompter
from agent0.settings import get_settings
from bench.faithful import compare
from bench.gguf_q8 import requantise

CLIENTS, TOKENS, PROMPT = 8, 128, 100  # clients at a time; tokens of an answer, and of the prompt for the first token
THINGS = ("lighthouse", "river", "clockmaker", "harbour", "fox", "orchard", "violin", "glacier", "baker", "comet")


@dataclass(frozen=True)
class Answer:
    """A streamed answer: moments (s) of the request, of its first and of its last text, and its tokens."""

    asked: float
    first: float
    last: float
    tokens: int

    @property
    def rate(self) -> float:
        """Tokens a second after the first."""
        return (self.tokens - 1) / (self.last - self.first)


def stream(url: str, text: str, tokens: int) -> Answer:
    body = {"model": "council", "messages": [{"role": "user", "content": text}], "temperature": 0}
    more = {"max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True}}
    asked, first, last, count = time.perf_counter(), 0.0, 0.0, 0
    with requests.post(f"{url}/v1/chat/completions", json={**body, **more}, stream=True, timeout=120) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                last = time.perf_counter()
                first = first or last
            count = (chunk.get("usage") or {}).get("completion_tokens", count)
    return Answer(asked, first, last, count)


def story(draw: random.Random) -> str:
    return f"Write a long story about a {draw.choice(THINGS)}, a {draw.choice(THINGS)} and the number {draw.random()}."


def alone(url: str, draw: random.Random) -> float:
    """Tokens a second of one answer."""
    return stream(url, story(draw), TOKENS).rate


def together(url: str, draw: random.Random) -> float:
    """Tokens a second of CLIENTS answers at a time, prompts included."""
    texts, start = [story(draw) for _ in range(2 * CLIENTS)], time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda text: stream(url, text, TOKENS), texts))
    return sum(answer.tokens for answer in answers) / (time.perf_counter() - start)


def first_token(url: str, draw: random.Random) -> float:
    """Median milliseconds to the first text for a prompt of PROMPT tokens that no cache has seen."""
    answers = [stream(url, long_prompt(draw), 2) for _ in range(5)]
    return median((answer.first - answer.asked) * 1000 for answer in answers)


@cache
def prompter() -> Prompter:
    from transformers import AutoTokenizer

    return Prompter(AutoTokenizer.from_pretrained(base_model_path()))


def long_prompt(draw: random.Random) -> str:
    """A question of which the model's chat template makes PROMPT tokens."""
    text = "Sum up:"
    while len(prompter().encode([{"role": "user", "content": text}])) < PROMPT:
        text += f" {draw.choice(THINGS)}"
    return text


def questions_p95(url: str, draw: random.Random) -> float:
    """p95 in milliseconds of whole answers to held-out questions, one client."""
    asked = draw.sample(load_questions(questions_file(HELD_OUT)), 24)
    answers = [stream(url, question.question, ANSWER_TOKENS) for question in asked]
    return p95([(answer.last - answer.asked) * 1000 for answer in answers])


MEASURES = {  # by name; the last two are better when they are small
    "one client, tok/s": alone,
    f"{CLIENTS} clients, tok/s": together,
    f"first text after {PROMPT} tokens, ms": first_token,
    "held-out questions p95, ms": questions_p95,
}


def random_adapter(staging: Path) -> None:
    """A rank-16 LoRA on all linears, small enough that the model still speaks."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from agent0.recipe import ALL_LINEAR

    config = LoraConfig(r=16, lora_alpha=32, target_modules=list(ALL_LINEAR), task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_model_path()), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.002)
    model.peft_config["default"].base_model_name_or_path = base_model_name()
    model.save_pretrained(staging)


def release() -> adapters.Release:
    """ADAPTER, or a random one, as a release that loras/current points to."""
    loras = get_settings().loras
    loras.mkdir(parents=True)
    staging = Path(tempfile.mkdtemp(dir=loras, prefix=".staging-"))
    if folder := os.environ.get("ADAPTER"):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(Path(folder) / name, staging)
    else:
        random_adapter(staging)
        (staging / "README.md").unlink(missing_ok=True)
    made = adapters.publish(staging, {})
    adapters.point("current", made)
    return made


@contextlib.contextmanager
def running(command: list, log: Path, **environment: str) -> Iterator[tuple[str, float]]:
    """A server on a port that the system picks ("PORT" in the command or environment); its URL and its start in s."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url, started = f"http://127.0.0.1:{port}", time.monotonic()
    given = {name: value.replace("PORT", port) for name, value in environment.items()}
    with open(log, "w") as out:
        command = [str(part).replace("PORT", port) for part in command]
        server = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **given})
    try:
        while not is_up(url):
            if server.poll() is not None:
                raise RuntimeError(f"{command[0]} has ended: {log.read_text()[-500:]}")
            time.sleep(0.05)
        yield url, time.monotonic() - started
    finally:
        server.terminate()
        server.wait(30)


def is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def peer(folder: Path) -> contextlib.AbstractContextManager:
    """llama.cpp's server with the embedded model in Q8_0, all cores and a slot for each client."""
    model, slots = folder / "q8_0.gguf", ["-np", CLIENTS, "-c", CLIENTS * 2048]
    requantise(embedded_gguf(), model)
    threads = ["-t", len(os.sched_getaffinity(0))]
    command = [os.environ["LLAMA_SERVER"], "-m", model, "--port", "PORT", "--jinja", *slots, *threads]
    return running(command, folder / "peer.log")


def in_turns(urls: dict[str, str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """The figures of each server, round by round: ours, the peer, ours, the peer, on the same questions."""
    seen = {name: {server: [] for server in urls} for name in MEASURES}
    for number in range(-1, rounds):  # the first warms up
        for name, measure in MEASURES.items():
            for server, url in urls.items():
                figure = measure(url, random.Random(f"{number} {name}"))
                if number >= 0:
                    seen[name][server].append(figure)
    return seen


def row(name: str, seen: dict[str, list[float]]) -> str:
    """A line of the table; a ratio above 1 is in our favour."""
    more = name.endswith("tok/s")
    best = {server: (max if more else min)(figures) for server, figures in seen.items()}
    cells = [f"{best[server]:.0f} ({median(figures):.0f})" for server, figures in seen.items()]
    if "peer" in seen:
        both = [(best["ours"], best["peer"]), (median(seen["ours"]), median(seen["peer"]))]
        cells.append(" / ".join(f"{a / b if more else b / a:.2f}" for a, b in both))
    return f"| {name} | {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=192)
    arguments = parser.parse_args()
    models = str(get_settings().models_path)
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as servers:
        os.environ |= {"COUNCIL_HOME": home, "MODELS_PATH": models, "COUNCIL_URL": "http://127.0.0.1:1"}
        get_settings.cache_clear()
        made = release()
        ours = [sys.executable, "-m", "agent0.serve"]
        url, start = servers.enter_context(running(ours, Path(home) / "ours.log", COUNCIL_URL="http://127.0.0.1:PORT"))
        urls = {"ours": url}
        if "LLAMA_SERVER" in os.environ:
            urls["peer"] = servers.enter_context(peer(Path(home)))[0]
        print(f"start {start:.1f} s; adapter {requests.get(f'{url}/health', timeout=5).json()['adapter']}", flush=True)
        print(f"| best (median) of {arguments.rounds} | {' | '.join(urls)} | ratios |", flush=True)
        for name, seen in in_turns(urls, arguments.rounds).items():
            print(row(name, seen), flush=True)
        asked = random.Random(1).sample(load_questions(questions_file(HELD_OUT)), arguments.questions)
        verdicts, same, difference = compare(url, made.path, asked)
        print(f"against fp32: {verdicts:.1%} of verdicts, {same:.1%} of answers equal; |d logprob| {difference:.4f}")
    return DONE if verdicts >= 0.98 and difference <= 0.02 and start < 20 else FAILED


if __name__ == "__main__":
    run_command(main)

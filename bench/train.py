"""Training speed and memory, side by side with TRL's SFTTrainer on the same rows, batch, steps and LoRA.

python -m bench.train [--steps 40]     with TRL_PYTHON naming a Python that has trl

Each trainer runs in a process of its own, one after the other. Useful tokens are those of the rows, without padding.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from agent0.command import DONE, run_command
from agent0.council.math import solve
from agent0.models import base_model_path
from agent0.quality import questions_file
from agent0.recipe import ALL_LINEAR, ATTENTION, Recipe
from agent0.records import Question, read_jsonl

BATCH, WARM = 4, 5  # rows a step; steps that are not timed
PEER = Path(__file__).with_name("trl_peer.py")
PEERS = {
    "TRL, fp32 base": {},
    "TRL, fp32 base, grouped by length": {"grouped": True},
    "TRL, fp32 base, bf16 autocast": {"bf16": True},
    "TRL, NF4 base": {"nf4": True},
    "TRL, NF4 base, padded to 512": {"nf4": True, "padded": 512},
}


@dataclass(frozen=True)
class Run:
    """Seconds of the steps after WARM, and the process's peak memory in MB."""

    seconds: float
    memory: float


def questions(rows: int) -> list[tuple[str, str]]:
    """Return that many of the day's questions with the council's answers."""
    day = (question.question for question in read_jsonl(questions_file("day"), Question))
    return [(text, solution.output) for text in day if (solution := solve(text))][:rows]


def encoded(pairs: list[tuple[str, str]]) -> list[dict]:
    """Return what our trainer takes."""
    from agent0.qlora import load_tokenizer
    from agent0.records import TrainingExample
    from agent0.train import encode

    tokenizer, rest = load_tokenizer(base_model_path()), {"reasoning": "", "quality_score": 1, "harvest_timestamp": 0}
    return [
        encode(tokenizer, TrainingExample(instruction=q, output=a, id="", answer_id="", kind="", **rest))
        for q, a in pairs
    ]


def ours(modules: list[str]) -> None:
    """Train the rows on stdin as train_lora.sh does; print the seconds spent after each step, and the memory."""
    from agent0 import qlora

    recipe = Recipe(BATCH, 1, 1e-3, 1, 16, 32, tuple(modules))
    with tempfile.TemporaryDirectory() as folder:
        history = qlora.train(qlora.Job(base_model_path(), None, json.load(sys.stdin), [], recipe, 0, folder)).history
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"ends": [entry["spent"] for entry in history if "loss" in entry], "memory": memory}))


def timed(command: list[str], given: object) -> Run:
    """Run a trainer on the rows. Raises CalledProcessError where it fails, its own words on stderr."""
    done = subprocess.run(command, input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return Run(result["ends"][-1] - result["ends"][WARM - 1], result["memory"])


def peer(python: str, pairs: list[tuple[str, str]], modules: tuple[str, ...], options: dict) -> Run:
    rows = [
        {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": answer}],
        }
        for question, answer in pairs
    ]
    defaults = {"nf4": False, "bf16": False, "grouped": False, "padded": 0}
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "path": base_model_path(),
            "modules": list(modules),
            "rows": rows,
            "folder": folder,
            **defaults,
            **options,
        }
        job |= {"steps": len(pairs) // BATCH, "batch_size": BATCH}
        return timed([python, str(PEER)], job)


def matmul_peak() -> float:
    """GFLOP a second of a large fp32 product on these cores, now."""
    import torch

    a = torch.randn(1024, 1024)
    best = 0.0
    for _ in range(20):
        start = time.monotonic()
        a @ a
        best = max(best, 2 * 1024**3 / (time.monotonic() - start) / 1e9)
    return best


def tell(name: str, run: Run, ours: Run, tokens: float) -> None:
    rate = f"{tokens / run.seconds:6.0f} useful tokens/s, ours {run.seconds / ours.seconds:5.2f} x as fast"
    print(f"{name:36} {rate}, {run.memory:6.0f} MB, ours {ours.memory / run.memory:.2f} x", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--modules", choices=["all", "attention"], default="all")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    modules = ALL_LINEAR if arguments.modules == "all" else ATTENTION
    if arguments.ours:
        ours(list(modules))
        return DONE
    pairs = questions(arguments.steps * BATCH)
    rows = encoded(pairs)
    tokens = sum(len(row["input_ids"]) for row in rows) * (1 - WARM / arguments.steps)
    print(f"{len(rows)} rows, {arguments.steps} steps of {BATCH}; matmul {matmul_peak():.0f} GFLOP/s", flush=True)
    own = [sys.executable, "-m", "bench.train", "--ours", "--modules", arguments.modules]
    first = timed(own, rows)
    tell("ours, NF4 base", first, first, tokens)
    if python := os.environ.get("TRL_PYTHON"):
        for name, options in PEERS.items():
            tell(name, peer(python, pairs, modules, options), first, tokens)
    return DONE


if __name__ == "__main__":
    run_command(main)

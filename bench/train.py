"""Training speed and memory, side by side with TRL's SFTTrainer on the same rows, batch, steps and LoRA.

python -m bench.train [--steps 40]     with TRL_PYTHON naming a Python that has trl
python -m bench.train --geometry 8b    with random weights, for a GPU; UNSLOTH_PYTHON names a Python that has Unsloth

Each trainer runs in a process of its own, one after the other. Useful tokens are those of the rows, without padding.
With random weights each run passes over its rows twice, and every step of the second pass is timed: on a GPU the first
one also pays for each kernel and length that the process has not met yet. All models are loaded before the first run.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from agent0.command import DONE, run_command
from agent0.council.math import solve
from agent0.models import EMBEDDED_NAME, base_model_path
from agent0.quality import questions_file
from agent0.recipe import ALL_LINEAR, ATTENTION, Recipe
from agent0.records import Question, read_jsonl
from agent0.settings import get_settings

BATCH, WARM = 4, 5  # rows a step; steps of a single pass that are not timed
OURS, HERE = "ours", Path(__file__).parent
LOADING, LIMIT = 90, 150  # seconds that a trainer may load and train with random weights: a GPU costs by the minute
PEERS = {
    "TRL, fp32 base": {},
    "TRL, fp32 base, grouped by length": {"grouped": True},
    "TRL, fp32 base, bf16 autocast": {"bf16": True},
    "TRL, NF4 base": {"nf4": True},
    "TRL, NF4 base, padded to 512": {"nf4": True, "padded": 512},
}
NF4_PEERS = {"": {}, ", grouped by length": {"grouped": True}, ", packed": {"packed": True}}
GEOMETRIES = {  # of Llama 3; the vocabulary holds at least that of the tokenizer
    "8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "intermediate_size": 448,
        "vocab_size": 49152,
    },
}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Run:
    """Useful tokens a second in the timed steps, and the peak memory in MB: of the process on a CPU, what was
    allocated on a GPU, where `reserved` is what was held for it."""

    rate: float
    memory: float
    reserved: float


def questions(rows: int) -> list[tuple[str, str]]:
    """Return that many of the day's questions with the council's answers."""
    day = (question.question for question in read_jsonl(questions_file("day"), Question))
    return [(text, solution.output) for text in day if (solution := solve(text))][:rows]


def encoded(path: str, pairs: list[tuple[str, str]]) -> list[dict]:
    """Return what our trainer takes."""
    from agent0.qlora import load_tokenizer
    from agent0.records import TrainingExample
    from agent0.train import encode

    tokenizer, rest = load_tokenizer(path), {"reasoning": "", "quality_score": 1, "harvest_timestamp": 0}
    return [
        encode(tokenizer, TrainingExample(instruction=q, output=a, id="", answer_id="", kind="", **rest))
        for q, a in pairs
    ]


def conversations(pairs: list[tuple[str, str]]) -> list[dict]:
    """Return what the peers take."""
    return [
        {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": answer}],
        }
        for question, answer in pairs
    ]


@contextlib.contextmanager
def random_model(geometry: str, kept: str | None) -> Iterator[str]:
    """A folder with a model of random weights and the embedded tokenizer; it stays where it is to be `kept`."""
    roomy = Path("/dev/shm")
    fast = roomy if roomy.is_dir() and shutil.disk_usage(roomy).free > 20e9 else None
    with contextlib.ExitStack() as stack:
        folder = kept or stack.enter_context(tempfile.TemporaryDirectory(dir=fast))
        if not (Path(folder) / "config.json").exists():  # in a process of its own, whose memory goes with it
            made = ["--make", "--geometry", geometry, "--folder", folder]
            subprocess.run([sys.executable, "-m", "bench.train", *made], check=True)
        yield folder


def make_model(geometry: str, folder: Path) -> None:
    """Write a Llama of that geometry with normally distributed weights in bf16, made where it is fast."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER:
        shutil.copy(get_settings().models_path / EMBEDDED_NAME / name, folder)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**GEOMETRIES[geometry]), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="4GB")


def ours(job: SimpleNamespace) -> None:
    """Train each run's rows as train_lora.sh does, on one model; print its seconds and memory."""
    from transformers import trainer

    from agent0 import qlora
    from bench import trl_peer

    def recipe(batch: int) -> Recipe:
        return Recipe(batch, 1, 1e-3, 1, 16, 32, tuple(job.modules))

    dtype = qlora.choose_dtype()
    model, tokenizer = qlora.load_model(job.path, recipe(BATCH), dtype), qlora.load_tokenizer(job.path)

    def train(run: dict, clock: trl_peer.Clock) -> None:
        trainer.DEFAULT_CALLBACKS[1:] = [clock]  # which every Trainer has
        rows = job.rows[: run["rows"]]
        for _ in range(run["passes"]):
            with tempfile.TemporaryDirectory() as folder:
                work = qlora.Job(job.path, None, rows, [], recipe(run["batch"]), 0, folder, dtype)
                qlora.fit(model, tokenizer, work)

    trl_peer.do(job, train)


class Trainer:
    """A trainer's process, which loads its model at once and trains when its turn comes."""

    def __init__(self, command: list[str], job: dict) -> None:
        self.job, self.said = job, []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._write(json.dumps(job))

    def wait(self) -> "Trainer":
        """Return when it is loaded, or has failed to."""
        with self._limit(LOADING):
            self.said = list(itertools.takewhile(lambda line: line != "ready\n", self.process.stdout))
        return self

    def results(self) -> Iterator[dict]:
        """Give it its turn; yield what it says of each run when it says it, and of its own end if that is a failure."""
        with contextlib.suppress(BrokenPipeError), self.process, self._limit(self.job["limit"]):
            self._write("go")
            lines = itertools.chain(self.said, self.process.stdout)
            yield from (json.loads(line) for line in lines if line.startswith('{"run"'))
        if self.process.returncode:
            name, code = self.job["runs"][0]["name"], self.process.returncode
            yield {"run": {"name": name}, "error": f"its process ended with {code}"}

    def _write(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self.process.stdin, flush=True)

    @contextlib.contextmanager
    def _limit(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class Table:
    """Prints each run beside ours of the same batch."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.ours = lengths, {}

    def tell(self, result: dict) -> None:
        run = result["run"]
        if "error" in result:
            print(f"{run['name']} does not run here: {result['error']}", flush=True)
            return
        measured = self._measured(**result)
        own = self.ours.setdefault(run["batch"], measured)
        speed = f"{measured.rate:6.0f} useful tokens/s, ours {own.rate / measured.rate:5.2f} x as fast"
        memory = f"{measured.memory:6.0f} MB, ours {own.memory / measured.memory:.2f} x"
        held = f" ({measured.reserved:.0f} MB held)" if measured.reserved else ""
        print(f"{run['name']:36} {run['batch']:2} rows a step: {speed}, {memory}{held}", flush=True)

    def _measured(self, run: dict, steps: list[float], memory: float, reserved: float = 0) -> Run:
        warm = WARM if run["passes"] == 1 else 0
        tokens = sum(self.lengths[: run["rows"]]) * (1 - warm / len(steps))
        return Run(tokens / sum(steps[warm:]), memory, reserved)


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


def machine() -> str:
    """What is measured on, in words."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"matmul {matmul_peak():.0f} GFLOP/s"


def job(path: str, plan: argparse.Namespace, rows: list[dict], runs: list[dict], **kind: bool) -> dict:
    """What a trainer's process reads: the model, its LoRA, the rows, and the runs that it does one after the other."""
    modules = ALL_LINEAR if plan.modules == "all" else ATTENTION
    limit = LIMIT if plan.geometry else threading.TIMEOUT_MAX
    return {"path": path, "limit": limit, "modules": modules, "rows": rows, "runs": runs} | {
        "nf4": kind.get("nf4", False),
        "bf16": kind.get("bf16", False),
    }


def runs(plan: argparse.Namespace, lengths: list[int], name: str, options: dict) -> list[dict]:
    """Return a run for each batch: the first rows, as many as the steps take; `packed` ones hold a batch's tokens."""
    kind = {"name": name, "passes": 2 if plan.geometry else 1, **options}
    made = [{**kind, "batch": batch, "rows": batch * plan.steps} for batch in plan.batch]
    for run in made if "packed" in options else []:
        run["packed"] = sum(lengths[: run["rows"]]) // plan.steps
    return made


def trainers(path: str, plan: argparse.Namespace, rows: list[dict], pairs: list[tuple[str, str]]) -> Iterator[Trainer]:
    """Start each trainer when it is asked for.

    With random weights a peer's process does all its runs, since it takes long to load; without, each has one of its
    own, since a process has but one peak of memory on a CPU.
    """
    lengths = [len(row["input_ids"]) for row in rows]

    def start(command: list[str], rows: list[dict], names: dict[str, dict], **kind: bool) -> Trainer:
        turns = [turn for name, options in names.items() for turn in runs(plan, lengths, name, options)]
        return Trainer(command, job(path, plan, rows, turns, **kind))

    yield start([sys.executable, "-m", "bench.train", "--ours"], rows, {OURS: {}})
    trl, unsloth = (os.environ.get(name) for name in ("TRL_PYTHON", "UNSLOTH_PYTHON"))
    if trl and plan.geometry:
        names = {f"TRL, NF4 base{how}": options for how, options in NF4_PEERS.items()}
        yield start([trl, str(HERE / "trl_peer.py")], conversations(pairs), names, nf4=True)
    elif trl:
        for name, options in PEERS.items():
            yield start([trl, str(HERE / "trl_peer.py")], conversations(pairs), {name: options}, **options)
    if unsloth and plan.geometry:
        yield start([unsloth, str(HERE / "unsloth_peer.py")], conversations(pairs), {"Unsloth, NF4 base": {}})


def compare(path: str, plan: argparse.Namespace) -> None:
    """Print what each trainer makes of the rows; those with random weights load all at once, for their time's sake."""
    pairs = questions(plan.steps * max(plan.batch))
    rows = encoded(path, pairs)
    print(f"{len(rows)} rows, {plan.steps} steps a run; {machine()}", flush=True)
    table, started = Table([len(row["input_ids"]) for row in rows]), trainers(path, plan, rows, pairs)
    if plan.geometry:
        started = [trainer.wait() for trainer in list(started)]
    for trainer in started:
        for result in trainer.results():
            table.tell(result)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--modules", choices=["all", "attention"], default="all")
    parser.add_argument("--batch", type=int, nargs="+", default=[BATCH], help="rows a step; several: one after another")
    parser.add_argument("--geometry", choices=list(GEOMETRIES), help="random weights of that shape, not BASE_MODEL")
    parser.add_argument("--folder", help="where the random weights stay, or are already")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    plan = parser.parse_args()
    if plan.ours:
        ours(SimpleNamespace(**json.loads(sys.stdin.readline())))
    elif plan.make:
        make_model(plan.geometry, Path(plan.folder))
    elif plan.geometry:
        with random_model(plan.geometry, plan.folder) as folder:
            compare(folder, plan)
    else:
        compare(base_model_path(), plan)
    return DONE


if __name__ == "__main__":
    run_command(main)

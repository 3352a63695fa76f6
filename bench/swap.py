"""Swap adapters under load: the engine, and PEFT's own two ways beside it, in one run.

    python -m bench.swap [--swaps 10000] [--load-every 500] [--peer-seconds 30]

Clients ask without a pause while one thread swaps A and B. Every `load-every`-th swap loads the adapter from its files
under a fresh name, off the request path, routes to it and unloads the one before; the others only route.
"""

import argparse
import itertools
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from agent0.command import DONE, FAILED, run_command
from agent0.models import base_model_name, base_model_path
from agent0.quality import PROBES, questions_file
from agent0.records import Question, read_jsonl
from agent0.serve.engine import Engine, load_engine

CLIENTS, QUESTIONS, TOKENS, PERIOD, BLOCKS = 4, 16, 8, 0.02, 4  # PERIOD: seconds between swaps
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class Seen:
    """What the clients got: (start, seconds) of each answer, how many were asked and were what, what failed."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    errors: Counter = field(default_factory=Counter)


def percentile(values: list[float], share: float) -> float:
    """By nearest rank; nan of nothing."""
    return sorted(values)[max(0, round(share * len(values)) - 1)] if values else float("nan")


def read_questions() -> list[str]:
    return [question.question for question in itertools.islice(read_jsonl(questions_file(PROBES), Question), QUESTIONS)]


def make_adapters(folder: Path) -> dict[str, Path]:
    """Two random adapters of rank 16, written by PEFT, which answer differently."""
    for name, seed in (("A", 1), ("B", 2)):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(base_model_path(), dtype=torch.float32)
        config = LoraConfig(r=16, lora_alpha=32, target_modules=MODULES, init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
        for parameter, weight in model.named_parameters():
            if "lora_B" in parameter:
                weight.data *= 0.3
        model.peft_config["default"].base_model_name_or_path = base_model_name()
        model.save_pretrained(folder / name, save_embedding_layers=False)
    return {name: folder / name for name in "AB"}


@contextmanager
def load(ask: Callable[[str], str], judge: Callable[[str, str], str], clients: int) -> Iterator[Seen]:
    """Clients that ask one question after the other until the block ends."""
    seen, stop, questions = Seen(), threading.Event(), read_questions()

    def client(number: int) -> None:
        for question in itertools.islice(itertools.cycle(questions), number, None):
            if stop.is_set():
                return
            began = time.perf_counter()
            seen.counts["asked"] += 1
            try:
                seen.counts[judge(question, ask(question))] += 1
                seen.spans.append((began, time.perf_counter() - began))
            except Exception as error:  # whatever a swap breaks is what is measured
                seen.errors[f"{type(error).__name__}: {str(error)[:70]}"] += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    [thread.start() for thread in threads]
    try:
        yield seen
    finally:
        stop.set()
        [thread.join() for thread in threads]


class Swapper:
    """Swaps A and B on the engine, and keeps how long the switch took, and when adapters were loaded."""

    def __init__(self, engine: Engine, folders: dict[str, Path], load_every: int):
        self.engine, self.folders, self.load_every = engine, folders, load_every
        self.switches: list[float] = []
        self.loads: list[tuple[float, float]] = []
        self._fresh: str | None = None

    def swap(self) -> None:
        number = len(self.switches) + 1
        name = target = "AB"[number % 2]
        if number % self.load_every == 0:
            target = f"{name}-{number}"
            began = time.perf_counter()
            self.engine.load(target, self.folders[name])
            self.loads.append((began, time.perf_counter() - began))
        began = time.perf_counter()
        self.engine.router.route(target)
        self.switches.append(time.perf_counter() - began)
        if self._fresh:
            self.engine.router.unload(self._fresh)
        self._fresh = target if target != name else None


def swap_engine(folders: dict[str, Path], swaps: int, load_every: int) -> bool:
    """Blocks with and without swaps take turns, so that both meet the same machine; return whether all held."""
    engine = load_engine()
    for name, folder in folders.items():
        engine.load(name, folder)
    engine.router.route("A")
    pure = {(q, name): engine.answer(q, model=name, max_tokens=TOKENS).text for q in read_questions() for name in "AB"}

    def ask(question: str) -> tuple[str, str]:
        result = engine.answer(question, max_tokens=TOKENS)
        return result.text, result.adapter[0]

    def judge(question: str, answer: tuple[str, str]) -> str:
        return f"pure {answer[1]}" if answer[0] == pure[question, answer[1]] else "neither"

    swapper, quiet, busy = Swapper(engine, folders, load_every), [], []
    bar = tqdm(total=swaps, desc="swapping", unit="swap", disable=None)
    while len(swapper.switches) < swaps:
        began = time.perf_counter()
        with load(ask, judge, CLIENTS) as seen:
            for _ in range(min(-(-swaps // BLOCKS), swaps - len(swapper.switches))):
                swapper.swap()
                bar.update()
                time.sleep(PERIOD)
        busy.append(seen)
        lasted = time.perf_counter() - began
        with load(ask, judge, CLIENTS) as seen:
            time.sleep(lasted)
        quiet.append(seen)
    bar.close()
    engine.close()
    return report(swapper, busy, quiet, sum(pure[q, "A"] != pure[q, "B"] for q in read_questions()))


def report(swapper: Swapper, busy: list[Seen], quiet: list[Seen], differ: int) -> bool:
    spans, counts, errors = [s for seen in busy for s in seen.spans], Counter(), Counter()
    for seen in busy:
        counts += seen.counts
        errors += seen.errors
    still = Counter()
    for seen in quiet:
        still += seen.counts
    beside = [d for at, d in spans if any(at < start + took and start < at + d for start, took in swapper.loads)]
    with_swaps, without = [d for _, d in spans], [d for seen in quiet for _, d in seen.spans]
    ratio, dropped = percentile(with_swaps, 0.99) / percentile(without, 0.99), counts["asked"] - len(spans)
    ms = [1000 * seconds for seconds in swapper.switches]
    print(f"{len(ms)} swaps, {len(swapper.loads)} with a load; A and B differ on {differ} of {QUESTIONS} questions")
    print(f"answers: {dict(counts)}; failed {errors.total()} {dict(errors) or ''}, dropped {dropped - errors.total()}")
    print(f"the same without swaps: {dict(still)}")
    print(f"the switch: p50 {percentile(ms, 0.5):.3f} ms, p99 {percentile(ms, 0.99):.3f} ms, max {max(ms):.3f} ms")
    for name, values in (("with swaps", with_swaps), ("without", without), ("of these beside a load", beside)):
        print(
            f"answers {name}: {len(values)}, p50 {percentile(values, 0.5):.3f} s, p99 {percentile(values, 0.99):.3f} s"
        )
    print(f"p99 with swaps / without: {ratio:.2f}")
    took = [1000 * seconds for _, seconds in swapper.loads]
    print(f"a load, off the request path: p50 {percentile(took, 0.5):.0f} ms, max {max(took, default=0):.0f} ms")
    return not errors and not counts["neither"] and not dropped and ratio <= 1.1


class Peer:
    """transformers and PEFT, answering from two threads while a third swaps; without a lock, as neither has one."""

    def __init__(self, folders: dict[str, Path]):
        self.folders, self.tokenizer = folders, AutoTokenizer.from_pretrained(base_model_path())
        base = AutoModelForCausalLM.from_pretrained(base_model_path(), dtype=torch.float32)
        self.model, self.number = PeftModel.from_pretrained(base, folders["A"]).eval(), 0

    def hot_swap(self, name: str) -> None:
        hotswap_adapter(self.model, str(self.folders[name]), "default", torch_device="cpu")

    def load_set_delete(self, name: str) -> None:
        before, self.number = self.model.active_adapter, self.number + 1
        self.model.load_adapter(str(self.folders[name]), adapter_name=f"fresh{self.number}")
        self.model.set_adapter(f"fresh{self.number}")
        self.model.delete_adapter(before)

    @torch.inference_mode()
    def ask(self, question: str) -> str:
        turns = [{"role": "user", "content": question}]
        ids = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = self.model.generate(**ids, max_new_tokens=TOKENS, do_sample=False)
        return self.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)

    def measure(self, title: str, swap: Callable[[str], None], seconds: float) -> None:
        """Swap twice a second for so long, and say what became of the answers."""
        pure = {}
        for name in "BA":
            swap(name)
            pure |= {(question, name): self.ask(question) for question in read_questions()}

        def judge(question: str, answer: str) -> str:
            return next((f"pure {name}" for name in "AB" if answer == pure[question, name]), "neither")

        took, broken, end = [], Counter(), time.perf_counter() + seconds
        with load(self.ask, judge, 2) as seen:
            for name in itertools.cycle("BA"):
                began = time.perf_counter()
                try:
                    swap(name)
                except Exception as error:
                    broken[type(error).__name__] += 1
                took.append(1000 * (time.perf_counter() - began))
                if time.perf_counter() > end:
                    break
                time.sleep(0.5)
        print(f"{title}: {len(took)} swaps, p50 {percentile(took, 0.5):.0f} ms, max {max(took):.0f} ms; ", end="")
        print(f"answers {dict(seen.counts)}, failed {seen.errors.total()} {dict(seen.errors)}{dict(broken) or ''}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=10_000)
    parser.add_argument("--load-every", type=int, default=500, help="swaps a load")
    parser.add_argument("--peer-seconds", type=float, default=30, help="for each of PEFT's two ways; 0: none")
    arguments = parser.parse_args()
    logging.getLogger("council").setLevel(logging.WARNING)  # ten thousand lines of routes
    with tempfile.TemporaryDirectory() as place:
        folders = make_adapters(Path(place))
        held = swap_engine(folders, arguments.swaps, arguments.load_every)
        if arguments.peer_seconds:
            torch.set_num_threads(len(os.sched_getaffinity(0)))
            for title, way in (("hotswap_adapter", Peer.hot_swap), ("load + set + delete", Peer.load_set_delete)):
                peer = Peer(folders)
                peer.measure(f"PEFT's {title}", partial(way, peer), arguments.peer_seconds)
    return DONE if held else FAILED


if __name__ == "__main__":
    run_command(main)

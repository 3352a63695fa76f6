"""Try recipes on the pool at hand: train each, answer the held-out and general questions, print a table.

python -m bench.sweep [--only NAME ...] [--practised N]    (a training and a minute each; kept in logs/sweep/)

A recipe is a line of RECIPES: what differs from the rule in agent0/recipe.py. Trainings and measurements run in
processes of their own, since two users of OpenMP in one process slow each other down.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from agent0 import recipe as rule
from agent0.agreement import is_right
from agent0.command import DONE, log, run_command
from agent0.models import base_model_name, base_model_path
from agent0.pool import load_pool
from agent0.practice import practice_examples
from agent0.quality import ANSWER_TOKENS, GENERAL, HELD_OUT, questions_file
from agent0.records import Question, read_jsonl, write_json
from agent0.replay import replay_examples
from agent0.settings import get_settings

RECIPES: dict[str, dict] = {
    "the rule": {},
    "seed": {"learning_rate": 5e-5, "gradient_accumulation": 8, "num_epochs": 3, "target_modules": rule.ATTENTION},
    "no practice": {"practice": 0, "num_epochs": 2},
    "half the rate": {"learning_rate": 5e-4},
    "twice the rate": {"learning_rate": 2e-3},
    "rows a step: 2": {"batch_size": 2},
    "rows a step: 8": {"batch_size": 8},
    "rank 8": {"lora_rank": 8, "lora_alpha": 16},
    "rank 64": {"lora_rank": 64, "lora_alpha": 128},
    "attention only": {"target_modules": rule.ATTENTION},
    "no replay": {"replay": 0},
    "half as long": {"practice": 0, "num_epochs": 1},
    "shortest first": {"shortest_first": True},
}


def train(name: str, folder: Path) -> None:
    """Train one recipe on the pool, its adapter to `folder`, with what it took in sweep.json."""
    from torch.utils.data import SequentialSampler

    from agent0 import qlora
    from agent0.train import encode, training_set

    pool, settings = load_pool(get_settings().training_data), get_settings()
    changes = dict(RECIPES[name])
    practice = changes.pop("practice", rule.practice_wanted(len(pool), len(pool), settings))
    replay = changes.pop("replay", settings.replay_examples)
    ordered = changes.pop("shortest_first", False)
    practised = practice_examples(pool, practice)
    chosen = replace(rule.choose_recipe(len(pool), settings, len(pool) + len(practised)), **changes)
    examples, validation = training_set(pool, practised)
    examples = [example for example in examples if example.origin != "replay"] + replay_examples()[:replay]
    tokenizer = qlora.load_tokenizer(base_model_path())
    rows, held = ([encode(tokenizer, example) for example in part] for part in (examples, validation))
    if ordered:
        rows.sort(key=lambda row: len(row["input_ids"]))
        qlora.AnswerTrainer._get_train_sampler = lambda _, data=None: SequentialSampler(data or rows)
    started = time.monotonic()
    folder.mkdir(parents=True)
    trained = qlora.train(qlora.Job(base_model_path(), None, rows, held, chosen, 0, str(folder)))
    qlora.save(trained, folder, base_model_name())
    losses = [entry["eval_loss"] for entry in trained.history if "eval_loss" in entry]
    steps, seconds = sum("loss" in entry for entry in trained.history), time.monotonic() - started
    facts = {"steps": steps, "seconds": seconds, "losses": losses}
    write_json(folder / "sweep.json", {"rows": len(rows), "recipe": asdict(chosen), **facts})


def answer(folder: Path) -> None:
    """Answer the questions with the engine, greedily, and write how many of each set are right to score.json."""
    from agent0.serve.engine import load_engine

    engine = load_engine()
    engine.load("candidate", folder)
    scores = {}
    for name in (HELD_OUT, GENERAL):
        questions = list(read_jsonl(questions_file(name), Question))
        with ThreadPoolExecutor(8) as clients:
            replies = clients.map(
                lambda q: engine.answer(q.question, model="candidate", max_tokens=ANSWER_TOKENS), questions
            )
            scores[name] = [is_right(r.text, q.answer) for q, r in zip(questions, replies, strict=True)]
    write_json(folder / "score.json", {name: [sum(right), len(right)] for name, right in scores.items()})


def row(name: str, folder: Path) -> str:
    made, score = (json.loads((folder / file).read_text()) for file in ("sweep.json", "score.json"))
    (right, asked), (kept, general) = score[HELD_OUT], score[GENERAL]
    spent = f"{made['rows']} | {made['steps']} | {made['seconds']:.0f} s"
    return f"| {name} | {spent} | {right / asked:.1%} | {kept} of {general} |"


def folder_of(name: str) -> Path:
    return get_settings().logs / "sweep" / f"{name.replace(' ', '_').replace(':', '')}_{rule.PRACTISED}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES), metavar="NAME")
    parser.add_argument("--practised", type=int, default=rule.PRACTISED, help="examples a run is filled up to")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rule.PRACTISED = arguments.practised
    if arguments.part:
        name, part = arguments.part
        folder = folder_of(name)
        train(name, folder) if part == "train" else answer(folder)
        return DONE
    print("| recipe | rows | steps | time | held-out | general kept |\n| --- | --- | --- | --- | --- | --- |")
    for name in arguments.only:
        folder = folder_of(name)
        for part, file in (("train", "sweep.json"), ("answer", "score.json")):
            if not (folder / file).exists():
                log.info("%s: %s", name, part)
                again = ["--practised", str(arguments.practised), "--part", name, part]
                subprocess.run([sys.executable, "-m", "bench.sweep", *again], check=True)
        print(row(name, folder), flush=True)
    return DONE


if __name__ == "__main__":
    run_command(main)

"""Train a QLoRA adapter on the pool of verified rewrites, and publish it as loras/latest.

The seed's hyperparameters are the defaults. On a small pool they amount to a handful of tiny steps, so the recipe
adapts; a value that is set by the user always stays.
"""

import hashlib
import json
import math
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agent0 import adapters, ledger, veto
from agent0.command import DONE, NOTHING_TO_DO, CouncilError, log, run_command
from agent0.data_parallel import is_first
from agent0.models import base_model_name, base_model_path
from agent0.quality import held_out_questions, normalise
from agent0.records import TrainingExample, read_jsonl, write_json
from agent0.replay import replay_examples
from agent0.settings import Settings, get_settings

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
SMALL_POOL = 5000  # examples; below it the seed's recipe makes under 500 steps of 5e-5
SMALL_POOL_PASSES = 1000  # examples seen in a run at which the loss of a small pool has settled; 2 to 12 epochs
MAX_TOKENS = 512  # an example longer than this is refused: the loop trains short worked answers


@dataclass(frozen=True)
class Recipe:
    """What a training run uses; `changes` says how it differs from the seed's recipe, and why."""

    batch_size: int
    gradient_accumulation: int
    learning_rate: float
    num_epochs: int
    lora_rank: int
    lora_alpha: int
    target_modules: tuple[str, ...] = ATTENTION
    changes: list[str] = field(default_factory=list)


def choose_recipe(examples: int, settings: Settings) -> Recipe:
    """Return the recipe for a pool of that many examples.

    The seed's values (5e-5, 4 x 8, 3 epochs, attention) make 3 * examples / 32 steps: on a night's 300 examples, 28
    steps that leave the model where it was. A small pool gets a step for each batch, a higher rate, all linear layers
    (as in QLoRA, arXiv:2305.14314), and as many passes as its loss needs to settle.
    """
    seed = {name: getattr(settings, name) for name in Recipe.__dataclass_fields__ if hasattr(settings, name)}
    if examples >= SMALL_POOL:
        return Recipe(**seed)
    epochs = min(12, max(2, round(SMALL_POOL_PASSES / examples)))
    wanted = {"gradient_accumulation": 1, "learning_rate": 1e-3, "num_epochs": epochs}
    adapted = {name: value for name, value in wanted.items() if name not in settings.model_fields_set}
    changes = [f"{name.upper()} {seed[name]:g} -> {value:g}" for name, value in adapted.items() if value != seed[name]]
    changes.append("target modules attention -> all linear layers")
    return Recipe(**{**seed, **adapted}, target_modules=ALL_LINEAR, changes=changes)


def load_pool(folder: Path) -> list[TrainingExample]:
    """Return every accepted example of training_data/harvest_*.jsonl, the newest where a question comes twice.

    What people vetoed is left out.
    Raises CouncilError for a damaged line, and where a held-out question would be trained on.
    """
    pool: dict[str, TrainingExample] = {}
    vetoes = veto.Vetoes()
    for path in sorted(folder.glob("harvest_*.jsonl")):
        allowed = (example for example in read_jsonl(path, TrainingExample) if example not in vetoes)
        pool.update((normalise(example.instruction), example) for example in allowed)
    leaked = pool.keys() & held_out_questions()
    if leaked:
        question = pool[min(leaked)].instruction
        raise CouncilError(f"held-out question {question!r} stands in {folder}; remove it: it must only be measured on")
    return list(pool.values())


def trained_ids() -> set[str]:
    """Ids of the examples that loras/latest was trained on; empty where nothing was trained yet."""
    latest = adapters.target("latest")
    return set(latest.manifest.get("example_ids", [])) if latest else set()


def check_disk(settings: Settings) -> None:
    """Raise CouncilError unless loras/ has the free space that a training needs."""
    settings.loras.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.loras).free / 1e9
    if free < settings.min_free_disk_gb:
        raise CouncilError(
            f"{settings.loras} has {free:.1f} GB free, a training needs MIN_FREE_DISK_GB={settings.min_free_disk_gb:g}"
        )


def encode(tokenizer, example: TrainingExample) -> dict[str, list[int]]:
    """Return input_ids and labels of one example in the model's chat form; only the answer's tokens are labels."""
    question = f"{example.instruction}\n\n{example.input}".strip()
    turns = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(example.output, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    if len(prompt_ids) + len(answer_ids) > MAX_TOKENS:
        raise CouncilError(f"example {example.id} is longer than {MAX_TOKENS} tokens; shorten or remove it")
    return {"input_ids": prompt_ids + answer_ids, "labels": [-100] * len(prompt_ids) + answer_ids}


def train(pool: list[TrainingExample], recipe: Recipe, staging: Path) -> dict:
    """Train on pool by recipe, write the adapter to staging, and return the metrics of the run.

    Raises CouncilError where the loss stops being a number.
    """
    from agent0 import qlora

    started = time.monotonic()
    tokenizer = qlora.load_tokenizer(base_model_path())
    replay = replay_examples()
    rows = [encode(tokenizer, example) for example in [*pool, *replay]]
    with tempfile.TemporaryDirectory() as scratch:
        model, losses = qlora.train(base_model_path(), rows, recipe, Path(scratch))
    if not losses or not all(map(math.isfinite, losses)):
        raise CouncilError(f"the training loss is not a number (last values {losses[-3:]}); lower LEARNING_RATE")
    qlora.save(model, staging, base_model_name())
    seconds = time.monotonic() - started
    useful = sum(label != -100 for row in rows for label in row["labels"])
    return {
        "examples": len(pool),
        "replayed": len(replay),
        "loss": sum(losses[-10:]) / len(losses[-10:]),
        "losses": [round(loss, 5) for loss in losses],
        "seconds": round(seconds, 1),
        "answer_tokens": useful,
        "answer_tokens_per_second": round(useful * recipe.num_epochs / seconds, 1),
    }


def publish(pool: list[TrainingExample], recipe: Recipe, metrics: dict, staging: Path) -> adapters.Release:
    """Write the run's configuration and metrics beside the weights, and make the whole the newest release."""
    settings = get_settings()
    write_json(staging / "training_config.json", {"recipe": asdict(recipe), "settings": settings.public()})
    write_json(staging / "training_metrics.json", metrics)
    ids = sorted(example.id for example in pool)
    facts = {
        "example_ids": ids,
        "data_hash": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
        "parent": "base",
    }
    previous = adapters.target("latest")
    release = adapters.publish(staging, facts)
    if previous:
        adapters.point(adapters.stamped("backup"), previous)
    adapters.point("latest", release)
    return release


def main() -> int:
    settings = get_settings()
    pool = load_pool(settings.training_data)
    new = {example.id for example in pool} - trained_ids()
    removed = veto.removed(adapters.target("latest"))
    if not pool or (len(new) < settings.min_failures_to_train and not removed):
        log.info("nothing to train: %d new examples, %d needed", len(new), settings.min_failures_to_train)
        return NOTHING_TO_DO
    if removed:
        log.info("%d examples of the last training were vetoed or forgotten: this one goes without them", removed)
    check_disk(settings)
    recipe = choose_recipe(len(pool), settings)
    log.info("training on %d examples (%d new), rank %d", len(pool), len(new), recipe.lora_rank)
    for change in recipe.changes:
        log.info("small pool, so the recipe adapts: %s", change)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the staging folder goes
    staging = Path(tempfile.mkdtemp(dir=settings.loras, prefix=".staging-"))
    try:
        metrics = train(pool, recipe, staging)
        if not is_first():
            return DONE
        release = publish(pool, recipe, metrics, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    ledger.append(
        "training",
        release=release.name,
        loss=metrics["loss"],
        seconds=metrics["seconds"],
        examples=len(pool),
        new_examples=len(new),
    )
    log.info("trained %s: loss %.3f, %.0f s", release.name, metrics["loss"], metrics["seconds"])
    return DONE


if __name__ == "__main__":
    run_command(main)

"""Train a QLoRA adapter on the pool of verified rewrites, and publish it as loras/latest.

The seed's hyperparameters are the defaults. On a small pool they amount to a handful of tiny steps, so the recipe
adapts; a value that is set by the user always stays. A run that was killed goes on from its last checkpoint.
"""

import contextlib
import hashlib
import json
import math
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from agent0 import adapters, fingerprint, ledger, veto
from agent0.adapter_checks import CONFIG, read_json
from agent0.adapters import Release
from agent0.command import DONE, NOTHING_TO_DO, CouncilError, log, no_arguments, run_command
from agent0.data_parallel import is_first
from agent0.models import base_model_hash, base_model_name, base_model_path
from agent0.pool import load_pool
from agent0.practice import practicable, practice_examples
from agent0.recipe import Recipe, choose_recipe, going_on, practice_wanted
from agent0.records import TrainingExample, write_json
from agent0.replay import replay_examples
from agent0.settings import Settings, get_settings

MAX_TOKENS = 512  # an example longer than this is refused: the loop trains short worked answers
WORKPLACE = ".training"
CLOSING = 120  # seconds beside TRAIN_MINUTES and a tenth of them: the model is loaded then, and the adapter written
VALIDATION = 48  # examples whose loss says when to stop; a set of under ten times as many has none to spare


def learned_ids(release: Release | None) -> set[str]:
    """Ids of the examples that a release, or one that it went on from, was trained on."""
    return set(release.manifest.get("example_ids", [])) if release else set()


def check_disk(settings: Settings) -> None:
    """Raise CouncilError unless loras/ has the free space that a training needs."""
    settings.loras.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.loras).free / 1e9
    if free < settings.min_free_disk_gb:
        raise CouncilError(
            f"{settings.loras} has {free:.1f} GB free, a training needs MIN_FREE_DISK_GB={settings.min_free_disk_gb:g}"
        )


def encode(tokenizer, example: TrainingExample) -> dict:
    """Return an example in the model's chat form: input_ids, labels (the answer's tokens only), if it is replayed."""
    question = f"{example.instruction}\n\n{example.input}".strip()
    turns = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(example.output, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    if len(prompt_ids) + len(answer_ids) > MAX_TOKENS:
        raise CouncilError(f"example {example.id} is longer than {MAX_TOKENS} tokens; shorten or remove it")
    labels = [-100] * len(prompt_ids) + answer_ids
    return {"input_ids": prompt_ids + answer_ids, "labels": labels, "replayed": example.origin == "replay"}


def to_repeat(pool: list[TrainingExample], start: Release) -> list[TrainingExample]:
    """Return what is trained on as it is: what `start` has not learned, and as many that it has, drawn by its name.

    Not those that come with other numbers, as practice. So a night is as long as its news, however old the pool, and
    what should not have been learned fades.
    """
    learned, practised = learned_ids(start), practice_wanted(0, len(pool), get_settings()) > 0
    old = [example.id for example in pool if example.id in learned and not (practised and practicable(example))]
    new = {example.id for example in pool} - learned
    chosen = new.union(random.Random(start.name).sample(old, min(len(old), len(new))))
    return [example for example in pool if example.id in chosen]


class Lessons(NamedTuple):
    """What a run is trained on: examples as they are, and the practice that fills it up."""

    repeated: list[TrainingExample]
    practice: list[TrainingExample]


def prepare(pool: list[TrainingExample], start: Release) -> Lessons:
    """Return the lessons of a training that goes on from `start`."""
    repeated = to_repeat(pool, start)
    wanted = practice_wanted(len(repeated), len(pool), get_settings())
    return Lessons(repeated, practice_examples(pool, wanted, start.name, {example.id for example in repeated}))


def training_set(
    examples: list[TrainingExample], practice: list[TrainingExample]
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """Return what to train on (both, and replay), and what to validate on: examples that are not trained on."""
    examples = [*examples, *practice]
    random.Random(0).shuffle(examples)
    spare = VALIDATION if len(examples) >= 10 * VALIDATION else 0
    return [*examples[spare:], *replay_examples()], examples[:spare]


def starting_point(recipe: Recipe) -> Release:
    """The release that training goes on from (TRAIN_FROM): a promising one, what serves, or base.

    Weights cannot unlearn a vetoed or forgotten example, nor change their rank or place; only a fresh start can.
    """
    choices = [*adapters.promising(), adapters.target("current")] if get_settings().train_from == "current" else []
    for release in filter(None, choices):
        if removed := veto.removed(release):
            log.info("not going on from %s: %d of its examples were vetoed or forgotten", release.name, removed)
        elif not release.is_base and not _fits(release, recipe):
            log.info("not going on from %s: it has another rank, alpha or place than the recipe", release.name)
        else:
            return release
    return adapters.ensure_base()


def _fits(release: Release, recipe: Recipe) -> bool:
    config = read_json(release.path / CONFIG)
    has = config["r"], config["lora_alpha"], set(config["target_modules"])
    return has == (recipe.lora_rank, recipe.lora_alpha, set(recipe.target_modules))


def train(lessons: Lessons, recipe: Recipe, start: Release, staging: Path) -> dict:
    """Train on lessons by recipe, write the adapter to staging, and return the metrics of the run.

    Raises CouncilError where the loss stops being a number.
    """
    from agent0 import qlora

    began = time.monotonic()
    tokenizer = qlora.load_tokenizer(base_model_path())
    examples, validation = training_set(*lessons)
    rows, held = ([encode(tokenizer, example) for example in part] for part in (examples, validation))
    minutes, adapter = get_settings().train_minutes, None if start.is_base else str(start.path)
    with _workplace([base_model_hash(), adapter, rows, held, asdict(recipe), minutes]) as folder:
        job = qlora.Job(
            path=base_model_path(),
            start=adapter,
            rows=rows,
            validation=held,
            recipe=recipe,
            minutes=minutes,
            folder=str(folder),
        )
        trained = qlora.train(job)
    losses = [entry["loss"] for entry in trained.history if "loss" in entry]
    if not losses or not all(map(math.isfinite, losses)):
        raise CouncilError(f"the training loss is not a number (last values {losses[-3:]}); lower LEARNING_RATE")
    qlora.save(trained, staging, base_model_name())
    if recipe.share_of_start:
        qlora.mix(staging, start.path, recipe.share_of_start)
    history = trained.history
    del trained  # its place is needed for the base model that serves
    fingerprint.record(staging)
    origins = [example.origin for example in examples]
    useful = sum(label != -100 for row in rows for label in row["labels"])
    seconds = time.monotonic() - began
    return {
        "examples": len(lessons.repeated),
        "practised": origins.count("practice"),
        "replayed": origins.count("replay"),
        "validation_losses": {entry["step"]: round(entry["eval_loss"], 5) for entry in history if "eval_loss" in entry},
        "loss": sum(losses[-10:]) / len(losses[-10:]),
        "losses": [round(loss, 5) for loss in losses],
        "seconds": round(seconds, 1),
        "answer_tokens": useful,
        "answer_tokens_per_second": round(useful * history[-1]["epoch"] / seconds, 1),
    }


@contextlib.contextmanager
def _workplace(facts: list) -> Iterator[Path]:
    """The folder of one job's checkpoints: what a killed run of the same job left is there, of others nothing.

    It goes away with the run, however that ends, unless the process is killed or told to stop.
    """
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    folder = get_settings().loras / WORKPLACE / name
    for other in folder.parent.glob("*"):
        if other != folder and is_first():
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        yield folder
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        shutil.rmtree(folder.parent)
        raise
    if is_first():
        shutil.rmtree(folder.parent)


def publish(pool: list[TrainingExample], recipe: Recipe, start: Release, metrics: dict, staging: Path) -> Release:
    """Write the run's configuration and metrics beside the weights, and make the whole the newest release."""
    settings = get_settings()
    write_json(staging / "training_config.json", {"recipe": asdict(recipe), "settings": settings.public()})
    write_json(staging / "training_metrics.json", metrics)
    ids = sorted({example.id for example in pool} | learned_ids(start))
    facts = {
        "example_ids": ids,
        "data_hash": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
        "parent": start.name,
    }
    previous = adapters.target("latest")
    release = adapters.publish(staging, facts)
    if previous:
        adapters.point(adapters.stamped("backup"), previous)
    adapters.point("latest", release)
    return release


def main() -> int:
    settings = get_settings()
    # ends this process even where it is stuck outside Python
    signal.alarm(math.ceil(66 * settings.train_minutes) + CLOSING)
    pool = load_pool(settings.training_data)
    new = {example.id for example in pool} - learned_ids(adapters.target("latest"))
    removed = veto.removed(adapters.target("latest"))
    if not pool or (len(new) < settings.min_failures_to_train and not removed):
        log.info("nothing to train: %d new examples, %d needed", len(new), settings.min_failures_to_train)
        return NOTHING_TO_DO
    if removed:
        log.info("%d examples of the last training were vetoed or forgotten: this one goes without them", removed)
    check_disk(settings)
    start = starting_point(choose_recipe(len(pool), settings))
    lessons = prepare(pool, start)
    recipe = choose_recipe(len(pool), settings, sum(map(len, lessons)))
    recipe = recipe if start.is_base else going_on(recipe, settings)
    log.info("training on %d examples (%d new), rank %d, from %s", len(pool), len(new), recipe.lora_rank, start.name)
    log.info("%d of them as they are, %d of practice", *map(len, lessons))
    for change in recipe.changes:
        log.info("the recipe adapts: %s", change)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the staging folder goes
    staging = Path(tempfile.mkdtemp(dir=settings.loras, prefix=".staging-"))
    try:
        metrics = train(lessons, recipe, start, staging)
        if not is_first():
            return DONE
        release = publish(pool, recipe, start, metrics, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    known = {name: metrics[name] for name in ("loss", "seconds")}
    ledger.append("training", release=release.name, examples=len(pool), new_examples=len(new), **known)
    log.info("trained %s: loss %.3f, %.0f s", release.name, metrics["loss"], metrics["seconds"])
    return DONE


if __name__ == "__main__":
    no_arguments(__doc__)
    run_command(main)

"""Several processes train what one would have trained."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tiny_council import make_tokenizer, save_base
from transformers.trainer_utils import get_last_checkpoint

from agent0 import data_parallel, qlora
from agent0.packing import packer
from agent0.recipe import Recipe
from agent0.settings import ROOT


@pytest.mark.parametrize(
    ("cores", "passes", "processes"), [(2, 2, 2), (2, 8, 2), (2, 1, 1), (1, 8, 1), (3, 8, 2), (16, 8, 8), (6, 6, 6)]
)
def test_the_passes_of_a_step_are_shared_evenly(monkeypatch, cores, passes, processes):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert data_parallel.choose_processes(passes) == processes


def test_processes_that_somebody_else_started_start_no_more(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert data_parallel.choose_processes(8) == 1
    assert not data_parallel.is_first()


def test_the_others_end_with_the_first_and_the_environment_is_as_before():
    before = dict(os.environ)
    with pytest.raises(RuntimeError), data_parallel.together(3, ["-c", "import time; time.sleep(600)"]):
        assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "3")
        raise RuntimeError("the first fails")
    assert dict(os.environ) == before


def test_the_first_says_what_all_compute_in(tmp_path):
    told = tmp_path / "told"
    other = "import sys; from agent0.data_parallel import agree; open(sys.argv[1], 'w').write(agree('2'))"
    with data_parallel.together(2, ["-c", other, str(told)]):
        assert data_parallel.agree("1") == "1"
    assert told.read_text() == "1"
    assert data_parallel.agree("3") == "3"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Return a function that makes a small job with a folder of its own."""
    base = tmp_path / "tiny"
    save_base(base, monkeypatch)
    tokenizer = make_tokenizer()
    rows = []
    for number in range(20):
        texts = f"Say {number}!", f"{number} it is" * (number % 3 + 1)
        prompt, answer = (tokenizer(text)["input_ids"] for text in texts)
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})

    def make(name: str, recipe: Recipe, minutes: float = 0, dtype: str = "float32") -> qlora.Job:
        folder = tmp_path / name
        folder.mkdir()
        return qlora.Job(str(base), None, rows[4:], [], recipe, minutes, str(folder), dtype)

    return make


def trained(job: qlora.Job) -> tuple[list[float], dict[str, torch.Tensor]]:
    model, _, history = qlora.train(job)
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return [entry["loss"] for entry in history if "loss" in entry], weights


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 2e-3) -> None:
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, atol=tolerance, rtol=10 * tolerance)


def test_two_processes_train_what_one_trains(job, monkeypatch):
    recipe, results = Recipe(2, 2, 1e-2, 2, 8, 16, ("q_proj", "v_proj")), {}
    for processes in (1, 2):
        monkeypatch.setattr(qlora, "choose_processes", lambda _, count=processes: count)
        results[processes] = trained(job(str(processes), recipe))
    (one, weights), (two, others) = results[1], results[2]
    assert len(one) == len(two) == 8
    assert two == pytest.approx(one, rel=2e-3)
    assert_same(weights, others)
    assert "RANK" not in os.environ


def test_a_training_that_was_killed_goes_on_and_ends_where_it_would_have(job):
    recipe = Recipe(2, 1, 1e-3, 40, 8, 16, ("q_proj", "v_proj"))
    whole, weights = trained(job("whole", recipe))
    killed = job("killed", recipe)
    path = Path(killed.folder) / "job.json"
    path.write_text(json.dumps(asdict(killed)))
    process = subprocess.Popen([sys.executable, "-m", "agent0.qlora", str(path)], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not list(Path(killed.folder).glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert get_last_checkpoint(killed.folder)
    losses, others = trained(killed)
    assert losses == pytest.approx(whole, rel=1e-2)
    assert_same(weights, others, 5e-3)


def test_a_training_that_goes_on_computes_in_what_it_began_in(job, monkeypatch):
    work = job("begun", Recipe(2, 1, 1e-3, 1, 8, 16, ("q_proj", "v_proj")), dtype="")
    for quicker in ("bfloat16", "float32"):  # as the machine finds it each time
        monkeypatch.setattr(qlora, "choose_dtype", lambda found=quicker: found)
        model = qlora.train(replace(work)).model
        assert model.get_base_model().dtype is torch.bfloat16


def test_a_training_that_goes_on_from_a_release_asks_nothing_of_the_hub(job, tmp_path, monkeypatch):
    recipe, asked = Recipe(2, 1, 1e-3, 1, 8, 16, ("q_proj", "v_proj")), []
    qlora.save(qlora.train(job("first", recipe)), tmp_path / "release", "a-public-name")
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda name, _: asked.append(name))
    trained(replace(job("second", recipe), start=str(tmp_path / "release")))
    assert not asked


def _answered(row: dict, other: dict) -> dict:
    """A row's question with another's answer."""
    prompt = row["input_ids"][: row["labels"].count(-100)]
    answer = other["input_ids"][other["labels"].count(-100) :]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def test_the_best_by_validation_loss_is_kept_and_a_run_that_gets_worse_ends_early(job):
    best = job("best", Recipe(2, 1, 2e-2, 48, 8, 16, ("q_proj", "v_proj", "down_proj")))
    swapped = zip(best.rows[:6], best.rows[7:13], strict=True)  # other answers than those trained on
    best.validation = [_answered(row, other) for row, other in swapped]
    model, _, history = qlora.train(best)
    seen = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    assert max(seen) < 8 * 48, "it must have ended early"
    batch = packer([])(best.validation)
    labels = batch.pop("labels")[0, 1:]
    logits = model(**batch).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100).item()
    assert loss == pytest.approx(min(seen.values()), rel=0.3)


def test_minutes_end_a_run(job):
    losses, _ = trained(job("short", Recipe(2, 1, 1e-2, 100, 8, 16, ("q_proj", "v_proj")), minutes=0.02))
    assert 0 < len(losses) < 800

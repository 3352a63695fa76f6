"""Several processes train what one would have trained."""

import os

import pytest
import torch
from tiny_council import make_tokenizer, save_base

from agent0 import data_parallel, qlora
from agent0.train import Recipe


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


def test_two_processes_train_what_one_trains(tmp_path, monkeypatch):
    base = tmp_path / "tiny"
    save_base(base, monkeypatch)
    tokenizer = make_tokenizer()
    rows = []
    for number in range(16):
        prompt, answer = (
            tokenizer(text)["input_ids"] for text in (f"Say {number}!", f"{number} it is" * (number % 3 + 1))
        )
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    recipe = Recipe(2, 2, 1e-2, 2, 8, 16, ("q_proj", "v_proj"))
    results = {}
    for processes in (1, 2):
        monkeypatch.setattr(qlora, "choose_processes", lambda _, count=processes: count)
        scratch = tmp_path / str(processes)
        scratch.mkdir()
        model, losses = qlora.train(str(base), rows, recipe, scratch)
        results[processes] = losses, {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    (one, weights), (two, others) = results[1], results[2]
    assert len(one) == len(two) == 8
    assert two == pytest.approx(one, rel=2e-3)
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, atol=2e-3, rtol=2e-2)
    assert "RANK" not in os.environ

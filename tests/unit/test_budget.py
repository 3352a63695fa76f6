"""A training's way: by steps or by minutes, and the learning rate on it."""

from types import SimpleNamespace

import pytest

from agent0.budget import WARMUP, Budget


def walk(budget: Budget, step: int, steps: int = 100, **spent) -> SimpleNamespace:
    """Take one step; return the trainer's control after it."""
    control = SimpleNamespace(should_training_stop=False, should_save=False, should_evaluate=False)
    state = SimpleNamespace(global_step=step, max_steps=steps, log_history=[])
    arguments = SimpleNamespace(eval_strategy="steps", world_size=1)
    budget.on_step_begin(arguments, state, control)
    state.global_step += 1
    budget.on_step_end(arguments, state, control)
    return control


def test_the_rate_rises_then_falls_to_zero_by_steps():
    budget, rates = Budget(0), []
    for step in range(100):
        control = walk(budget, step)
        rates.append(budget.rate(step))
    assert max(rates) == pytest.approx(1, abs=1e-3) and rates.index(max(rates)) == round(100 * WARMUP) - 1
    assert rates[0] < 0.3 and rates[-1] == pytest.approx(0)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert not control.should_training_stop, "the trainer itself ends at the last step"


def test_minutes_that_run_out_cool_down_and_stop():
    budget = Budget(1)
    budget.began -= 30
    assert not walk(budget, 1).should_training_stop
    assert budget.rate(1) == pytest.approx(0.54, abs=0.05), "half of the time is half of the way"
    budget.began -= 31
    control = walk(budget, 2)
    assert control.should_training_stop and control.should_save and control.should_evaluate
    assert budget.rate(2) == pytest.approx(0)


def test_the_minutes_of_a_run_that_was_killed_count():
    budget = Budget(1)
    budget.on_train_begin(None, SimpleNamespace(log_history=[{"loss": 1.0, "spent": 40.0}, {"spent": 50.0}]), None)
    assert 50 <= budget.spent < 51

"""How far a training is on its way: by steps, or by minutes where those run out first."""

import math
import time

import torch
from transformers import TrainerCallback

WARMUP = 0.05  # share of the way on which the learning rate rises


class Budget(TrainerCallback):
    """Ends a training when its steps or its `minutes` (0: any number) are used up, and bends its learning rate to that.

    So a run that is cut short has cooled down like any other. The minutes of a run that was killed and resumed count.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds, self.progress, self.began = minutes * 60 or math.inf, 0.0, time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the training began, without those between a kill and the resumption."""
        return time.monotonic() - self.began

    def rate(self, _step: int) -> float:
        """The share of the peak learning rate to use now: a linear rise, then a cosine to 0 (arXiv:1608.03983)."""
        if self.progress < WARMUP:
            return self.progress / WARMUP
        return (1 + math.cos(math.pi * min(1.0, (self.progress - WARMUP) / (1 - WARMUP)))) / 2

    def on_train_begin(self, args, state, control, **kwargs):
        before = [entry["spent"] for entry in state.log_history if "spent" in entry]
        self.began = time.monotonic() - (before[-1] if before else 0)

    def on_step_begin(self, args, state, control, **kwargs):
        progress = torch.tensor(max((state.global_step + 1) / state.max_steps, self.spent / self.seconds))
        if args.world_size > 1:  # clocks differ, rates must not
            torch.distributed.broadcast(progress, 0)
        self.progress = progress.item()

    def on_step_end(self, args, state, control, **kwargs):
        if self.progress >= 1 and state.global_step < state.max_steps:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = args.eval_strategy != "no"

"""Stands in for the slow part of `python -m agent0.train`: the adapter is random, everything around it is real."""

import importlib
import json
import os
import sys
import time
import types
from pathlib import Path

from agent0 import train
from agent0.adapter_checks import CONFIG, WEIGHTS
from agent0.command import run_command
from agent0.settings import ROOT

sys.path.insert(0, str(ROOT / "tests" / "unit"))
lora_kit = importlib.import_module("lora_kit")


class Tokenizer:
    """As much of one as the examples need."""

    eos_token_id = 0

    def apply_chat_template(self, turns, **_) -> str:
        return turns[0]["content"]

    def __call__(self, text: str, **_) -> dict:
        return {"input_ids": list(text.encode())[:100]}


def save(trained: types.SimpleNamespace, staging: Path, base: str) -> None:
    lora_kit.write_safetensors(staging / WEIGHTS, lora_kit.tensors(4, lora_kit.ALL_LINEAR, trained.seed))
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": lora_kit.ALL_LINEAR, "bias": "none"}
    (staging / CONFIG).write_text(json.dumps({**plain, "base_model_name_or_path": base}))


stand_in = types.ModuleType("agent0.qlora")
stand_in.load_tokenizer = lambda path: Tokenizer()
stand_in.Job = types.SimpleNamespace
HISTORY = [{"loss": loss, "epoch": 1} for loss in (2.0, 1.0, 0.5)]
stand_in.train = lambda job: types.SimpleNamespace(seed=len(job.rows), history=HISTORY)
stand_in.save = save

if __name__ == "__main__":
    sys.modules["agent0.qlora"] = stand_in
    if os.environ.get("STUCK"):
        stand_in.load_tokenizer = lambda path: time.sleep(3600)
        train.CLOSING = 0
    importlib.import_module("agent0").qlora = stand_in
    train.fingerprint.record = lambda staging: None  # which needs a real model
    run_command(train.main)

"""Adapters that are valid in form and bad in service, to see that the watch takes them out again."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from agent0 import adapters
from agent0.adapter_checks import base_sizes
from agent0.models import base_model_name
from agent0.settings import get_settings

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


def plant(rank: int, strength: float) -> adapters.Release:
    """Publish a random adapter on all linear layers; its change has about `strength` times the size of its input."""
    torch.manual_seed(1)
    sizes, layers = base_sizes()
    weights = {}
    for layer in range(layers):
        for module in (*ATTENTION, *MLP):
            stem = f"base_model.model.model.layers.{layer}.{'self_attn' if module in ATTENTION else 'mlp'}.{module}"
            wide, high = sizes[module]
            weights[f"{stem}.lora_A.weight"] = torch.randn(rank, wide) / wide**0.5
            weights[f"{stem}.lora_B.weight"] = strength * torch.randn(high, rank) / rank**0.5
    staging = Path(tempfile.mkdtemp(dir=get_settings().loras, prefix=".staging-"))
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": [*ATTENTION, *MLP],
        "bias": "none",
        "base_model_name_or_path": base_model_name(),
    }
    try:
        (staging / "adapter_config.json").write_text(json.dumps(config))
        save_file(weights, staging / "adapter_model.safetensors")
        return adapters.publish(staging, {"example_ids": [], "parent": "base"})
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def plant_bad() -> adapters.Release:
    """It answers nonsense."""
    return plant(rank=4, strength=3)


def plant_slow() -> adapters.Release:
    """It changes nothing that is said, and needs several times as long to say it."""
    return plant(rank=256, strength=0)

"""A tiny base model and small adapters for it, written without torch."""

import json
import tempfile
from pathlib import Path

import numpy as np

from agent0 import adapters
from agent0.adapter_checks import CONFIG, WEIGHTS, base_sizes
from agent0.models import base_model_name
from agent0.settings import get_settings

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL_LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
_CODES = {"F32": np.float32, "F16": np.float16, "F64": np.float64}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> None:
    """The format by hand: u64 header length, JSON header, data. BF16 is the upper half of an fp32."""
    header, data = {}, b""
    for name, values in tensors.items():
        if dtype == "BF16":
            raw = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            raw = values.astype(_CODES[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def make_base(folder: Path, monkeypatch, seed: int = 0) -> Path:
    """A tiny llama base model (config and one tensor), configured as BASE_MODEL."""
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **sizes, **heads}))
    values = np.random.default_rng(seed).normal(size=(16, 8))
    write_safetensors(folder / "model.safetensors", {"model.embed_tokens.weight": values})
    monkeypatch.setenv("BASE_MODEL", str(folder))
    get_settings.cache_clear()
    return folder


def tensors(rank: int, modules: list[str], seed: int = 0) -> dict[str, np.ndarray]:
    """LoRA weights for every layer of the tiny base."""
    random, found = np.random.default_rng(seed), {}
    sizes, layers = base_sizes()
    for layer in range(layers):
        for module in modules:
            block = "self_attn" if module in ATTENTION else "mlp"
            stem = f"base_model.model.model.layers.{layer}.{block}.{module}"
            wide, high = sizes[module]
            found[f"{stem}.lora_A.weight"] = random.normal(size=(rank, wide))
            found[f"{stem}.lora_B.weight"] = random.normal(size=(high, rank))
    return found


def stage(rank=4, modules=ATTENTION, dtype="F32", seed=0, change=lambda weights: None, **config) -> Path:
    """A staging folder with an adapter; `change` edits the weights and `config` the configuration."""
    loras = get_settings().loras
    loras.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=loras, prefix=".staging-"))
    weights = tensors(rank, modules, seed)
    change(weights)
    write_safetensors(staging / WEIGHTS, weights, dtype)
    plain = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": modules, "bias": "none"}
    plain["base_model_name_or_path"] = base_model_name()
    (staging / CONFIG).write_text(json.dumps({**plain, **config}))
    return staging


def make_release(seed: int = 0, **options) -> adapters.Release:
    return adapters.publish(stage(seed=seed, **options), {"example_ids": [f"e{seed}"], "parent": "base"})

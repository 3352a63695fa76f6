"""Adapter folders for the tiny model of tests/unit, and safetensors files by hand, sound or broken."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import deserialize

from agent0.adapter_checks import CONFIG, WEIGHTS, base_sizes, tensor_name
from agent0.lora_config import read_layout
from agent0.models import base_model_name

BLOCKS = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn"}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Tensors = dict[str, dict]
Damage = Callable[[Path], object]


def make_plain(folder: Path, seed: int = 0, rank: int = 4) -> None:
    """Write a sound adapter for all linear layers of the configured base model."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    config |= {"target_modules": ALL, "base_model_name_or_path": base_model_name()}
    (folder / CONFIG).write_text(json.dumps(config))
    random, (sizes, layers) = np.random.default_rng(seed), base_sizes()
    places = {f"model.layers.{n}.{BLOCKS.get(m, 'mlp')}.{m}": sizes[m] for n in range(layers) for m in ALL}
    weights: Tensors = {}
    for place, part in read_layout(config, places).items():
        wide, high = places[place]
        weights[tensor_name(place, "A")] = tensor(random.normal(size=(part.rank, wide)) / 4)
        weights[tensor_name(place, "B")] = tensor(random.normal(size=(high, part.rank)) / 4)
    (folder / WEIGHTS).write_bytes(pack(weights))


def tensor(values: np.ndarray, dtype: str = "F32") -> dict:
    """An array as {dtype, shape, data}."""
    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4", "I8": "i1", "U8": "u1", "BOOL": "?"}
    if dtype == "BF16":  # the upper half of an fp32
        raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            raw = values.astype(kinds[dtype])
    return {"dtype": dtype, "shape": list(values.shape), "data": raw.tobytes()}


def values(found: dict) -> np.ndarray:
    """The array in an fp32 tensor."""
    return np.frombuffer(found["data"], "<f4").reshape(found["shape"]).copy()


def pack(weights: Tensors, change: Callable[[dict], object] = lambda header: None) -> bytes:
    """A safetensors file: u64 length, JSON header, data; `change` may break the header."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, found in weights.items():
        place = [len(data), len(data) + len(found["data"])]
        header[name] = {"dtype": found["dtype"], "shape": found["shape"], "data_offsets": place}
        data += found["data"]
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def unpack(folder: Path) -> Tensors:
    """An adapter's tensors, by name: `deserialize` gives them in another order in each process."""
    return dict(sorted(deserialize((folder / WEIGHTS).read_bytes())))


def edit_weights(change: Callable[[Tensors], object]) -> Damage:
    """Damage that edits the tensors."""

    def damage(folder: Path) -> None:
        weights = unpack(folder)
        change(weights)
        (folder / WEIGHTS).write_bytes(pack(weights))

    return damage


def edit_header(change: Callable[[dict], object]) -> Damage:
    """Damage that edits the header of the weights, and leaves the data."""
    return lambda folder: (folder / WEIGHTS).write_bytes(pack(unpack(folder), change))


def edit_bytes(name: str, change: Callable[[bytes], bytes]) -> Damage:
    """Damage that edits a file's bytes."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def configure(**settings) -> Damage:
    """Damage that sets values of the configuration; None removes one."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text()) | settings
        config = {name: value for name, value in config.items() if value is not None}
        (folder / CONFIG).write_text(json.dumps(config))

    return damage

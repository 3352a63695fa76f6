"""Adapters that must not be served, by what is wrong with them.

CONTENT is wrong from the start, under a good signature; SIGNED was changed after it was signed; REQUESTS name what no
adapter may be called, or what is no release.
"""

import io
import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agent0.adapter_checks import CONFIG, MANIFEST, WEIGHTS
from tests.adapters.files import (
    Damage,
    Tensors,
    configure,
    edit_bytes,
    edit_header,
    edit_weights,
    pack,
    tensor,
    values,
)

STEM = "base_model.model.model.layers.1.self_attn.q_proj"
A, B = f"{STEM}.lora_A.weight", f"{STEM}.lora_B.weight"


def filled(name: str, value: float, dtype: str = "F32") -> Damage:
    """One value among good ones."""

    def change(weights: Tensors) -> None:
        found = values(weights[name])
        found[-1, -1] = value
        weights[name] = tensor(found, dtype)

    return edit_weights(change)


def reshaped(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    return edit_weights(
        lambda weights: weights.update({name: tensor(np.ascontiguousarray(change(values(weights[name]))))})
    )


def typed(dtype: str) -> Damage:
    return edit_weights(lambda weights: weights.update({A: tensor(values(weights[A]), dtype)}))


def without(pattern: str) -> Damage:
    return edit_weights(lambda weights: [weights.pop(name) for name in list(weights) if re.search(pattern, name)])


def added(name: str, shape: tuple[int, ...] = (4, 32)) -> Damage:
    return edit_weights(lambda weights: weights.update({name: tensor(np.zeros(shape))}))


def renamed(old: str, new: str) -> Damage:
    return edit_weights(lambda w: [w.update({name.replace(old, new): w.pop(name)}) for name in list(w) if old in name])


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def swap_sides(weights: Tensors) -> None:
    weights[A], weights[B] = weights[B], weights[A]


def offsets(name: str, change: Callable[[list[int]], list[int]]) -> Damage:
    return edit_header(lambda header: header[name].update(data_offsets=change(header[name]["data_offsets"])))


def torch_archive(_: bytes) -> bytes:
    """What torch.save writes: a zip with a pickle inside."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"lora": 1}))
    return file.getvalue()


def twice(raw: bytes) -> bytes:
    """The first tensor's name on the second one, too."""
    size = struct.unpack("<Q", raw[:8])[0]
    names = [f'"{name}"'.encode() for name in json.loads(raw[8 : 8 + size]) if name != "__metadata__"]
    header = raw[8 : 8 + size].replace(names[1], names[0])
    return struct.pack("<Q", len(header)) + header + raw[8 + size :]


def outside(name: str) -> Damage:
    """The file lies elsewhere, and a link leads to it."""

    def damage(folder: Path) -> None:
        elsewhere = folder.with_name(f"elsewhere-{name}")
        os.replace(folder / name, elsewhere)
        (folder / name).symlink_to(elsewhere)

    return damage


class Bomb:
    """Would make a file where it is unpickled."""

    def __reduce__(self):
        return open, ("UNPICKLED", "w")


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
CONTENT: dict[str, Damage] = {
    # numbers
    "NaN in A": filled(A, np.nan),
    "NaN in B": filled(B, np.nan),
    "Inf in A": filled(A, np.inf),
    "-Inf in B": filled(B, -np.inf),
    "NaN in bf16": filled(A, np.nan, "BF16"),
    "Inf in fp16, from overflow": filled(B, 1e6, "F16"),
    "all NaN": edit_weights(lambda w: [w.update({n: tensor(values(w[n]) * np.nan)}) for n in list(w)]),
    "a weight of 1e30": filled(A, 1e30),
    "a weight of -20000": filled(B, -20000),
    # which tensors there are
    "half the keys: no B": without("lora_B"),
    "half the keys: no A": without("lora_A"),
    "one B missing": without(re.escape(B)),
    "a layer missing": without(r"layers\.1\."),
    "a module missing": without("k_proj"),
    "no tensor": without(""),
    "extra key: lm_head": added("base_model.model.lm_head.lora_A.weight"),
    "extra key: embedding": added("base_model.model.model.embed_tokens.weight", (260, 32)),
    "extra key: a layer that is not there": added(A.replace("s.1.", "s.7.")),
    "extra key: a module that is not configured": both(configure(target_modules=["q_proj"]), without("k_proj")),
    "extra key: DoRA's magnitude": added(f"{STEM}.lora_magnitude_vector", (32,)),
    "extra key: a saved module": added("base_model.model.lm_head.modules_to_save.weight", (260, 32)),
    "extra key: ../../etc/passwd": added("../../etc/passwd"),
    "keys without PEFT's prefix": renamed("base_model.model.", ""),
    "keys with the adapter's name": renamed("lora_A.weight", "lora_A.default.weight"),
    "keys of another block": renamed("self_attn.q_proj", "mlp.q_proj"),
    "A and B swapped": edit_weights(swap_sides),
    # shapes and types
    "A transposed": reshaped(A, np.transpose),
    "B transposed": reshaped(B, np.transpose),
    "A one column short": reshaped(A, lambda a: a[:, :-1]),
    "B one row short": reshaped(B, lambda b: b[:-1]),
    "B of another module": reshaped(B, lambda b: np.tile(b, (2, 1))),
    "A as a vector": reshaped(A, np.ravel),
    "A with three dimensions": reshaped(A, lambda a: a[None]),
    "A with no rows": reshaped(A, lambda a: a[:0]),
    "another rank in one layer": both(reshaped(A, lambda a: a[:2]), reshaped(B, lambda b: b[:, :2])),
    "A of one rank, B of another": reshaped(A, lambda a: np.tile(a, (2, 1))),
    "int32 weights": typed("I32"),
    "int8 weights": typed("I8"),
    "uint8 weights": typed("U8"),
    "bool weights": typed("BOOL"),
    "fp64 weights": typed("F64"),
    "an unknown dtype": edit_header(lambda header: header[A].update(dtype="F7")),
    # rank and alpha
    "rank 0": configure(r=0),
    "rank -4": configure(r=-4),
    "rank 100000": configure(r=100_000),
    "rank 4.5": configure(r=4.5),
    "rank as text": configure(r="4"),
    "rank true": configure(r=True),
    "no rank": configure(r=None),
    "the configuration's rank is not the weights'": configure(r=8),
    "alpha 0": configure(lora_alpha=0),
    "alpha -8": configure(lora_alpha=-8),
    "alpha 32000": configure(lora_alpha=32000),
    "alpha NaN": configure(lora_alpha=float("nan")),
    "alpha Infinity": configure(lora_alpha=float("inf")),
    "alpha as text": configure(lora_alpha="8"),
    "alpha as a list": configure(lora_alpha=[8]),
    "no alpha": configure(lora_alpha=None),
    "alpha / rank of 250": configure(lora_alpha=1000),
    "alpha / sqrt(rank) of 500": configure(lora_alpha=1000, use_rslora=True),
    "rsLoRA as text": configure(use_rslora="yes"),
    "rank pattern against the weights": configure(rank_pattern={"q_proj": 8}),
    "rank pattern of rank 0": configure(rank_pattern={"q_proj": 0}),
    "rank pattern as a list": configure(rank_pattern=["q_proj"]),
    "rank pattern with a slow expression": configure(rank_pattern={"(a+)+b": 4}),
    "alpha pattern of 1e9": configure(alpha_pattern={"q_proj": 1e9}),
    # what kind of adapter
    "unknown peft_type": configure(peft_type="SUPERLORA"),
    "another peft_type: IA3": configure(peft_type="IA3"),
    "another peft_type: LOHA": configure(peft_type="LOHA"),
    "no peft_type": configure(peft_type=None),
    "another task: SEQ_CLS": configure(task_type="SEQ_CLS"),
    "bias all": configure(bias="all"),
    "bias inside LoRA": configure(lora_bias=True),
    "modules_to_save": configure(modules_to_save=["lm_head"]),
    "DoRA without its magnitudes": configure(use_dora=True),
    "QALoRA": configure(use_qalora=True),
    "fan_in_fan_out": configure(fan_in_fan_out=True),
    "layer replication": configure(layer_replication=[[0, 2], [1, 2]]),
    "target_parameters": configure(target_parameters=["mlp.experts"]),
    "trainable tokens": configure(trainable_token_indices=[1, 2]),
    "aLoRA": configure(alora_invocation_tokens=[1]),
    "PiSSA, which needs a base of its own": configure(init_lora_weights="pissa"),
    "a setting of tomorrow": configure(use_hyperlora=True),
    # which modules and layers
    "target_modules missing": configure(target_modules=None),
    "target_modules empty": configure(target_modules=[]),
    "target_modules as an expression": configure(target_modules=".*_proj"),
    "target_modules with a slow expression": configure(target_modules=["(a+)+b"]),
    "target_modules with a number": configure(target_modules=["q_proj", 7]),
    "target module of another family": configure(target_modules=["c_attn"]),
    "target module lm_head": configure(target_modules=["q_proj", "lm_head"]),
    "modules excluded that have weights": configure(
        exclude_modules=["self_attn.q_proj", *["k_proj", "v_proj", "o_proj"]]
    ),
    "layers_to_transform beyond the model": configure(layers_to_transform=[0, 7]),
    "layers_to_transform negative": configure(layers_to_transform=-1),
    "layers_to_transform as text": configure(layers_to_transform="1"),
    "layers_to_transform against the weights": configure(layers_to_transform=[0]),
    "layers_pattern of another family": configure(layers_to_transform=[0, 1], layers_pattern="h"),
    # which base model
    "another base model": configure(base_model_name_or_path="gpt2"),
    "no base model": configure(base_model_name_or_path=None),
    "base model as a path elsewhere": configure(base_model_name_or_path="../../etc"),
    # the configuration's file
    "configuration missing": lambda folder: (folder / CONFIG).unlink(),
    "configuration empty": edit_bytes(CONFIG, lambda raw: b""),
    "configuration not JSON": edit_bytes(CONFIG, lambda raw: raw[:-5]),
    "configuration a list": edit_bytes(CONFIG, lambda raw: b"[" + raw + b"]"),
    "configuration in UTF-8 that is broken": edit_bytes(CONFIG, lambda raw: raw[:-1] + b', "x": "\xff"}'),
    "configuration nested 100,000 deep": edit_bytes(CONFIG, lambda raw: DEEP.encode()),
    "configuration with a setting twice": edit_bytes(CONFIG, lambda raw: raw[:-1] + b', "r": 4}'),
    "configuration with a number of 5000 digits": edit_bytes(
        CONFIG, lambda raw: raw[:-1] + b', "x": ' + b"9" * 5000 + b"}"
    ),
    "configuration of 70 MB": lambda folder: os.truncate(folder / CONFIG, 70_000_000),
    # the weights' file
    "weights missing": lambda folder: (folder / WEIGHTS).unlink(),
    "weights of zero length": edit_bytes(WEIGHTS, lambda raw: b""),
    "weights truncated in the length": edit_bytes(WEIGHTS, lambda raw: raw[:5]),
    "weights truncated in the header": edit_bytes(WEIGHTS, lambda raw: raw[:100]),
    "weights truncated after the header": edit_bytes(WEIGHTS, lambda raw: raw[: 8 + struct.unpack("<Q", raw[:8])[0]]),
    "weights truncated in the middle": edit_bytes(WEIGHTS, lambda raw: raw[: len(raw) // 2]),
    "weights one byte short": edit_bytes(WEIGHTS, lambda raw: raw[:-1]),
    "weights with more behind them": edit_bytes(WEIGHTS, lambda raw: raw + b"more"),
    "header of 2^63 bytes": edit_bytes(WEIGHTS, lambda raw: struct.pack("<Q", 1 << 63) + raw[8:]),
    "header of 200 MB": edit_bytes(WEIGHTS, lambda raw: struct.pack("<Q", 200_000_000) + raw[8:]),
    "header longer than the file": edit_bytes(WEIGHTS, lambda raw: struct.pack("<Q", len(raw)) + raw[8:]),
    "header not JSON": edit_bytes(WEIGHTS, lambda raw: raw[:8] + b"!" + raw[9:]),
    "header nested 100,000 deep": edit_bytes(WEIGHTS, lambda raw: struct.pack("<Q", len(DEEP)) + DEEP.encode()),
    "header with 50,000 names": edit_header(
        lambda h: h["__metadata__"].update({f"x{n}": "y" * 99 for n in range(50_000)})
    ),
    "offsets that overlap": offsets(A, lambda _: [0, 512]),
    "offsets that are negative": offsets(A, lambda place: [-place[0] - 512, place[1]]),
    "offsets beyond the end": offsets(A, lambda place: [place[0] + 10**9, place[1] + 10**9]),
    "offsets that end before they begin": offsets(A, lambda place: place[::-1]),
    "a hole between tensors": edit_header(lambda header: header.pop(A)),
    "a shape that is not the data's": edit_header(lambda header: header[A].update(shape=[4, 31])),
    "a shape that overflows": edit_header(lambda header: header[A].update(shape=[1 << 40, 1 << 40])),
    "one tensor's name twice": edit_bytes(WEIGHTS, twice),
    "a pickle renamed to .safetensors": edit_bytes(WEIGHTS, lambda raw: pickle.dumps(Bomb())),
    "a torch archive renamed to .safetensors": edit_bytes(WEIGHTS, torch_archive),
    "a GGUF renamed to .safetensors": edit_bytes(WEIGHTS, lambda raw: b"GGUF\x03" + raw),
    "weights of 100 MB, most of it a hole": lambda folder: os.truncate(folder / WEIGHTS, 100_000_000),
    "random bytes": edit_bytes(WEIGHTS, lambda raw: np.random.default_rng(0).bytes(len(raw))),
    "another model's weights": edit_bytes(WEIGHTS, lambda raw: pack({"model.norm.weight": tensor(np.ones(32))})),
}

FOLDER: dict[str, Damage] = {
    "pickle .bin beside the weights": lambda folder: (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb())),
    "pickle .bin in place of the weights": lambda folder: os.replace(folder / WEIGHTS, folder / "adapter_model.bin"),
    "code beside the weights": lambda folder: (folder / "modeling.py").write_text("print('run')"),
    "an executable library": lambda folder: (folder / "kernel.so").write_bytes(b"\x7fELF"),
    "weights that are a link out of the folder": outside(WEIGHTS),
    "configuration that is a link out of the folder": outside(CONFIG),
    "a link to /etc/passwd": lambda folder: (folder / "notes.txt").symlink_to("/etc/passwd"),
    "a folder inside": lambda folder: (folder / "checkpoint-1").mkdir(),
    "a named pipe": lambda folder: os.mkfifo(folder / "notes.txt"),
}


def manifest(**facts) -> Damage:
    return lambda folder: (folder / MANIFEST).write_text(
        json.dumps(json.loads((folder / MANIFEST).read_text()) | facts)
    )


SIGNED: dict[str, Damage] = {
    "weights changed after signing": edit_bytes(WEIGHTS, lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])),
    "configuration changed after signing": configure(lora_alpha=16),
    "manifest changed after signing": manifest(example_ids=["other"]),
    "weights and manifest changed after signing": both(configure(lora_alpha=16), manifest(files={})),
    "a file added after signing": lambda folder: (folder / "notes.md").write_text("hello"),
    "a file removed after signing": lambda folder: (folder / CONFIG).unlink(),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "manifest not JSON": edit_bytes(MANIFEST, lambda raw: b"{"),
    "manifest whose files are a list": manifest(files=[WEIGHTS, CONFIG]),
    "manifest that names ../../x": manifest(files={"../../x": "0" * 64}),
    "manifest given another base model's hash": manifest(base_model_hash="0" * 64),
}

Request = Callable[[Path], tuple[str, str]]
REQUESTS: dict[str, Request] = {
    "path: parents": lambda good: ("fresh", "../../.."),
    "path: /etc": lambda good: ("fresh", "/etc"),
    "path: out of the folder and back": lambda good: ("fresh", f"loras/adapters/../../../{good.name}"),
    "path: a copy outside": lambda good: ("fresh", str(copied(good))),
    "path: a link to a copy outside": lambda good: ("fresh", str(linked(good))),
    "path: a link that leads to itself": lambda good: ("fresh", str(looped(good))),
    "path: one file of a release": lambda good: ("fresh", str(good / WEIGHTS)),
    "path: all releases": lambda good: ("fresh", str(good.parent)),
    "path: what is still being written": lambda good: ("fresh", str(staged(good))),
    "path: a NUL byte": lambda good: ("fresh", f"{good}\0"),
    "path: 4000 characters": lambda good: ("fresh", "x" * 4000),
    "path: empty": lambda good: ("fresh", ""),
    "path: not there": lambda good: ("fresh", "loras/adapters/20260101T000000Z-00000000"),
    "path: the release without an adapter": lambda good: ("fresh", "base"),
    "name: parents": lambda good: ("../../evil", str(good)),
    "name: empty": lambda good: ("", str(good)),
    "name: 200 characters": lambda good: ("x" * 200, str(good)),
    "name: two lines": lambda good: ("fresh\nserves", str(good)),
    "name: base": lambda good: ("base", str(good)),
    "name: council": lambda good: ("council", str(good)),
    "name: the base model's": lambda good: ("tiny", str(good)),
    "name: one that serves": lambda good: (good.name, str(good)),
}


def copied(good: Path) -> Path:
    folder = good.parents[2] / "outside" / good.name
    folder.mkdir(parents=True, exist_ok=True)
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def linked(good: Path) -> Path:
    return _link(good.parent / "20260101T000000Z-11111111", copied(good))


def looped(good: Path) -> Path:
    return _link(good.parent / "20260101T000000Z-22222222", good.parent / "20260101T000000Z-22222222")


def staged(good: Path) -> Path:
    folder = good.parent / ".staging-x"
    folder.mkdir(exist_ok=True)
    return folder


def _link(link: Path, target: Path) -> Path:
    if not link.is_symlink():
        link.symlink_to(target)
    return link

"""What makes a LoRA adapter fit to serve: its files, its configuration and its numbers, without loading any model."""

import hashlib
import json
import math
import re
import stat
from pathlib import Path

from agent0.command import REFUSED, CouncilError
from agent0.lora_config import Part, read_layout
from agent0.models import base_model_hash, base_model_path

MANIFEST, CONFIG, WEIGHTS = "manifest.json", "adapter_config.json", "adapter_model.safetensors"
MAX_JSON, MAX_HEADER = 1 << 26, 1 << 20  # bytes
MAX_WEIGHT = 1e4  # trained LoRA weights are of order 1; products of larger ones overflow fp16
SUFFIXES = (".json", ".safetensors", ".md", ".txt", ".jinja")
_ADDED = r"(deployment_summary|rollback_summary|gate_summary|refusal)\.json"
ADDED_LATER = re.compile(rf"{_ADDED}|\.{_ADDED}\.\w{{8}}")  # the latter while it is written: records.write_atomic
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
BLOCKS = {**dict.fromkeys(ATTENTION, "self_attn"), **dict.fromkeys(MLP, "mlp")}
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_KEY = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(\w+)\.(\w+)\.lora_([AB])\.weight")


def refuse(what: str, fix: str = "train again") -> CouncilError:
    return CouncilError(f"{what}; {fix}", REFUSED)


def read_json(path: Path) -> dict:
    """Return the JSON object in path. Raises CouncilError (exit 30) where there is none."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"more than {MAX_JSON} bytes")
        value = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except FileNotFoundError:
        raise refuse(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise refuse(f"{path} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise refuse(f"{path} must hold one JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict:
    """A name that is given twice means one thing to one reader and another to the next."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{max(names, key=names.count)!r} is given twice")
    return dict(pairs)


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of each file that a manifest signs."""
    names = (path for path in sorted(folder.iterdir()) if path.name != MANIFEST)
    return {path.name: _hash(path) for path in names}


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_kinds(folder: Path) -> None:
    """Raise CouncilError unless the folder holds regular files of harmless kinds only."""
    for path in folder.iterdir():
        if not stat.S_ISREG(path.lstat().st_mode):
            kind = "a link" if path.is_symlink() else "not a regular file"
            raise refuse(f"{path} is {kind}; a release holds regular files only", "remove it and publish again")
        if path.suffix not in SUFFIXES and not ADDED_LATER.fullmatch(path.name):
            rule = f"a release holds {' '.join(SUFFIXES)} files only: pickles can run code"
            raise refuse(f"{path}: {rule}", "save the weights as safetensors and publish again")


def check_hashes(folder: Path, manifest: dict) -> None:
    """Raise CouncilError unless the files are the ones that the manifest signs; summaries may come later."""
    signed, found = manifest.get("files"), hashes(folder)
    if not isinstance(signed, dict):
        raise refuse(f"{folder / MANIFEST}: `files` must name each file's sha256")
    for name in sorted(signed.keys() | found.keys()):
        if name not in found:
            raise refuse(f"{folder / name} is missing, and the manifest names it")
        if name not in signed and not ADDED_LATER.fullmatch(name):
            raise refuse(f"{folder / name} is not in the manifest", "remove it: releases do not grow")
        if name in signed and signed[name] != found[name]:
            raise refuse(f"{folder / name} was changed after it was signed (sha256 differs)")


def check_adapter(folder: Path, manifest: dict) -> None:
    """Raise CouncilError unless configuration and weights make a plain LoRA of the configured base model."""
    _check_base(folder, read_json(folder / CONFIG), manifest)
    read_adapter(folder, *base_sizes())


def read_adapter(folder: Path, sizes: dict[str, tuple[int, int]], layers: int) -> tuple[dict[str, Part], dict]:
    """Return the Part of each adapted linear layer, by its place in the model, and the tensors of its A and B.

    `sizes` gives (in, out) of each linear of a layer, `layers` their number; a tensor is {dtype, shape, data}, by its
    name. Raises CouncilError (exit 30) where configuration, weights and sizes do not agree, or a value is absurd.
    """
    places = {f"model.layers.{n}.{BLOCKS[module]}.{module}": sizes[module] for n in range(layers) for module in sizes}
    try:
        layout = read_layout(read_json(folder / CONFIG), places)
    except ValueError as error:
        raise refuse(f"{folder / CONFIG}: {error}") from None
    expected = {}
    for place, part in layout.items():
        wide, high = places[place]
        expected[tensor_name(place, "A")] = (part.rank, wide)
        expected[tensor_name(place, "B")] = (high, part.rank)
    return layout, _read_weights(folder / WEIGHTS, expected, layers)


def tensor_name(place: str, side: str) -> str:
    """What PEFT calls the A or B of a linear layer."""
    return f"base_model.model.{place}.lora_{side}.weight"


def _check_base(folder: Path, config: dict, manifest: dict) -> None:
    name, wanted = manifest.get("base_model"), base_model_hash()
    if manifest.get("base_model_hash") != wanted:
        found = str(manifest.get("base_model_hash"))[:12]
        rule = f"base_model_hash {found} ({name}) is not the configured base model's, {wanted[:12]}"
        raise refuse(f"{folder / MANIFEST}: {rule}", "train again on this base, or set BASE_MODEL to the other one")
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or Path(named).name != Path(str(name)).name:
        raise refuse(f"{folder / CONFIG}: base_model_name_or_path {named!r} is not the manifest's base model {name!r}")


def base_sizes() -> tuple[dict[str, tuple[int, int]], int]:
    """Return (in, out) of each linear layer of the base model, and how many layers it has, from its config.json."""
    config = _base_config()
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    queries, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
    attention = {"q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
    mlp = {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
    return {**attention, "o_proj": (queries, hidden), **mlp}, config["num_hidden_layers"]


def _base_config() -> dict:
    source = Path(base_model_path())
    if not source.is_dir():
        from huggingface_hub import hf_hub_download

        source = Path(hf_hub_download(base_model_path(), "config.json")).parent
    config = read_json(source / "config.json")
    return config.get("text_config", config)


def _read_weights(path: Path, expected: dict[str, tuple[int, int]], layers: int) -> dict[str, dict]:
    """Return the tensors {name: {dtype, shape, data}}, all of them as expected."""
    tensors = _read_tensors(path, 4 * sum(high * wide for high, wide in expected.values()))
    if not tensors:
        raise refuse(f"{path} holds no tensor")
    for name in sorted(tensors.keys() - expected.keys()):
        raise refuse(f"{path}: tensor {name}: {_why_extra(name, layers)}")
    for name in sorted(expected.keys() - tensors.keys()):
        other = name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")
        half = f"{other} has no partner" if other in tensors else "a target module of this layer has no weights"
        raise refuse(f"{path}: tensor {name} is missing: {half}")
    for name, shape in expected.items():
        _check_tensor(f"{path}: tensor {name}", tensors[name], shape)
    return tensors


def _read_tensors(path: Path, size: int) -> dict[str, dict]:
    """The library checks that header and file agree; `size`: bytes of the tensors in fp32."""
    from safetensors import SafetensorError, deserialize

    try:
        if (found := path.stat().st_size) > (most := 2 * size + MAX_HEADER):
            raise refuse(f"{path} has {found} bytes; this adapter's tensors need {most} at most")
        return dict(deserialize(path.read_bytes()))
    except FileNotFoundError:
        raise refuse(f"{path} is missing") from None
    except SafetensorError as error:
        raise refuse(f"{path} cannot be read as safetensors ({error})") from None


def _why_extra(name: str, layers: int) -> str:
    parts = _KEY.fullmatch(name)
    if not parts:
        return "the name must be base_model.model.model.layers.N.BLOCK.MODULE.lora_A|B.weight"
    layer = int(parts[1])
    if layer >= layers:
        return f"layer {layer} is out of range, the base model has layers 0 to {layers - 1}"
    return f"{parts[3]} of layer {layer} is not among the configured target modules"


def _check_tensor(what: str, tensor: dict, shape: tuple[int, int]) -> None:
    import numpy as np

    if tuple(tensor["shape"]) != shape:
        raise refuse(f"{what}: shape {tuple(tensor['shape'])} must be {shape} (rank and base model)")
    if tensor["dtype"] not in _DTYPES:
        raise refuse(f"{what}: dtype {tensor['dtype']} must be one of {', '.join(_DTYPES)}")
    values = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
    if tensor["dtype"] == "BF16":  # the upper half of an fp32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    if not np.isfinite(values).all():
        raise refuse(f"{what}: {np.count_nonzero(~np.isfinite(values))} values are NaN or infinite")
    largest = float(np.abs(values).max())
    if not math.isfinite(largest) or largest > MAX_WEIGHT:
        raise refuse(f"{what}: a value of {largest:g} is beyond {MAX_WEIGHT:g}")

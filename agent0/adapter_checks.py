"""What makes a LoRA adapter fit to serve: its files, its configuration and its numbers, without loading any model."""

import hashlib
import json
import math
import re
import stat
from pathlib import Path

from agent0.command import REFUSED, CouncilError
from agent0.models import base_model_hash, base_model_path

MANIFEST, CONFIG, WEIGHTS = "manifest.json", "adapter_config.json", "adapter_model.safetensors"
MAX_RANK, MAX_ALPHA, MAX_SCALE = 256, 1024, 64  # scale = alpha / rank, what the update is multiplied by
MAX_WEIGHT = 1e4  # trained LoRA weights are of order 1; products of larger ones overflow fp16
SUFFIXES = (".json", ".safetensors", ".md", ".txt", ".jinja")
ADDED_LATER = re.compile(r"\.?(deployment_summary|rollback_summary|gate_summary|refusal)\.json(\.\w+)?")
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
BLOCKS = {**dict.fromkeys(ATTENTION, "self_attn"), **dict.fromkeys(MLP, "mlp")}
# Settings of PEFT that change what the weights mean; the engines here serve plain LoRA only.
NOT_PLAIN = re.compile("use_(dora|rslora|qalora|bdlora)|fan_in_fan_out|lora_bias|(rank|alpha)_pattern|modules_to_save|"
                       "layers_to_transform|layer_replication|target_parameters|trainable_token_indices|"
                       "alora_invocation_tokens")  # fmt: skip
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_KEY = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(\w+)\.(\w+)\.lora_([AB])\.weight")


def refuse(what: str, fix: str = "train again") -> CouncilError:
    return CouncilError(f"{what}; {fix}", REFUSED)


def read_json(path: Path) -> dict:
    """Return the JSON object in path. Raises CouncilError (exit 30) where there is none."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise refuse(f"{path} is missing") from None
    except ValueError as error:
        raise refuse(f"{path} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise refuse(f"{path} must hold one JSON object")
    return value


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of each file that a manifest signs."""
    names = (path for path in sorted(folder.iterdir()) if path.name != MANIFEST)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


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
    config = read_json(folder / CONFIG)
    _check_base(folder, config, manifest)
    _check_config(folder / CONFIG, config)
    expected = expected_shapes(config, folder / CONFIG)
    _check_weights(folder / WEIGHTS, expected)


def _check_base(folder: Path, config: dict, manifest: dict) -> None:
    name, wanted = manifest.get("base_model"), base_model_hash()
    if manifest.get("base_model_hash") != wanted:
        found = str(manifest.get("base_model_hash"))[:12]
        rule = f"base_model_hash {found} ({name}) is not the configured base model's, {wanted[:12]}"
        raise refuse(f"{folder / MANIFEST}: {rule}", "train again on this base, or set BASE_MODEL to the other one")
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or Path(named).name != Path(str(name)).name:
        raise refuse(f"{folder / CONFIG}: base_model_name_or_path {named!r} is not the manifest's base model {name!r}")


def _check_config(path: Path, config: dict) -> None:
    rank, alpha, modules = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if config.get("peft_type") != "LORA":
        raise refuse(f"{path}: peft_type {config.get('peft_type')!r} must be 'LORA'")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise refuse(f"{path}: r={rank!r} must be a whole number from 1 to {MAX_RANK}")
    if type(alpha) not in (int, float) or not 0 < alpha <= MAX_ALPHA:
        raise refuse(f"{path}: lora_alpha={alpha!r} must be above 0 and at most {MAX_ALPHA}")
    if alpha / rank > MAX_SCALE:
        raise refuse(f"{path}: lora_alpha/r = {alpha / rank:g} must be at most {MAX_SCALE}")
    if config.get("bias", "none") != "none":
        raise refuse(f"{path}: bias={config['bias']!r} must be 'none'")
    for name, value in config.items():
        if value and NOT_PLAIN.fullmatch(name):
            raise refuse(f"{path}: {name}={value!r} is not plain LoRA", "train without it")
    if not isinstance(modules, list) or not modules or not all(isinstance(module, str) for module in modules):
        raise refuse(f"{path}: target_modules={modules!r} must list the names of linear layers")


def expected_shapes(config: dict, path: Path) -> dict[str, tuple[int, int]]:
    """Return each tensor's name and shape, from the adapter's configuration and the base model's.

    lora_A is (rank, in), lora_B is (out, rank). A target module is a short name (`q_proj`: in every layer) or a full
    one (`model.layers.3.mlp.up_proj`). Raises CouncilError for a module that the base model does not have.
    """
    sizes, layers = base_sizes()
    places = {f"model.layers.{n}.{BLOCKS[m]}.{m}": sizes[m] for n in range(layers) for m in sizes}
    shapes = {}
    for module in config["target_modules"]:
        chosen = [place for place in places if place == module or place.endswith(f".{module}")]
        if not chosen:
            raise refuse(f"{path}: target module {module!r} is not a linear layer of the base model's {layers} layers")
        for place in chosen:
            wide, high = places[place]
            shapes[f"base_model.model.{place}.lora_A.weight"] = (config["r"], wide)
            shapes[f"base_model.model.{place}.lora_B.weight"] = (high, config["r"])
    return shapes


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


def _check_weights(path: Path, expected: dict[str, tuple[int, int]]) -> None:
    tensors = _read_tensors(path)
    if not tensors:
        raise refuse(f"{path} holds no tensor")
    for name in sorted(tensors.keys() - expected.keys()):
        raise refuse(f"{path}: tensor {name}: {_why_extra(name)}")
    for name in sorted(expected.keys() - tensors.keys()):
        other = name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")
        half = f"{other} has no partner" if other in tensors else "a target module of this layer has no weights"
        raise refuse(f"{path}: tensor {name} is missing: {half}")
    for name, shape in expected.items():
        _check_tensor(f"{path}: tensor {name}", tensors[name], shape)


def _read_tensors(path: Path) -> dict[str, dict]:
    """Return {name: {dtype, shape, data}}; the library checks that header and file agree."""
    from safetensors import SafetensorError, deserialize

    try:
        return dict(deserialize(path.read_bytes()))
    except FileNotFoundError:
        raise refuse(f"{path} is missing") from None
    except SafetensorError as error:
        raise refuse(f"{path} cannot be read as safetensors ({error})") from None


def _why_extra(name: str) -> str:
    parts = _KEY.fullmatch(name)
    if not parts:
        return "the name must be base_model.model.model.layers.N.BLOCK.MODULE.lora_A|B.weight"
    layer, layers = int(parts[1]), base_sizes()[1]
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

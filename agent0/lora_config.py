"""What PEFT's adapter_config.json means: which linear layers of the base model carry a LoRA, its ranks and scales."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_RANK, MAX_ALPHA, MAX_SCALE = 256, 1024, 64  # scale: what the update B A is multiplied by
# Settings that do not change what saved weights mean; any other that is set is refused, whatever it stands for.
NEUTRAL = {
    *("peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "lora_dropout"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "megatron_core"),
}
READ = {
    *("peft_type", "task_type", "bias", "init_lora_weights", "r", "lora_alpha", "use_rslora", "target_modules"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
}
_ALLOWED = {
    "peft_type": ("LORA",),
    "task_type": (None, "CAUSAL_LM"),
    "bias": (None, "none"),
    "init_lora_weights": (None, True, False, "gaussian", "orthogonal", "eva"),  # others change the base's own weights
    "use_rslora": (None, True, False),
    "layers_pattern": (None, "", [], "layers", ["layers"]),
}
_PLACE = re.compile(r"\^?\w+(\.\w+)*")


@dataclass(frozen=True)
class Part:
    """The LoRA of one linear layer: y += scale * B A x, with A (rank, in) and B (out, rank)."""

    rank: int
    scale: float


def read_layout(config: dict, places: Iterable[str]) -> dict[str, Part]:
    """Return the Part of each place (`model.layers.3.mlp.up_proj`) that the configuration chooses, as PEFT does.

    Raises ValueError that names the setting and the rule.
    """
    _check_settings(config)
    places = list(places)
    chosen = list(_choose(config, places))
    for module in config["target_modules"]:
        if not any(_is_named(place, module) for place in places):
            raise ValueError(f"target module {module!r} is not a linear layer of the base model")
    if not chosen:
        raise ValueError("target_modules, exclude_modules and layers_to_transform together choose no layer")
    return {place: _part(config, place) for place in chosen}


def _check_settings(config: dict) -> None:
    for name, allowed in _ALLOWED.items():
        found = config.get(name)
        if not any(type(found) is type(value) and found == value for value in allowed):  # 1 is not True here
            raise ValueError(f"{name}={found!r} must be {' or '.join(map(repr, allowed))}")
    for name, value in config.items():
        if value and name not in NEUTRAL | READ:
            raise ValueError(f"{name}={value!r} is not plain LoRA")
    if not config.get("target_modules"):
        raise ValueError(f"target_modules={config.get('target_modules')!r} must list the names of linear layers")
    for name in ("target_modules", "exclude_modules"):
        _check_names(name, config.get(name))
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            raise ValueError(f"{name}={config[name]!r} must give a number for each name of a linear layer")
        _check_names(name, list(config.get(name) or {}))
    layers = config.get("layers_to_transform")
    if layers is not None and not all(type(n) is int for n in (layers if isinstance(layers, list) else [layers])):
        raise ValueError(f"layers_to_transform={layers!r} must be a layer's number, or a list of them")


def _check_names(setting: str, names: object) -> None:
    """Names only: a regular expression out of a file could keep a server busy for ever."""
    if names is None:
        return
    if not isinstance(names, list) or not all(isinstance(name, str) and _PLACE.fullmatch(name) for name in names):
        raise ValueError(f"{setting}={names!r} must list plain names of linear layers")


def _choose(config: dict, places: list[str]) -> Iterator[str]:
    targets, excluded, layers = (config.get(n) for n in ("target_modules", "exclude_modules", "layers_to_transform"))
    layers = [layers] if isinstance(layers, int) else layers
    known = {_layer(place) for place in places}
    if layers and (beyond := set(layers) - known):
        raise ValueError(f"layers_to_transform names layer {min(beyond)}, the base model has 0 to {max(known)}")
    for place in places:
        named = place in targets or (_is_in(place, targets) and (not layers or _layer(place) in layers))
        if named and not _is_in(place, excluded or []):
            yield place


def _layer(place: str) -> int:
    return int(place.split(".")[2])


def _is_in(place: str, names: list[str]) -> bool:
    return any(_is_named(place, name) for name in names)


def _is_named(place: str, name: str) -> bool:
    return place == name.removeprefix("^") or place.endswith(f".{name}")


def _part(config: dict, place: str) -> Part:
    """The scale is alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2312.03732); patterns set both for some places."""
    rank, alpha = (
        next((value for name, value in (config.get(pattern) or {}).items() if _is_named(place, name)), config.get(key))
        for pattern, key in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
    )
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise ValueError(f"r={rank!r} must be a whole number from 1 to {MAX_RANK}")
    if type(alpha) not in (int, float) or not 0 < alpha <= MAX_ALPHA:
        raise ValueError(f"lora_alpha={alpha!r} must be above 0 and at most {MAX_ALPHA}")
    root = "sqrt(r)" if config.get("use_rslora") else "r"
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    if scale > MAX_SCALE:
        raise ValueError(f"lora_alpha/{root} = {scale:g} must be at most {MAX_SCALE}")
    return Part(rank, scale)

"""Read a LoRA in PEFT's layout, and check it before the decoder lays it out."""

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from agent0.serve.decoder import Decoder, Lora, Pairs

_KEY = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.((?:self_attn|mlp)\.\w+_proj)\.lora_([AB])\.weight")
_NEUTRAL = {  # what this layout computes; anything else would be served wrongly
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "lora_bias": (False, None),
}


def read_lora(folder: Path, decoder: Decoder) -> Lora:
    """Return the LoRA in `folder` as the decoder wants it.

    Raises ValueError with the reason when it does not fit the decoder, is incomplete, or is not finite.
    """
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "adapter_model.safetensors")
    except Exception as error:  # a broken file raises whatever its reader raises; none of it may serve
        raise ValueError(f"{folder.name} cannot be read: {error}") from error
    scale = _scale(config)
    pairs = _pairs(weights, decoder)
    _check_complete(pairs, config, decoder.layer_count)
    return decoder.lay_out_lora(pairs, scale)


def _scale(config: dict) -> float:
    """alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2312.03732)."""
    for name, neutral in _NEUTRAL.items():
        value = config.get(name, neutral[0])
        if value not in neutral:
            raise ValueError(f"adapter_config.json: {name} {value!r} is not supported; train a plain LoRA")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float) and alpha > 0):
        raise ValueError(f"adapter_config.json: r {rank!r} and lora_alpha {alpha!r} must be positive numbers")
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def _pairs(weights: dict[str, Tensor], decoder: Decoder) -> Pairs:
    """The A (rank, in) and B (out, rank) of each (layer, module), checked."""
    pairs: Pairs = {}
    for key, tensor in weights.items():
        match = _KEY.fullmatch(key)
        if not match or int(match[1]) >= decoder.layer_count or match[2] not in decoder.shapes:
            raise ValueError(f"{key} is no LoRA weight of the base model")
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise ValueError(f"{key} holds values that are not finite")
        pairs.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor.float()
    for (number, module), pair in pairs.items():
        out, width = decoder.shapes[module]
        shapes = {name: tuple(tensor.shape) for name, tensor in sorted(pair.items())}
        rank = len(pair["A"]) if "A" in pair else 0
        if shapes != {"A": (rank, width), "B": (out, rank)} or rank == 0:
            raise ValueError(f"layer {number} {module}: {shapes} does not fit A (r, {width}) and B ({out}, r)")
    return pairs


def _check_complete(pairs: Pairs, config: dict, layers: int) -> None:
    """Every layer must carry every target, or half an adapter would pass for a whole one."""
    ranks = {len(pair["A"]) for pair in pairs.values()}
    if ranks != {config["r"]}:
        raise ValueError(f"adapter_config.json says r {config['r']}, the weights have {sorted(ranks) or 'nothing'}")
    targets, chosen = config.get("target_modules"), config.get("layers_to_transform")
    if not isinstance(targets, list):
        raise ValueError(f"adapter_config.json: target_modules {targets!r} must be a list of module names")
    chosen = range(layers) if chosen is None else [chosen] if isinstance(chosen, int) else chosen
    have = {(number, module.rpartition(".")[2]) for number, module in pairs}
    wanted = {(number, target.rpartition(".")[2]) for number in chosen for target in targets}
    if have != wanted:
        number, module = min(have ^ wanted)
        raise ValueError(f"layer {number} {module}: the weights and target_modules disagree")

"""Read a LoRA in PEFT's layout, checked, and have the decoder lay it out."""

from pathlib import Path

import torch
from torch import Tensor

from agent0.adapter_checks import read_adapter, tensor_name
from agent0.command import CouncilError
from agent0.serve.decoder import Decoder, Lora

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_lora(folder: Path, decoder: Decoder) -> Lora:
    """Return the LoRA in `folder` as the decoder wants it. Raises ValueError with the reason where it is not fit."""
    sizes = {module.rpartition(".")[2]: (wide, high) for module, (high, wide) in decoder.shapes.items()}
    try:
        layout, tensors = read_adapter(folder, sizes, decoder.layer_count)
    except (CouncilError, OSError) as error:
        raise ValueError(f"{folder.name}: {error}") from error
    pairs = {}
    for place, part in layout.items():
        _, _, number, module = place.split(".", 3)
        a, b = (_tensor(tensors[tensor_name(place, side)]) for side in "AB")
        pairs[int(number), module] = {"A": a, "B": b * part.scale}
    return decoder.lay_out_lora(pairs)


def _tensor(raw: dict) -> Tensor:
    return torch.frombuffer(bytearray(raw["data"]), dtype=_DTYPES[raw["dtype"]]).view(raw["shape"]).float()

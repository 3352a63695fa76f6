"""Weights in 4 or 8 bits, and how native.cpp reads them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP, QUAD = 32, 4  # native.cpp's constants of these names


@dataclass(frozen=True)
class Quantised:
    """A weight (out, in) as scale * code + offset: codes (out, groups, GROUP), scale and offset (out, groups, 1).

    Of 4 bits where that is exact, as for a model that comes with 16 levels a group (GGUF's Q4_0 and Q4_1), else of 8
    with the offset -128 * scale (as Q8_0). The last group is filled up with zeros.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor
    bits: int

    def values(self) -> Tensor:
        """The weights that the codes stand for, (out, groups * GROUP)."""
        return (self.codes.float() * self.scale + self.offset).flatten(1)


def quantise(weight: Tensor) -> Quantised:
    """Return codes for a float32 weight (out, in)."""
    groups = F.pad(weight, (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    four = _quantised(groups, ((high - low) / 15).half().float(), low.half().float(), 4)
    if torch.equal(four.values(), groups.flatten(1)):
        return four
    scale = (torch.maximum(-low, high) / 127).half().float()
    return _quantised(groups, scale, scale * -128, 8)


def _quantised(groups: Tensor, scale: Tensor, offset: Tensor, bits: int) -> Quantised:
    codes = ((groups - offset) / scale.clamp_min(1e-12)).round().clamp(0, 2**bits - 1)
    return Quantised(codes.to(torch.uint8), scale, offset, bits)


def lay_out_codes(weight: Quantised, outputs: int) -> Tensor:
    """Codes by tiles of so many outputs: (tiles, groups, GROUP / QUAD, outputs, QUAD); of 4 bits two quads a byte."""
    codes = by_tiles(weight.codes.flatten(1).unflatten(1, (-1, QUAD)), outputs)
    if weight.bits == 8:
        return codes
    return codes[:, 0::2] | codes[:, 1::2] << 4


def lay_out_scales(weight: Quantised, outputs: int) -> Tensor:
    """Scales by tiles, float16: (tiles, groups, 1, outputs), or of 4 bits (…, 2, outputs) with the offsets."""
    parts = [weight.scale, weight.offset] if weight.bits == 4 else [weight.scale]
    return by_tiles(torch.cat(parts, 2), outputs).transpose(2, 3).half().contiguous()


def by_tiles(matrix: Tensor, outputs: int) -> Tensor:
    """Cut (out, n, …) into tiles, zeros filling the last one: (tiles, n, outputs, …)."""
    missing = -len(matrix) % outputs
    filled = torch.cat([matrix, matrix.new_zeros(missing, *matrix.shape[1:])]) if missing else matrix
    return filled.unflatten(0, (-1, outputs)).transpose(1, 2).contiguous()

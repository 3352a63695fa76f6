"""Linear layers for inference: int8 weights on CPUs, plain ones elsewhere, each with a LoRA delta beside it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Linear = Callable[[Tensor], Tensor]
_FINER = 16
WIDE = 1 << 14  # rows of a weight from which (a vocabulary) int8 is quicker for one row, too


@dataclass(frozen=True)
class Delta:
    """One LoRA of a fused linear: y += (x @ a) @ b, with a (in, rank sum) and b (rank sum, out) scaled already."""

    a: Tensor
    b: Tensor


def make_linear(weight: Tensor, bias: Tensor | None, int8: bool) -> Linear:
    """Return y = x @ weight.T + bias for x (rows, in), weight (out, in); with int8 weights where asked.

    On a CPU one row alone is quickest in half precision (no quantising around it), several rows in int8.
    """
    if int8:
        return _narrow_linear(weight, bias)
    weight = weight.contiguous()
    return lambda x: F.linear(x, weight, bias)


def _narrow_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    many = int8_linear(weight)
    half = weight.half().contiguous() if len(weight) < WIDE else None

    def linear(x: Tensor) -> Tensor:
        y = F.linear(x.half(), half).float() if half is not None and len(x) == 1 else many(x)
        return y if bias is None else y.add_(bias)

    return linear


def int8_linear(weight: Tensor) -> Linear:
    """Per-channel int8 weights; activations are quantised as they come, twice.

    Without VNNI the 16-bit sums of AVX2 would overflow, so activations have 7 bits (reduce_range), which alone
    costs 19 % of the greedy tokens. Hence a second row for what the first one rounds off, 16 times finer: about as
    good as exact activations, and nearly free, since the kernel reads the weights once for both.
    """
    scales = weight.abs().amax(1).clamp_min(1e-8) / 127
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():  # deprecated, with no heir on CPUs
        warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor", UserWarning)
        quantized = torch.quantize_per_channel(weight.float(), scales.double(), zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(quantized, None)
    linear_dynamic = torch.ops.quantized.linear_dynamic

    def linear(x: Tensor) -> Tensor:
        # bring rows to one height: the first token of a prompt is an outlier that would flatten all others
        height = x.abs().amax(1, keepdim=True).clamp_min_(1e-8)
        x = x / height
        coarse = torch.quantize_per_tensor_dynamic(x, torch.quint8, True).dequantize()
        y = linear_dynamic(torch.cat((coarse, (x - coarse).mul_(_FINER))), packed, True)
        return torch.add(y[: len(x)], y[len(x) :], alpha=1 / _FINER).mul_(height)

    return linear


def apply(linear: Linear, x: Tensor, runs: list[tuple[int, int, Delta | None]]) -> Tensor:
    """Return linear(x) plus the delta of each run of rows (first, last + 1, delta)."""
    y = linear(x)
    for first, stop, delta in runs:
        if delta is not None:
            y[first:stop].addmm_(x[first:stop] @ delta.a, delta.b)
    return y

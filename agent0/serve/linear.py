"""Linear layers for inference: int8 weights on CPUs, plain ones elsewhere, each with a LoRA delta beside it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Linear = Callable[[Tensor], Tensor]
_FINER = 16


@dataclass(frozen=True)
class Delta:
    """One LoRA of a fused linear: y += (x @ a) @ b, with a (in, rank sum) and b (rank sum, out) scaled already."""

    a: Tensor
    b: Tensor


def make_linear(weight: Tensor, bias: Tensor | None, int8: bool) -> Linear:
    """Return y = x @ weight.T + bias for x (rows, in), weight (out, in); with int8 weights where asked."""
    if int8:
        return _int8_linear(weight, bias)
    weight = weight.contiguous()
    return lambda x: F.linear(x, weight, bias)


def _int8_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """Per-channel int8 weights; activations are quantised as they come, twice.

    Without VNNI the 16-bit sums of AVX2 would overflow, so activations have 7 bits (reduce_range), which alone
    costs 19 % of the greedy tokens. Hence a second row for what the first one rounds off, 16 times finer: about as
    good as exact activations, and nearly free, since the kernel reads the weights once for both.
    """
    scales = weight.abs().amax(1).clamp_min(1e-8) / 127
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"torch\.quantize_per_tensor", UserWarning
        )  # deprecated, with no heir on CPUs
        quantized = torch.quantize_per_channel(weight.float(), scales.double(), zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(quantized, None)
    multiply = torch.ops.quantized.linear_dynamic

    def fine(x: Tensor) -> Tensor:
        coarse = torch.quantize_per_tensor_dynamic(x, torch.quint8, True).dequantize()
        y = multiply(torch.cat((coarse, (x - coarse).mul_(_FINER))), packed, True)
        return torch.add(y[: len(x)], y[len(x) :], alpha=1 / _FINER)

    def linear(x: Tensor) -> Tensor:
        if len(x) == 1:
            y = fine(x)
        else:  # bring rows to one height: the first token of a prompt is an outlier that would flatten all others
            height = x.abs().amax(1, keepdim=True).clamp_min_(1e-8)
            y = fine(x / height).mul_(height)
        return y if bias is None else y.add_(bias)

    return linear


def apply(linear: Linear, x: Tensor, runs: list[tuple[int, int, Delta | None]]) -> Tensor:
    """Return linear(x) plus the delta of each run of rows (first, last + 1, delta)."""
    y = linear(x)
    for first, stop, delta in runs:
        if delta is not None:
            y[first:stop].addmm_(x[first:stop] @ delta.a, delta.b)
    return y

"""Exact shortcuts for training, where a small model on a CPU spends half of its time on moving numbers about, and a
big one in NF4 on a GPU waits for Python to start its many small kernels.

All give the gradients of what they replace, in fewer passes over memory (as Unsloth and Liger do on GPUs,
arXiv:2410.10989).
"""

from functools import partial

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch.autograd.function import once_differentiable


def _low_rank_gradients(ctx, gradient, rows, b, low):
    """Return the gradients of x A', of A and of B, of which the last two keep their own type."""
    narrow = (gradient @ b).mul_(ctx.scaling)
    return narrow, (narrow.T @ rows).to(ctx.dtype), (gradient.T @ low).to(ctx.dtype).mul_(ctx.scaling)


class _Product(torch.autograd.Function):
    """x W' + s (x A') B', with W frozen: the adapter's part is added in place, forward and backward.

    All is multiplied in the type of W; A and B, and their gradients, keep theirs.
    """

    @staticmethod
    def forward(ctx, x, weight, a, b, scaling):
        rows, (a_cast, b_cast) = x.reshape(-1, x.shape[-1]), (side.to(weight.dtype) for side in (a, b))
        low = rows @ a_cast.T
        ctx.save_for_backward(rows, weight, a_cast, b_cast, low)
        ctx.scaling, ctx.shape, ctx.dtype = scaling, x.shape, a.dtype
        return (rows @ weight.T).addmm_(low, b_cast.T, alpha=scaling).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        rows, weight, a, b, low = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        narrow, to_a, to_b = _low_rank_gradients(ctx, gradient, rows, b, low)
        to_x = (gradient @ weight).addmm_(narrow, a) if ctx.needs_input_grad[0] else None
        return None if to_x is None else to_x.view(*ctx.shape), None, to_a, to_b, None


class _Product4(torch.autograd.Function):
    """The same over a layer in NF4, whose weights are unpacked in each pass, not kept."""

    @staticmethod
    def forward(ctx, x, layer, a, b, scaling):
        dtype = layer.compute_dtype
        rows, (a_cast, b_cast) = x.reshape(-1, x.shape[-1]).to(dtype), (side.to(dtype) for side in (a, b))
        low = rows @ a_cast.T
        ctx.save_for_backward(rows, a_cast, b_cast, low)
        result = layer(rows).addmm_(low, b_cast.T, alpha=scaling)
        ctx.packed, ctx.state = layer.weight.data, layer.weight.quant_state
        ctx.scaling, ctx.shape, ctx.came, ctx.dtype = scaling, x.shape, x.dtype, a.dtype
        return result.view(*x.shape[:-1], -1).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        rows, a, b, low = ctx.saved_tensors
        gradient, to_x = gradient.reshape(-1, gradient.shape[-1]).to(rows.dtype), None
        narrow, to_a, to_b = _low_rank_gradients(ctx, gradient, rows, b, low)
        if ctx.needs_input_grad[0]:
            weight = dequantize_4bit(ctx.packed, ctx.state).to(rows.dtype)
            to_x = (gradient @ weight).addmm_(narrow, a).view(ctx.shape).to(ctx.came)
        return to_x, None, to_a, to_b, None


class _CrossEntropy(torch.autograd.Function):
    """The summed cross entropy of logits (n, vocabulary); its gradient takes the place of the logits."""

    @staticmethod
    def forward(ctx, logits, labels):
        total = logits.logsumexp(1, keepdim=True)
        ctx.save_for_backward(logits, labels, total)
        return (total - logits.gather(1, labels[:, None])).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        logits, labels, total = ctx.saved_tensors
        logits = logits.detach().sub_(total).exp_()
        logits.scatter_add_(1, labels[:, None], logits.new_full((len(labels), 1), -1))
        return logits.mul_(gradient), None


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the sum of the cross entropies of logits (n, vocabulary) for labels (n). The logits are used up."""
    return _CrossEntropy.apply(logits, labels)


def fuse_adapters(model: torch.nn.Module) -> int:
    """Let each LoRA over a plain or NF4 linear layer without bias compute in one go; return how many there are."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and _is_plain(module)]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    return len(layers)


def _is_plain(layer: LoraLayer) -> bool:
    base = layer.get_base_layer()
    if type(base) is not Linear4bit and not (isinstance(layer, LoraLinear) and type(base) is torch.nn.Linear):
        return False
    config = layer.active_adapters == ["default"] and not any(layer.use_dora.values())
    undropped = all(isinstance(dropout, torch.nn.Identity) for dropout in layer.lora_dropout.values())
    return bool(config) and undropped and base.bias is None


def _forward(layer: LoraLayer, x: torch.Tensor) -> torch.Tensor:
    base = layer.get_base_layer()
    if layer.disable_adapters:
        return base(x)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    scaling = layer.scaling["default"]
    if isinstance(base, Linear4bit):
        return _Product4.apply(x, base, a, b, scaling)
    return _Product.apply(x, base.weight, a, b, scaling)

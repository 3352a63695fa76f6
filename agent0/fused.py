"""Two exact shortcuts for training on a CPU, where a small model spends half of its time on moving numbers about.

Both give the gradients of what they replace, in fewer passes over memory (as Unsloth and Liger do on GPUs,
arXiv:2410.10989).
"""

from functools import partial

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch.autograd.function import once_differentiable


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
        narrow = (gradient @ b).mul_(ctx.scaling)
        to_x = (gradient @ weight).addmm_(narrow, a) if ctx.needs_input_grad[0] else None
        to_a, to_b = (narrow.T @ rows).to(ctx.dtype), (gradient.T @ low).to(ctx.dtype).mul_(ctx.scaling)
        return None if to_x is None else to_x.view(*ctx.shape), None, to_a, to_b, None


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
    """Let each LoRA over a plain linear layer without bias compute in one go; return how many there are."""
    layers = [module for module in model.modules() if isinstance(module, LoraLinear) and _is_plain(module)]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    return len(layers)


def _is_plain(layer: LoraLinear) -> bool:
    base, config = layer.get_base_layer(), layer.active_adapters == ["default"] and not any(layer.use_dora.values())
    undropped = all(isinstance(dropout, torch.nn.Identity) for dropout in layer.lora_dropout.values())
    return bool(config) and undropped and type(base) is torch.nn.Linear and base.bias is None


def _forward(layer: LoraLinear, x: torch.Tensor) -> torch.Tensor:
    if layer.disable_adapters:
        return layer.get_base_layer()(x)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return _Product.apply(x, layer.get_base_layer().weight, a, b, layer.scaling["default"])

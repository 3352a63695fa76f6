"""What every decoder of the embedded engine shares: the model's geometry, sequences, and how a LoRA's parts fuse.

Rows of a forward pass are tokens of any number of sequences, prompts and single tokens mixed: linears run over
all rows at once, attention over each sequence by itself. So nothing is padded, and no request waits for another.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agent0.command import USAGE, CouncilError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3", "yarn")
CONTEXT = 4096  # tokens; bounds the memory of one request
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}

Lora = Any  # a LoRA as its decoder has laid it out
Pairs = dict[tuple[int, str], dict[str, Tensor]]  # of (layer, module): A (rank, in) and B (out, rank), scaled already


@dataclass
class Sequence:
    """The KV cache of one request, (layers, 2 * kv heads, capacity, head size), keys first."""

    cache: Tensor
    length: int = 0


@dataclass(frozen=True)
class Span:
    """The next tokens of one sequence in a forward pass, and the LoRA that they run on."""

    sequence: Sequence
    tokens: list[int]
    lora: Lora | None = None


class Decoder(ABC):
    """The weights of a transformers model, laid out for decoding. Raises CouncilError for a model of another family."""

    cache_dtype: torch.dtype | None = None  # of keys and values, where it is not that of the rest

    def __init__(self, model, dtype: torch.dtype):
        config = model.config
        _check_family(config)
        self.device, self.dtype = model.device, dtype
        self.layer_count = config.num_hidden_layers
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = head_size(config)
        self.epsilon, self.vocabulary = config.rms_norm_eps, model.get_output_embeddings().weight.shape[0]
        window = getattr(config, "sliding_window", None) or CONTEXT  # within the window, attention is plain
        self.context = min(CONTEXT, config.max_position_embeddings, window)
        self.shapes = _module_shapes(model)

    @abstractmethod
    def forward(self, spans: list[Span]) -> Tensor:
        """Run the tokens of all spans and append them to their caches.

        Returns the logits after the last token of each span, float32, (spans, vocabulary).
        """

    @abstractmethod
    def lay_out_lora(self, pairs: Pairs) -> Lora:
        """Return the LoRA in the form that `forward` reads. Nothing is merged."""

    def new_sequence(self, capacity: int) -> Sequence:
        """An empty KV cache for at most `capacity` tokens."""
        shape = (self.layer_count, 2 * self.kv_heads, capacity, self.head_size)
        return Sequence(torch.empty(shape, dtype=self.cache_dtype or self.dtype, device=self.device))

    def _cast(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self.dtype)

    def _fused(self, layer, parts: tuple[str, ...]) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of linears that read the same input, one after the other."""
        modules = [layer.get_submodule(part) for part in parts]
        weight = self._cast(torch.cat([module.weight for module in modules]))
        if all(module.bias is None for module in modules):
            return weight, None
        biases = [m.bias if m.bias is not None else m.weight.new_zeros(len(m.weight)) for m in modules]
        return weight, self._cast(torch.cat(biases))

    def _qk_norm(self, attention) -> Tensor | None:
        """Norm weights of every query and key head, (heads + kv heads, head size); None where the family has none."""
        if not hasattr(attention, "q_norm"):
            return None
        norms = (attention.q_norm.weight, self.heads), (attention.k_norm.weight, self.kv_heads)
        return self._cast(torch.cat([weight.detach().expand(count, -1) for weight, count in norms]))

    def _rotation(self, rotary) -> tuple[Tensor, Tensor]:
        """cos and sin by position, (context, head size); the sign of rotate_half (x1, x2 -> -x2, x1) is in sin."""
        positions = torch.arange(self.context, device=self.device)[None]
        cos, sin = rotary(torch.zeros(1, dtype=torch.float32, device=self.device), positions)
        if cos.shape[-1] != self.head_size:
            raise CouncilError(
                "the embedded engine knows no partial rotary embedding; serve the model with vLLM", USAGE
            )
        sin = sin[0].clone()
        sin[:, : self.head_size // 2].neg_()
        return cos[0], sin


def head_size(config) -> int:
    """Width of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _module_shapes(model) -> dict[str, tuple[int, int]]:
    """(out, in) of each linear that a LoRA may target, by its name inside a layer."""
    layer = model.model.layers[0]
    return {part: tuple(layer.get_submodule(part).weight.shape) for parts in FUSED.values() for part in parts}


def _check_family(config) -> None:
    """Refuse what this decoder would compute wrongly, in one line that says what to do instead."""
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    act = getattr(config, "hidden_act", "silu")
    wrong = [
        f"{name} {value!r}"
        for name, value, known in (
            ("model_type", config.model_type, FAMILIES),
            ("rope_type", rope, ROPES),
            ("hidden_act", act, ("silu",)),
        )
        if value not in known
    ]
    if wrong:
        raise CouncilError(
            f"the embedded engine cannot run {wrong[0]} (it runs {', '.join(FAMILIES)}); "
            "serve this model with vLLM or another OpenAI-compatible server and set COUNCIL_URL to it",
            USAGE,
        )

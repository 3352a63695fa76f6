"""A lean in-process decoder for Llama-family models: fused int8 linears, a KV cache a sequence, LoRA unmerged.

Rows of a forward pass are tokens of any number of sequences, prompts and single tokens mixed: linears run over
all rows at once, attention over each sequence by itself. So nothing is padded, and no request waits for another.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from agent0.command import USAGE, CouncilError
from agent0.serve.linear import Delta, Linear, apply, make_linear

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3", "yarn")
CONTEXT = 4096  # tokens; bounds the memory of one request
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


@dataclass
class Sequence:
    """The KV cache of one request, (layers, 2 * kv heads, capacity, head size), keys first, and views of each layer."""

    cache: Tensor
    length: int = 0
    layers: list[tuple[Tensor, Tensor, Tensor]] = field(init=False)

    def __post_init__(self):
        self.layers = [(layer, *layer[None].chunk(2, 1)) for layer in self.cache]


@dataclass(frozen=True)
class Span:
    """The next tokens of one sequence in a forward pass, and the LoRA (one dict of deltas a layer) they run on."""

    sequence: Sequence
    tokens: list[int]
    lora: list[dict[str, Delta]] | None = None


@dataclass(frozen=True)
class Layer:
    linears: dict[str, Linear]
    input_norm: Tensor
    post_norm: Tensor
    qk_norm: Tensor | None


class Decoder:
    """The weights of a transformers model, laid out for decoding. Stateless: any thread may call it.

    dtype: "int8" (CPU), "float32" or "bfloat16". Raises CouncilError for a model of another family.
    """

    def __init__(self, model, dtype: str = "int8"):
        config = model.config
        _check_family(config)
        self.device, self.int8 = model.device, dtype == "int8"
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.epsilon, self.vocabulary = config.rms_norm_eps, config.vocab_size
        window = getattr(config, "sliding_window", None) or CONTEXT  # within the window, attention is plain
        self.context = min(CONTEXT, config.max_position_embeddings, window)
        self.shapes = _module_shapes(model)
        with torch.inference_mode():
            self.embedding = self._cast(model.get_input_embeddings().weight).clone()
            self.norm = self._cast(model.model.norm.weight).clone()
            self.head = make_linear(self._cast(model.get_output_embeddings().weight).clone(), None, self.int8)
            self.layers = [self._layer(layer) for layer in model.model.layers]
            self.cos, self.sin = self._rotation(model.model.rotary_emb)

    def _cast(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self.dtype)

    def _layer(self, layer) -> Layer:
        linears = {}
        for name, parts in FUSED.items():
            modules = [layer.get_submodule(part) for part in parts]
            weight = self._cast(torch.cat([module.weight for module in modules]))
            biases = [m.bias if m.bias is not None else m.weight.new_zeros(len(m.weight)) for m in modules]
            biased = any(module.bias is not None for module in modules)
            bias = self._cast(torch.cat(biases)) if biased else None
            linears[name] = make_linear(weight, bias, self.int8)
        norms = (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
        return Layer(linears, *(self._cast(norm).clone() for norm in norms), self._qk_norm(layer.self_attn))

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

    def new_sequence(self, capacity: int) -> Sequence:
        """An empty KV cache for at most `capacity` tokens."""
        shape = (len(self.layers), 2 * self.kv_heads, capacity, self.head_size)
        return Sequence(torch.empty(shape, dtype=self.dtype, device=self.device))

    @torch.inference_mode()
    def forward(self, spans: list[Span]) -> Tensor:
        """Run the tokens of all spans and append them to their caches.

        Returns the logits after the last token of each span, float32, (spans, vocabulary).
        """
        tokens = torch.tensor([token for span in spans for token in span.tokens], device=self.device)
        rows = _rows(spans)
        rotation = self._rotations(spans)
        masks = [self._mask(span) for span in spans]
        runs = [run for run in _runs(spans, rows) if run[2]]
        x = self.embedding[tokens]
        for index, layer in enumerate(self.layers):
            loras = [(first, stop, lora[index]) for first, stop, lora in runs]
            x += self._attention(index, layer, self._rms(x, layer.input_norm), rotation, spans, rows, masks, loras)
            x += self._mlp(layer, self._rms(x, layer.post_norm), loras)
        for span in spans:
            span.sequence.length += len(span.tokens)
        last = torch.tensor([stop - 1 for _, stop in rows], device=self.device)
        return self.head(self._rms(x[last], self.norm)).float()

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        # the same as F.rms_norm, which takes three times as long for one row
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True).add_(self.epsilon)) * weight

    def _rotations(self, spans: list[Span]) -> tuple[Tensor, Tensor]:
        """cos and sin for each row and head, (rows, heads + 2 * kv heads, head size); values are not turned."""
        starts = [(span.sequence.length, span.sequence.length + len(span.tokens)) for span in spans]
        positions = torch.cat([torch.arange(*start, device=self.device) for start in starts])
        shape = (len(positions), self.heads + 2 * self.kv_heads, self.head_size)
        cos, sin = torch.ones(shape, device=self.device), torch.zeros(shape, device=self.device)
        cos[:, : -self.kv_heads] = self.cos[positions, None]
        sin[:, : -self.kv_heads] = self.sin[positions, None]
        return cos.to(self.dtype), sin.to(self.dtype)

    def _mask(self, span: Span) -> Tensor | None:
        """Which (row, earlier token) pairs see each other; None where every row sees everything before it."""
        count, past = len(span.tokens), span.sequence.length
        if count == 1:
            return None
        return torch.ones(count, past + count, dtype=torch.bool, device=self.device).tril(past)

    def _attention(self, index: int, layer: Layer, x: Tensor, rotation, spans, rows, masks, loras) -> Tensor:
        runs = [(first, stop, lora.get("qkv")) for first, stop, lora in loras]
        qkv = apply(layer.linears["qkv"], x, runs).view(len(x), -1, self.head_size)
        if layer.qk_norm is not None:
            turned = qkv[:, : -self.kv_heads]
            turned.copy_(F.rms_norm(turned, (self.head_size,), None, self.epsilon) * layer.qk_norm)
        cos, sin = rotation
        qkv = torch.addcmul(qkv * cos, qkv.roll(self.head_size // 2, -1), sin)
        parts = [
            self._attend(span.sequence, index, qkv[first:stop], mask)
            for span, (first, stop), mask in zip(spans, rows, masks, strict=True)
        ]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return apply(layer.linears["o"], y, [(first, stop, lora.get("o")) for first, stop, lora in loras])

    def _attend(self, sequence: Sequence, index: int, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Append keys and values to the cache of one sequence and return its attention, (rows, heads * head size)."""
        count, stop = len(qkv), sequence.length + len(qkv)
        cache, keys, values = sequence.layers[index]
        cache.narrow(1, sequence.length, count).copy_(qkv[:, self.heads :].transpose(0, 1))
        keys, values = keys.narrow(2, 0, stop), values.narrow(2, 0, stop)
        if count == 1:  # the query heads that share a key head take the place of rows: nothing is repeated
            query = qkv[:, : self.heads].view(1, self.kv_heads, -1, self.head_size)
            scores = torch.matmul(query, keys.transpose(2, 3)).mul_(self.head_size**-0.5)
            return torch.matmul(scores.softmax(-1), values).reshape(1, -1)
        query = qkv[None, :, : self.heads].transpose(1, 2)
        y = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=True)
        return y[0].transpose(0, 1).reshape(count, -1)

    def _mlp(self, layer: Layer, x: Tensor, loras) -> Tensor:
        runs = [(first, stop, lora.get("gate_up")) for first, stop, lora in loras]
        gate_up = apply(layer.linears["gate_up"], x, runs)
        half = gate_up.shape[1] // 2
        x = F.silu(gate_up[:, :half]).mul_(gate_up[:, half:])
        return apply(layer.linears["down"], x, [(first, stop, lora.get("down")) for first, stop, lora in loras])


def _rows(spans: list[Span]) -> list[tuple[int, int]]:
    """First and last row + 1 of each span."""
    rows, first = [], 0
    for span in spans:
        rows.append((first, first + len(span.tokens)))
        first += len(span.tokens)
    return rows


def _runs(spans: list[Span], rows: list[tuple[int, int]]) -> list[tuple[int, int, list | None]]:
    """Neighbouring rows that share a LoRA, as (first, last + 1, lora)."""
    runs: list[tuple[int, int, list | None]] = []
    for span, (first, stop) in zip(spans, rows, strict=True):
        if runs and runs[-1][2] is span.lora:
            runs[-1] = (runs[-1][0], stop, span.lora)
        else:
            runs.append((first, stop, span.lora))
    return runs


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

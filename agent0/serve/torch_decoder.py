"""The decoder in plain torch: GPUs, and CPUs without a compiler."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from agent0.serve.decoder import FUSED, Decoder, Pairs, Sequence, Span


@dataclass(frozen=True)
class Delta:
    """One LoRA of a fused linear: y += (x @ a) @ b, with a (in, rank sum) and b (rank sum, out) scaled already."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class Layer:
    linears: dict[str, tuple[Tensor, Tensor | None]]
    input_norm: Tensor
    post_norm: Tensor
    qk_norm: Tensor | None


class TorchDecoder(Decoder):
    """Weights in dtype (float32 or bfloat16) on the model's device. Stateless: any thread may call it."""

    @torch.inference_mode()
    def __init__(self, model, dtype: torch.dtype = torch.float32):
        super().__init__(model, dtype)
        self.embedding = self._cast(model.get_input_embeddings().weight)
        self.norm = self._cast(model.model.norm.weight)
        self.head = self._cast(model.get_output_embeddings().weight)
        self.layers = [self._layer(layer) for layer in model.model.layers]
        self.cos, self.sin = self._rotation(model.model.rotary_emb)

    def _layer(self, layer) -> Layer:
        linears = {name: self._fused(layer, parts) for name, parts in FUSED.items()}
        norms = (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
        return Layer(linears, *map(self._cast, norms), self._qk_norm(layer.self_attn))

    def lay_out_lora(self, pairs: Pairs) -> list[dict[str, Delta]]:
        """Fuse each layer: the A's side by side, the B's as blocks on a diagonal."""
        return [dict(self._deltas(pairs, number)) for number in range(self.layer_count)]

    def _deltas(self, pairs: Pairs, number: int) -> Iterator[tuple[str, Delta]]:
        target = {"device": self.device, "dtype": self.dtype}
        for name, parts in FUSED.items():
            found = [pairs.get((number, part)) for part in parts]
            if any(found):
                a = torch.cat([pair["A"] for pair in found if pair]).T
                blocks = [
                    pair["B"].T if pair else torch.zeros(0, self.shapes[part][0])
                    for part, pair in zip(parts, found, strict=True)
                ]
                yield name, Delta(a.contiguous().to(**target), torch.block_diag(*blocks).to(**target))

    @torch.inference_mode()
    def forward(self, spans: list[Span]) -> Tensor:
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
        return F.linear(self._rms(x[last], self.norm), self.head).float()

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
        qkv = _apply(layer.linears["qkv"], x, runs).view(len(x), -1, self.head_size)
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
        return _apply(layer.linears["o"], y, [(first, stop, lora.get("o")) for first, stop, lora in loras])

    def _attend(self, sequence: Sequence, index: int, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Append keys and values to the cache of one sequence and return its attention, (rows, heads * head size)."""
        count, stop = len(qkv), sequence.length + len(qkv)
        cache = sequence.cache[index]
        cache[:, sequence.length : stop] = qkv[:, self.heads :].transpose(0, 1)
        keys, values = cache[None, :, :stop].chunk(2, 1)
        if count == 1:  # the query heads that share a key head take the place of rows: nothing is repeated
            query = qkv[:, : self.heads].view(1, self.kv_heads, -1, self.head_size)
            scores = torch.matmul(query, keys.transpose(2, 3)).mul_(self.head_size**-0.5)
            return torch.matmul(scores.softmax(-1), values).reshape(1, -1)
        query = qkv[None, :, : self.heads].transpose(1, 2)
        y = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=True)
        return y[0].transpose(0, 1).reshape(count, -1)

    def _mlp(self, layer: Layer, x: Tensor, loras) -> Tensor:
        runs = [(first, stop, lora.get("gate_up")) for first, stop, lora in loras]
        gate_up = _apply(layer.linears["gate_up"], x, runs)
        half = gate_up.shape[1] // 2
        x = F.silu(gate_up[:, :half]).mul_(gate_up[:, half:])
        return _apply(layer.linears["down"], x, [(first, stop, lora.get("down")) for first, stop, lora in loras])


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


def _apply(linear: tuple[Tensor, Tensor | None], x: Tensor, runs: list[tuple[int, int, Delta | None]]) -> Tensor:
    """x @ weight.T + bias, plus the delta of each run of rows (first, last + 1, delta)."""
    y = F.linear(x, *linear)
    for first, stop, delta in runs:
        if delta is not None:
            y[first:stop].addmm_(x[first:stop] @ delta.a, delta.b)
    return y

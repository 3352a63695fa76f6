"""The decoder of CPUs: native.cpp, compiled for this machine once, behind the same face as decoder.Decoder.

It takes a C++ compiler (g++ or clang++ with OpenMP); without one the torch decoder serves, several times slower.
"""

import ctypes
import os
import shutil
import subprocess
from ctypes import POINTER, c_float, c_int, c_int64, c_uint8, c_uint16
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from agent0.command import log
from agent0.serve.codes import by_tiles, lay_out_codes, lay_out_scales, quantise
from agent0.serve.decoder import FUSED, Decoder, Pairs, Span

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC")
Floats, Halves = POINTER(c_float), POINTER(c_uint16)


class _Linear(ctypes.Structure):
    _fields_ = (
        *(("codes", POINTER(c_uint8)), ("scale", Halves), ("bias", Floats)),
        *((name, c_int64) for name in ("out", "width", "bits")),
    )


class _Lora(ctypes.Structure):
    _fields_ = (("a", Halves), ("b", Halves), ("rank", c_int64), ("parts", c_int64), ("ends", c_int64 * 3))


class _Layer(ctypes.Structure):
    _fields_ = (*((name, _Linear) for name in FUSED), *((n, Floats) for n in ("input_norm", "post_norm", "qk_norm")))


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("layers", "hidden", "heads", "kv_heads", "head_size", "inner")),
        ("epsilon", c_float),
        ("layer", POINTER(_Layer)),
        *((name, Floats) for name in ("embedding", "norm", "cos", "sin")),
        ("head", _Linear),
    )


class _Row(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("token", "position", "capacity")),
        ("cache", Halves),
        ("lora", POINTER(_Lora)),
        ("wanted", c_int64),
    )


class NativeDecoder(Decoder):
    """The weights of a transformers model in 4 or 8 bits, for native.cpp. Stateless: any thread may call it."""

    cache_dtype = torch.float16

    def __init__(self, model, library: ctypes.CDLL):
        super().__init__(model, torch.float32)
        self._held: list[Tensor] = []  # what native.cpp points to
        self.outputs = library.outputs()  # native.cpp's OUTPUTS: how many a tile has on this machine
        self._forward = library.forward
        self._forward.argtypes = (POINTER(_Model), POINTER(_Row), c_int64, Floats, c_int)
        self._forward.restype = None
        hidden, inner = model.config.hidden_size, model.config.intermediate_size
        floats = model.get_input_embeddings().weight, model.model.norm.weight, *self._rotation(model.model.rotary_emb)
        self._model = _Model(
            *(self.layer_count, hidden, self.heads, self.kv_heads, self.head_size, inner),
            self.epsilon,
            (_Layer * self.layer_count)(*map(self._layer, model.model.layers)),
            *map(self._floats, floats),
            self._linear(model.get_output_embeddings().weight, None),
        )

    def _layer(self, layer) -> _Layer:
        linears = [self._linear(*self._fused(layer, parts)) for parts in FUSED.values()]
        norms = layer.input_layernorm.weight, layer.post_attention_layernorm.weight, self._qk_norm(layer.self_attn)
        return _Layer(*linears, *map(self._floats, norms))

    def _linear(self, weight: Tensor, bias: Tensor | None) -> _Linear:
        quantised = quantise(weight.detach().float())
        codes = self._pointer(lay_out_codes(quantised, self.outputs), c_uint8)
        scale = self._pointer(lay_out_scales(quantised, self.outputs), c_uint16)
        return _Linear(codes, scale, self._floats(bias), *weight.shape, quantised.bits)

    def _floats(self, tensor: Tensor | None):
        return None if tensor is None else self._pointer(tensor.detach().float(), c_float)

    def _pointer(self, tensor: Tensor, kind):
        self._held.append(tensor := tensor.contiguous())
        return ctypes.cast(tensor.data_ptr(), POINTER(kind))

    def lay_out_lora(self, pairs: Pairs) -> "NativeLora":
        return NativeLora(pairs, self)

    @torch.inference_mode()
    def forward(self, spans: list[Span]) -> Tensor:
        rows = (_Row * sum(len(span.tokens) for span in spans))()
        number = 0
        for span in spans:
            start, capacity = span.sequence.length, span.sequence.cache.shape[2]
            cache = ctypes.cast(span.sequence.cache.data_ptr(), Halves)
            lora = span.lora.table if span.lora else None
            for n, token in enumerate(span.tokens, 1):
                rows[number] = _Row(token, start + n - 1, capacity, cache, lora, n == len(span.tokens))
                number += 1
            span.sequence.length += len(span.tokens)
        logits = torch.empty(len(spans), self.vocabulary)
        target = ctypes.cast(logits.data_ptr(), Floats)
        self._forward(self._model, rows, number, target, torch.get_num_threads())
        return logits


class NativeLora:
    """A LoRA as native.cpp reads it, in bfloat16: for each layer and fused linear A by rows and B by outputs."""

    def __init__(self, pairs: Pairs, decoder: NativeDecoder):
        self._held: list[Tensor] = []
        layers = range(decoder.layer_count)
        self.table = (_Lora * (len(layers) * len(FUSED)))(
            *(self._entry(pairs, number, parts, decoder) for number in layers for parts in FUSED.values())
        )

    def _entry(self, pairs: Pairs, number: int, parts, decoder: NativeDecoder) -> _Lora:
        found = [pairs.get((number, part)) for part in parts]
        if not any(found):
            return _Lora()
        outputs, shapes = decoder.outputs, [decoder.shapes[part] for part in parts]
        rank = max(len(pair["A"]) for pair in found if pair)
        rank += -rank % outputs
        blocks = [_padded(pair, rank, *shape) for pair, shape in zip(found, shapes, strict=True)]
        ends = list(accumulate(out for out, _ in shapes))
        a, b = torch.cat([a for a, _ in blocks]), torch.cat([b for _, b in blocks])
        if any(end % outputs for end in ends[:-1]):  # a tile would read two parts: all are one, whose B is a diagonal
            b, rank, ends = torch.block_diag(*(b for _, b in blocks)), rank * len(parts), ends[-1:]
        a, b = (by_tiles(side, outputs).bfloat16() for side in (a, b))
        self._held += [a, b]
        pointers = (ctypes.cast(side.data_ptr(), Halves) for side in (a, b))
        return _Lora(*pointers, rank, len(ends), (c_int64 * 3)(*ends))


def _padded(pair: dict[str, Tensor] | None, rank: int, out: int, width: int) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank) of one linear, zeros where the adapter has none or a lower rank."""
    a, b = torch.zeros(rank, width), torch.zeros(out, rank)
    if pair:
        a[: len(pair["A"])], b[:, : len(pair["A"])] = pair["A"], pair["B"]
    return a, b


def load_library(folder: Path) -> ctypes.CDLL | None:
    """Return native.cpp compiled for this machine, from folder if it is there; None, with a warning, where it fails.

    OpenMP's symbols are those that torch has loaded: a second runtime would fight the first one for the cores.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++")), None)
    if compiler is None:
        log.warning("no C++ compiler: answers come several times slower; install g++")
        return None
    cpu = Path("/proc/cpuinfo").read_text().partition("\n\n")[0] if Path("/proc/cpuinfo").exists() else ""
    features = "".join(line for line in cpu.splitlines() if line.startswith(("flags", "model name", "Features")))
    name = sha256(f"{SOURCE.read_text()}{compiler}{FLAGS}{features}".encode()).hexdigest()[:16]
    target = folder / f"native-{name}.so"
    if not target.exists() and not _compile(compiler, target):
        return None
    return ctypes.CDLL(str(target))


def _compile(compiler: str, target: Path) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}")
    commands = [compiler, *FLAGS, "-c", SOURCE, "-o", f"{part}.o"], [compiler, "-shared", f"{part}.o", "-o", part]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True)
        part.rename(target)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", None) or error
        log.warning("%s cannot compile %s, answers come several times slower: %s", compiler, SOURCE.name, why)
        return False
    finally:
        Path(f"{part}.o").unlink(missing_ok=True)
    log.info("compiled %s for this machine", SOURCE.name)
    return True

"""Valid adapters of many kinds, made and computed by PEFT, and computed by the engine's decoders."""

import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from agent0 import adapters
from agent0.adapter_checks import WEIGHTS
from agent0.command import CouncilError
from agent0.models import base_model_name
from agent0.serve.decoder import Decoder, Span
from agent0.serve.lora import read_lora
from agent0.settings import get_settings
from tests.adapters.files import ALL
from tests.unit.tiny_council import make_model

PROMPT = list(range(40, 70))
RANKS = (1, 2, 3, 4, 5, 8, 12, 16, 32, 48, 64, 128, 200, 256)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Trial:
    """One valid adapter: why it was refused, or how far the logits are from PEFT's, as a part of what it changes."""

    kind: str
    refused: str | None = None
    difference: float = 0.0


def variants(count: int) -> Iterator[tuple[str, dict]]:
    """`count` adapters: (dtype, LoraConfig's arguments), every rank and dtype among them, the rest drawn."""
    draw = random.Random(0)
    for number in range(count):
        rank = RANKS[number % len(RANKS)]
        modules = draw.sample(ALL, draw.randint(1, len(ALL)))
        options = {"r": rank, "lora_alpha": min(1024, rank * draw.choice((0.5, 1, 2, 4))), "target_modules": modules}
        options |= draw.choice(({}, {"use_rslora": True, "lora_alpha": draw.choice((1, 8, 16, 32))}))
        options |= draw.choice(({}, {}, {"layers_to_transform": draw.choice((0, 1, [1], [0, 1]))}))
        options |= draw.choice(({}, {"rank_pattern": {modules[0]: draw.choice(RANKS[:9])}}))
        options |= draw.choice(({}, {"alpha_pattern": {modules[-1]: draw.choice((1, 8, 32))}}))
        options |= draw.choice(({}, {}, {"init_lora_weights": "gaussian", "lora_dropout": 0.1}))
        yield list(DTYPES)[number % 3], options


def try_variant(dtype: str, options: dict, decoders: list[Decoder]) -> Trial:
    """Publish one variant as PEFT writes it, and compare."""
    kind = f"{dtype}, " + ", ".join(f"{name} {value}" for name, value in options.items())
    staging = make(dtype, options)
    try:
        release = adapters.publish(staging, {})
        loras = [read_lora(release.path, decoder) for decoder in decoders]
    except (CouncilError, ValueError) as error:
        return Trial(kind, str(error))
    expected, plain = by_peft(release.path)
    found = [d.forward([Span(d.new_sequence(64), PROMPT, lora)])[0] for d, lora in zip(decoders, loras, strict=True)]
    effect = (expected - plain).abs().max()
    return Trial(kind, None, max(float((logits - expected).abs().max() / effect) for logits in found))


def make(dtype: str, options: dict) -> Path:
    """An adapter with random weights, written by PEFT and stored in dtype, in a staging folder."""
    loras = get_settings().loras
    loras.mkdir(exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=loras, prefix=".staging-"))
    torch.manual_seed(options["r"])
    model = get_peft_model(make_model(), LoraConfig(task_type="CAUSAL_LM", **options))
    for name, weight in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            torch.nn.init.normal_(weight.data, std=0.2 / weight.shape[1] ** 0.5)
    model.peft_config["default"].base_model_name_or_path = base_model_name()
    model.save_pretrained(staging, save_embedding_layers=False)
    (staging / "README.md").unlink(missing_ok=True)
    weights = load_file(staging / WEIGHTS)
    save_file({name: weight.to(DTYPES[dtype]) for name, weight in weights.items()}, staging / WEIGHTS)
    return staging


def by_peft(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The last logits with the adapter in `folder`, and without it."""
    model = PeftModel.from_pretrained(make_model(), folder).eval()
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT])).logits[0, -1]
        with model.disable_adapter():
            return expected, model(torch.tensor([PROMPT])).logits[0, -1]

"""A tiny random model with a byte tokenizer, saved as BASE_MODEL, and engines over it: no download, no wait."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from agent0.serve.engine import Engine
from agent0.serve.torch_decoder import TorchDecoder
from agent0.settings import get_settings

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "eos_token_id": 257,
    "bos_token_id": 256,
    "pad_token_id": 257,
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(config=None):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config or LlamaConfig(**SIZES), dtype=torch.float32)
    return model.eval()


def save_base(folder, monkeypatch):
    """Save the tiny model as BASE_MODEL and return it."""
    model = make_model()
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    monkeypatch.setenv("BASE_MODEL", str(folder))
    get_settings.cache_clear()
    return model


def make_engine(model, ends=(257,)) -> Engine:
    return Engine(TorchDecoder(model), make_tokenizer(), set(ends))

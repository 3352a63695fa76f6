"""Models from elsewhere: weights that could run code are never opened."""

import os
import pickle
import shutil
from pathlib import Path

import pytest

from agent0.command import CouncilError
from agent0.models import base_model_path, embedder_path
from agent0.settings import get_settings
from faiss_memory import load_embedder


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def pickled_model(folder: Path) -> Path:
    """A model whose weights are a pickle that runs code; the rest is the embedded embedder's."""
    ignored = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(embedder_path(), folder, ignore=ignored)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(folder / "ran")))
    return folder


def test_a_base_model_of_pickles_is_refused(tmp_path, monkeypatch):
    folder = pickled_model(tmp_path / "model")
    monkeypatch.setenv("BASE_MODEL", str(folder))
    get_settings.cache_clear()
    with pytest.raises(CouncilError, match=r"pickles .* save the model again as safetensors"):
        base_model_path()


def test_an_embedder_of_pickles_is_refused_and_not_run(tmp_path, monkeypatch):
    folder = pickled_model(tmp_path / "model")
    monkeypatch.setenv("EMBEDDING_MODEL", str(folder))
    get_settings.cache_clear()
    with pytest.raises(CouncilError, match="EMBEDDING_MODEL"):
        load_embedder()
    assert not (folder / "ran").exists()

"""The self-improvement suite, on the real code: `python tests/phase3/test_self_improvement.py`, or pytest."""

import json
import os
import sys
import tempfile
from contextlib import contextmanager
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from safetensors.numpy import load_file, save_file

from agent0 import adapters
from agent0.command import REFUSED, CouncilError
from agent0.evidence import Evidence, Pair, Thresholds
from agent0.models import base_model_name
from agent0.records import TrainingExample, read_jsonl
from agent0.settings import get_settings
from agent0.verdict import verdict
from faiss_memory import FaissMemory
from harvest_failures import FailureHarvester, day_window

GOOD_CODE = "First, here is the idea, because it helps to see it:\n```python\ndef add(a, b):\n    return a + b\n```"
GOOD_WORDS = "Therefore, step by step: a vaccine shows the body a piece of a germ.\n```text\npiece -> memory\n```"


def wrong_answer(memory: FaissMemory) -> str:
    return memory.add("What is 15% of 240?", {"response": "It is 25.", "confidence": 0.3, "model": "test"})


def test_harvester_initialization():
    harvester = FailureHarvester()
    assert len(FaissMemory().meta) == 0
    assert harvester.members, "with no endpoint set, the council still has who works answers out"
    assert harvester.harvest().examples == []


def quality_scores() -> list[float]:
    """The scores of two good rewrites, in code and in words."""
    assess = FailureHarvester()._assess_quality
    code = assess("How do I add in Python?", "Use plus.", GOOD_CODE)
    return [round(score, 2) for score in (code, assess("What is a vaccine?", "A shot.", GOOD_WORDS))]


def test_quality_assessment():
    assert FailureHarvester()._assess_quality("q", "A long answer that says nothing much.", "Short.") == 0.5
    assert quality_scores() == [0.95, 0.95]


def test_training_data_format():
    answer_id = wrong_answer(FaissMemory())
    FailureHarvester().harvest(day_window(date.today()))
    (path,) = get_settings().training_data.glob("harvest_*.jsonl")
    seeds = {"instruction", "input", "output", "reasoning", "quality_score", "harvest_timestamp"}
    assert seeds <= json.loads(path.read_text().splitlines()[0]).keys()
    (example,) = read_jsonl(path, TrainingExample)
    assert example.answer_id == answer_id
    assert "36" in example.output and example.verified_by


def staged_adapter(spoil=None) -> Path:
    """A rank-4 LoRA on the attention of the configured base model, in a staging folder."""
    from agent0.adapter_checks import base_sizes

    sizes, layers = base_sizes()
    weights, modules = {}, ["q_proj", "v_proj"]
    for layer in range(layers):
        for module in modules:
            stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            wide, high = sizes[module]
            weights[f"{stem}.lora_A.weight"] = np.full((4, wide), 0.01, np.float32)
            weights[f"{stem}.lora_B.weight"] = np.zeros((high, 4), np.float32)
    get_settings().loras.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=get_settings().loras, prefix=".staging-"))
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model_name(),
        "r": 4,
        "lora_alpha": 8,
        "target_modules": modules,
        "bias": "none",
    }
    (staging / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, staging / "adapter_model.safetensors")
    return staging


def test_lora_file_validation():
    release = adapters.publish(staged_adapter(), {"example_ids": [], "parent": "base"})
    assert adapters.validate(release.path) == release
    weights = release.path / "adapter_model.safetensors"
    spoilt = load_file(weights)
    next(iter(spoilt.values()))[0, 0] = np.nan
    weights.chmod(0o644)
    save_file(spoilt, weights)
    try:
        adapters.validate(release.path)
    except CouncilError as refused:
        assert refused.exit_code == REFUSED
    else:
        raise AssertionError("an adapter that was changed after publishing must be refused")


def pairs(stable: int, candidate: int, milliseconds: float = 200) -> list[Pair]:
    """40 paired questions, of which each answers the first so many right."""
    return [Pair(f"q{n}", n < stable, n < candidate, 200, milliseconds) for n in range(40)]


def test_deployment_summary_format():
    summary = Evidence(pairs(stable=20, candidate=36)).summary()
    assert summary["pairs"] == summary["questions"] == 40
    assert summary["candidate"] == {"right": 36, "success": 0.9, "p95_ms": 200}
    assert summary["stable"]["success"] == 0.5
    json.dumps(summary, allow_nan=False)


def test_regression_detection():
    limits = Thresholds.of(get_settings())
    assert verdict(Evidence(pairs(38, 38)), limits).promoted
    assert not verdict(Evidence(pairs(38, 30)), limits).promoted, "75 % is below 85 %"
    assert not verdict(Evidence(pairs(38, 38, milliseconds=1200)), limits).promoted, "1200 ms is over 1000 ms"
    assert not verdict(Evidence([]), limits).promoted, "no evidence is never success"
    assert verdict(Evidence(pairs(10, 25)), limits).promoted, "a weak model may still improve"


@contextmanager
def fresh_home():
    """A home of its own for one test, where the suite runs without pytest."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COUNCIL_HOME"] = folder
        get_settings.cache_clear()
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            get_settings.cache_clear()


def main() -> None:
    print("🧪 Phase 3 Self-Improvement Test Suite")
    suite = {
        "Harvester initialization": test_harvester_initialization,
        "Quality assessment": test_quality_assessment,
        "Training data format": test_training_data_format,
        "LoRA file validation": test_lora_file_validation,
        "Deployment summary format": test_deployment_summary_format,
        "Regression detection": test_regression_detection,
    }
    for name, test in suite.items():
        with fresh_home():
            test()
        scores = f" (scores: {', '.join(map(str, quality_scores()))})" if test is test_quality_assessment else ""
        print(f"✅ {name} test passed{scores}")
    print("🎉 All Phase 3 tests completed successfully!")


if __name__ == "__main__":
    main()

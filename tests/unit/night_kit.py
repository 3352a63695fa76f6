"""A night as the stages leave it behind, written through the real ledger, memory and loras/."""

import time

from lora_kit import make_base, stage

from agent0 import adapters, ledger
from agent0.records import TrainingExample, write_json, write_jsonl
from agent0.settings import get_settings
from faiss_memory import FaissMemory

NIGHT = "20261123T120000Z"
NASTY = "<script>alert('x')</script>"
SUITES = {
    "held-out": {"asked": 192, "gained": 50, "lost": 8, "right": 30},
    "general": {"asked": 57, "gained": 0, "lost": 16, "right": 57},
}


def example(number: int, answer: str, **more) -> TrainingExample:
    fields = {"reasoning": "Adding one.", "quality_score": 0.9, "kind": "arithmetic", "verified_by": "math:arithmetic"}
    instruction, output = f"What is {number} + 1 in {NASTY} Ulm?", f"{number} + 1 is {number + 1} in Ulm."
    known = {"instruction": instruction, "output": output, "harvest_timestamp": time.time(), **fields}
    return TrainingExample(id=f"example{number}", answer_id=answer, **{**known, **more})


def begin(monkeypatch, home, night: str = NIGHT) -> None:
    """Let what follows belong to a night, over a tiny base model."""
    make_base(home / "models" / "tiny", monkeypatch)
    monkeypatch.setenv("COUNCIL_NIGHT", night)
    get_settings.cache_clear()


def harvest(home, count: int = 6, **more) -> list[TrainingExample]:
    """Answers of users ann and bob in memory, their rewrites in the pool, and the harvest's event."""
    memory, examples = FaissMemory(), []
    for n in range(count):
        said = {"response": f"{n} plus one is {NASTY} 11 in Ulm.", "success": False, "user": "ann" if n % 2 else "bob"}
        answer = memory.add(f"What is {n} + 1 in {NASTY} Ulm?", {**said, "timestamp": 1795430000 + n})
        examples.append(example(n, answer, **more))
    memory.close()
    file = home / "training_data" / "harvest_20261122.jsonl"
    write_jsonl(file, examples)
    counts = {"failures": count + 2, "rewritten": count, "accepted": count, "abstained": 2, "seconds": 60.0}
    causes = {"abstentions": {"no proposal": 2}, "reasons": {}}
    ledger.append("harvest", date="2026-11-22", complete=True, file=file.name, **counts, **causes)
    return examples


def train(examples: list[TrainingExample]) -> adapters.Release:
    """A release that was trained on the examples."""
    staging = stage()
    losses = [2.0, 1.0, 0.5, 0.4, 0.3]
    write_json(staging / "training_metrics.json", {"examples": len(examples), "replayed": 0, "loss": 0.3,
                                                   "losses": losses, "seconds": 562.0})  # fmt: skip
    release = adapters.publish(staging, {"example_ids": [e.id for e in examples], "parent": "base"})
    adapters.point("latest", release)
    ledger.append("training", release=release.name, loss=0.3, seconds=562, examples=len(examples), new_examples=6)
    return release


def judge(release: adapters.Release, end: str = "promote") -> None:
    """The gate's event and its summary beside the release."""
    latency = {"serving": {"p50": 800.0, "p95": 2000.0}, "candidate": {"p50": 700.0, "p95": 1900.0}}
    kinds = {"time": {"asked": 16, "gained": 9, "lost": 0, "right": 2}}
    judged = {"release": release.name, "serving": "base", "end": end, "reason": "held-out +21.9% of 192"}
    event = ledger.append("gate", **judged, improvement=0.21875, success=0.375, suites=SUITES, kinds=kinds,
                          latency_ms=latency)  # fmt: skip
    row = {"suite": "held-out", "id": "h1", "kind": "time", "question": "When is noon?", "answer": "12:00"}
    fixed = {"suite": "fixed", "id": "example1", "kind": "arithmetic", "question": f"What is 1 + 1 in {NASTY} Ulm?"}
    changed = {"better": [{**row, "before": "At 11.", "after": f"At 12. {NASTY}"}],
               "worse": [{**fixed, "answer": "2", "before": "It is 2.", "after": "It is 3."}]}  # fmt: skip
    write_json(release.path / "gate_summary.json", {**event, "changed": changed})


def deploy(release: adapters.Release) -> None:
    adapters.ensure_base()
    adapters.point("current", release)
    ledger.append("deployment", release=release.name, previous="base", improvement=0.2, seconds=61)


def end(exit_code: int = 0, outcome: str = "deployed", stage: str = "validation") -> None:
    stages = {"harvest": 8.0, "training": 576.0}
    ledger.append("night", outcome=outcome, exit_code=exit_code, stage=stage, seconds=805.0, stages=stages)


def whole_night(monkeypatch, home) -> adapters.Release:
    """A night that deployed."""
    begin(monkeypatch, home)
    release = train(harvest(home))
    judge(release)
    deploy(release)
    end()
    return release

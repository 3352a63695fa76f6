"""The house: imports go down only, light modules stay light, nothing is pickled."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent0.settings import ROOT

FLOORS = [
    {"command", "settings", "records", "values", "data_parallel"},
    {
        "store",
        "faiss_memory",
        "memory",
        "quality",
        "agreement",
        "guard",
        "quarantine",
        "models",
        "metrics",
        "ledger",
        "outbound",
        "notify",
        "client",
        "story",
        "adapter_checks",
        "lora_config",
        "fingerprint",
        "bars",
        "evidence",
        "sequential",
        "verdict",
        "recipe",
        "budget",
        "packing",
        "fused",
        "qlora",
        "replay",
    },
    {"council", "adapters", "windows"},
    {"veto", "why"},
    {
        "evaluate",
        "failures",
        "live",
        "outcomes",
        "probing",
        "refuse",
        "rollout",
        "serve",
        "switch",
        "pool",
        "practice",
        "train",
        "trial",
        "watch",
        "way_back",
        "morning",
        "plots",
        "report",
        "forget",
    },
    {"harvest_failures", "gate", "night"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "agent0" else parts[0]


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            rooms.add(parts[1] if parts[0] == "agent0" and len(parts) > 1 else parts[0])
    return rooms & FLOOR_OF.keys()


SOURCES = [*(ROOT / "agent0").rglob("*.py"), ROOT / "harvest_failures.py", ROOT / "faiss_memory.py"]


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p != ROOT / "agent0" / "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_go_down_only(path):
    room = room_of(path)
    for other in imported_rooms(path) - {room}:
        assert FLOOR_OF[other] <= FLOOR_OF[room], f"{room} must not import {other}, which is above it"


def test_rooms_do_not_import_each_other_in_a_circle():
    graph = {room: set() for room in FLOOR_OF}
    for path in SOURCES:
        if path != ROOT / "agent0" / "__init__.py":
            graph[room_of(path)] |= imported_rooms(path) - {room_of(path)}
    while leaves := {room for room, others in graph.items() if not others & graph.keys()}:
        graph = {room: others for room, others in graph.items() if room not in leaves}
    assert not graph, f"these import each other: {sorted(graph)}"


@pytest.mark.parametrize(
    "module", ["faiss_memory", "harvest_failures", "agent0.train", "agent0.rollout", "agent0.adapters", "agent0.notify"]
)
def test_light_modules_load_no_torch(module):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_pickled(path):
    source = path.read_text(encoding="utf-8")
    assert "import pickle" not in source
    assert "torch.load(" not in source


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-models.txt"])
def test_every_package_is_pinned_and_says_what_it_is_for(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if line and not line.startswith(("#", "-r "))]
    assert packages
    for line in packages:
        assert re.fullmatch(r"[A-Za-z0-9_.\-]+(\[[a-z,]+\])?==[0-9][0-9.]* +# .+", line), line


def test_nothing_that_the_project_brings_can_be_a_pickle():
    brought = [path for path in ROOT.iterdir() if not path.name.startswith(".") and path.name not in ("loras", "logs")]
    files = [file for path in brought for file in (path.rglob("*") if path.is_dir() else [path])]
    assert len(files) > 100
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")]

"""README says what is there: every setting, metric, exit code, file and command."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent0 import command
from agent0.settings import ROOT, Settings

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split(" #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()[:1] != "#"]


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_every_setting_is_documented_with_its_default(name):
    row = re.search(rf"^\| `{name}` \| (.*?) \|", README, re.MULTILINE)
    assert row, f"{name} is missing from README's table"
    default = Settings.model_fields[name.lower()].default
    if isinstance(default, int | float):
        assert float(row[1]) == default


def test_no_setting_is_documented_that_does_not_exist():
    for name in re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE):
        assert name.lower() in Settings.model_fields


def test_every_metric_is_documented():
    from agent0 import metrics

    source = Path(metrics.__file__).read_text(encoding="utf-8")
    for name in set(re.findall(r"autogen_[a-z0-9_]+", source)):
        assert f"`{name}`" in README or f"`{name}_total`" in README, f"{name} is missing from README"


def test_every_exit_code_is_documented():
    for code in ("DONE", "FAILED", "USAGE", "NOTHING_TO_DO", "ROLLED_BACK", "REFUSED", "LOCKED"):
        assert f"**{getattr(command, code)}**" in README


def test_the_tree_names_every_room_and_no_other():
    tree = README.split("## The tree")[1].split("```")[1]
    modules = {path.name for path in (ROOT / "agent0").glob("*.py")} - {"__init__.py"}
    named = set(re.findall(r"\b([a-z0-9_]+\.(?:py|sh))\b", tree))
    assert modules <= named, f"missing from README's tree: {sorted(modules - named)}"
    for name in named - modules:
        places = [ROOT / name, ROOT / "cron" / name, ROOT / "agent0" / "council" / name]
        assert any(place.exists() for place in places), f"{name} in README's tree does not exist"


def test_make_targets_and_scripts_of_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in COMMANDS:
        for target in re.findall(r"\bmake (?:-s )?([a-z-]+)", line):
            assert target in targets, line
        for script in re.findall(r"\b(?:bash|python) ([\w/]+\.(?:sh|py))", line):
            assert (ROOT / script).exists(), line


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith(("python -c", "df "))])
def test_quick_commands_run_as_printed(line, tmp_path):
    line = line.replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    "line",
    [
        "harvest_failures.py",
        "-m agent0.evaluate",
        "-m examples.make_questions",
        "-m agent0.adapters",
        *(f"-m agent0.{name}" for name in ("report", "veto", "refuse", "why", "forget", "ledger")),
    ],
)
def test_python_commands_have_help(line):
    done = subprocess.run(
        [sys.executable, *line.split(), "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def test_the_suite_runs_by_plain_python_and_prints_what_the_seed_prints(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/phase3/test_self_improvement.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "🧪 Phase 3 Self-Improvement Test Suite",
        "✅ Harvester initialization test passed",
        "✅ Quality assessment test passed (scores: 0.95, 0.95)",
        "✅ Training data format test passed",
        "✅ LoRA file validation test passed",
        "✅ Deployment summary format test passed",
        "✅ Regression detection test passed",
        "🎉 All Phase 3 tests completed successfully!",
    ]

"""README says what is there: every setting, metric, exit code, file and command."""

import importlib
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent0 import command
from agent0.settings import ROOT, Settings
from examples import demo
from faiss_memory import FaissMemory

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [block.replace("\\\n", "") for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)]
COMMANDS = [
    line.split(" #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()[:1] not in ("", "#")
]


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


FRESH = {  # what README prints → how it ends where nothing has happened yet and no server runs
    "python harvest_failures.py": command.NOTHING_TO_DO,
    "bash train_lora.sh": command.NOTHING_TO_DO,
    "bash deploy_lora.sh loras/latest": command.REFUSED,
    "bash rollback_lora.sh": command.NOTHING_TO_DO,
    "make cron-line": command.DONE,
    "python -m agent0.memory": command.DONE,
    "python -m agent0.report": command.NOTHING_TO_DO,
    "python -m agent0.veto EXAMPLE": command.FAILED,
    "python -m agent0.refuse RELEASE": command.REFUSED,
    "python -m agent0.why ANSWER": command.FAILED,
    "python -m agent0.forget --user NAME": command.NOTHING_TO_DO,
    "python -m agent0.ledger verify": command.DONE,
    "python -m agent0.evaluate": command.FAILED,
    **{line: command.DONE for line in COMMANDS if line.startswith(("python -c", "df "))},
}
LONG = (
    "make demo",
    "make test",
    "make serve",
    "make night",
    "make nights",
    "BASE_MODEL=",
    "VLLM_",
    "python -m bench.",
    "source ",
    "crontab ",
    "accelerate ",
)
LOOKING = ("head ", "cat ", "tail ", "curl ", "nvidia-smi")  # at what a night leaves behind


def test_every_command_of_readme_is_run_here_or_takes_long_or_looks_at_a_night():
    assert [line for line in COMMANDS if line not in FRESH and not line.startswith((*LONG, *LOOKING))] == []
    assert [line for line in FRESH if line not in COMMANDS] == []


@pytest.mark.parametrize("line", FRESH)
def test_commands_of_readme_run_as_printed(line, home, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        monkeypatch.setenv("COUNCIL_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
    program, *words = shlex.split(line)
    if program == "python" and words[0] != "-c":  # in this process: each import of a library once
        name, arguments = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        assert ended(importlib.import_module(name).main) == FRESH[line], capsys.readouterr()
        return
    if program == "bash" and not (ROOT / ".venv/bin/python").exists():
        pytest.skip("the scripts run by .venv, and there is none")
    command_line = line.replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(["bash", "-c", command_line], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == FRESH[line], done.stdout + done.stderr
    assert done.stdout.strip()


def ended(main) -> int:
    try:
        return main() or command.DONE
    except command.CouncilError as error:
        return error.exit_code


PARSING = [path for path in [*(ROOT / "agent0").glob("*.py"), *ROOT.glob("*.py"), *(ROOT / "bench").glob("*.py")]
           if "ArgumentParser(" in path.read_text(encoding="utf-8") and path.stem != "command"]  # fmt: skip


@pytest.mark.parametrize("path", PARSING, ids=lambda path: path.stem)
def test_help_is_the_header(path, monkeypatch, capsys):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == command.DONE
    assert " ".join(module.__doc__.splitlines()[0].split()) in said or " ".join(module.main.__doc__.split()) in said


def test_a_command_without_arguments_shows_its_header_and_refuses_any():
    asked, wrong = (
        subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
        for words in (("agent0.serve", "--help"), ("agent0.train", "--fast"))
    )
    assert asked.returncode == command.DONE and "Start the Council server" in asked.stdout
    assert wrong.returncode == command.USAGE and "--fast" in wrong.stderr


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


def test_the_demo_waits_for_answers_that_are_still_being_written(home, monkeypatch):
    memory, since = FaissMemory(), time.time()
    memory.add("What is 1 + 1?", {"response": "2", "success": True})
    late = threading.Timer(0.5, memory.add, ("What is 1 + 2?", {"response": "3", "success": True}))
    late.start()
    assert demo.await_memory(since, 2) == 2
    late.join()
    monkeypatch.setattr(demo, "STORE_SECONDS", 0.3)
    assert demo.await_memory(since, 3) == 2, "another server's answers never come"

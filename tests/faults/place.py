"""A home with scripts, a day in memory, an engine that answers over HTTP, a webhook; and what a night left there."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from agent0 import adapters, ledger
from agent0.quality import GENERAL, HELD_OUT, PROBES, REPLAY
from agent0.records import Question, TrainingExample, read_jsonl, write_jsonl
from agent0.settings import ROOT, get_settings
from agent0.windows import day_window
from faiss_memory import FaissMemory
from tests.webhook import Receiver

sys.path.insert(0, str(ROOT / "tests" / "unit"))
council_stub, lora_kit = importlib.import_module("council_stub"), importlib.import_module("lora_kit")
SCRIPTS = ("train_lora.sh", "deploy_lora.sh", "rollback_lora.sh")
SHIM = """#!/usr/bin/env bash
# Runs the hook of a stage (a fault) before the stage, and the stand-in for the trainer.
for hook in "$FAULTS"/*; do
  # shellcheck disable=SC1090
  [[ "$*" != *"${{hook##*/}}"* || ! -f $hook ]] || source "$hook"
done
if [[ "$*" == "-m agent0.train" ]]; then set -- -m tests.faults.trainer; fi
exec {python} "$@"
"""
HELD = {HELD_OUT: 24, PROBES: 24, GENERAL: 4, REPLAY: 2}
FAILURES = 6


class Engine(council_stub.Stub):
    """The scripted server: releases answer right, the base model hardly; it says what file `mood` tells it to be."""

    def learn(self, questions: Path, mood: Path) -> "Engine":
        rows = [row for name in HELD for row in read_jsonl(questions / f"{name}.jsonl", Question)]
        rows.append(Question(id="f", kind="f", question="What is 2 + 2?", answer="4"))
        self.answers = {row.question: (10 * number, row.answer or "Well.") for number, row in enumerate(rows)}
        for number, row in enumerate(rows):
            if row.kind not in ("general", "f") and number % 4:
                self.answers[row.question] = (9, row.answer)
        self.behaviours["base"] = council_stub.Behaviour(right=0.5)
        bound = self.server.RequestHandlerClass
        chat = bound.chat

        def chat_with_stable(handler, body):
            chat(handler, body | {"model": self.stable if body["model"] == "council" else body["model"]})

        bound.chat = chat_with_stable
        answer = {name: getattr(bound, name) for name in ("do_GET", "do_POST")}

        def moody(name):
            def handle(handler):
                said = mood.read_text().strip() if mood.exists() else ""
                if said == "drop":
                    handler.close_connection = True
                elif said == "hang":
                    time.sleep(11)  # longer than a health check waits
                    handler.close_connection = True
                elif said:
                    handler.error(500, said)
                else:
                    answer[name](handler)

            return handle

        for name in answer:
            setattr(bound, name, moody(name))
        return self


@dataclass
class Night:
    """What a night left behind."""

    code: int
    output: str
    log: str
    events: list[dict]
    alerts: list[dict]


class Place:
    """One home, made anew from its parts in well under a second."""

    def __init__(self, path: Path, questions: Path, base: Path):
        self.path, self.faults, self.questions, self.base = path, path.parent / "faults", questions, base
        self.environment = {"HOME": str(path), "PATH": "/usr/bin:/bin", "FAULTS": str(self.faults)}
        self.receiver = Receiver().__enter__()
        self.path.mkdir(exist_ok=True)
        self.faults.mkdir()
        self.engine = Engine().start().learn(questions, self.faults / "mood")
        self.environment |= {
            "COUNCIL_URL": self.engine.url,
            "NOTIFICATION_WEBHOOK": self.receiver.url,
            "QUESTIONS_PATH": str(questions),
            "BASE_MODEL": str(base),
            "MONITOR_DURATION": "0.05",
            "MIN_FREE_DISK_GB": "0",
            "REPLAY_EXAMPLES": "2",
            "OMP_NUM_THREADS": "1",
        }
        self._lay_out()
        self.use()
        self.days = [date.today() - timedelta(1)]
        self.remember(self.days[0], 0)

    def _lay_out(self) -> None:
        for name in SCRIPTS:
            shutil.copy(ROOT / name, self.path / name)
        shutil.copytree(ROOT / "cron", self.path / "cron")
        for name in ("agent0", "tests", "faiss_memory.py", "harvest_failures.py"):
            (self.path / name).symlink_to(ROOT / name)
        python = self.path / ".venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(SHIM.format(python=sys.executable))
        python.chmod(0o755)

    def use(self) -> None:
        """Point this process's settings at the place."""
        os.environ |= {"COUNCIL_HOME": str(self.path), "BASE_MODEL": str(self.base), "COUNCIL_URL": self.engine.url}
        get_settings.cache_clear()

    def remember(self, day: date, first: int) -> None:
        """Put a day's failures into memory."""
        memory, window = FaissMemory(), day_window(day)
        for number in range(first, first + FAILURES):
            answer = {"response": "It is 7.", "success": False, "confidence": 0.2, "timestamp": window.since + number}
            question = f"What is {number + 12} * 17?"
            memory.add(question, answer)
            self.engine.answers[question] = (9, str((number + 12) * 17))  # a later night's gate asks it
        memory.close()

    def hook(self, stage: str, script: str) -> None:
        """Run this bash before a stage."""
        (self.faults / stage).write_text(script + "\n")

    def mend(self) -> None:
        """Take the faults away."""
        shutil.rmtree(self.faults)
        self.faults.mkdir()

    def night(self, timeout: float = 280, **more: str) -> Night:
        """Run the whole night as cron does, and return what it left."""
        heard, logs = len(self.receiver.received), set(self.path.glob("logs/nightly_*.log"))
        if logs:
            time.sleep(max(0, 1.05 - (time.time() - max(log.stat().st_ctime for log in logs))))  # a log a second
        command = [str(self.path / "cron/nightly_improvement.sh")]
        environment = {**self.environment, **more}
        with subprocess.Popen(
            command, cwd="/", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        ) as process:
            try:
                output = process.communicate(timeout=timeout)[0].decode(errors="replace")
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        new = set(self.path.glob("logs/nightly_*.log")) - logs
        log = "".join(path.read_text(errors="replace") for path in new)
        return Night(process.returncode, output, log, self.nights(), self.receiver.received[heard:])

    def nights(self) -> list[dict]:
        """The night events of the ledger, whatever else its lines hold."""
        path, events = self.path / "logs/ledger.jsonl", []
        for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return [event for event in events if event["event"] == "night"]

    def state(self) -> str:
        """The release that serves; raises where loras/current leads to none that is whole."""
        self.use()
        serves = adapters.target("current")
        return adapters.validate(serves.path).name if serves else "base"

    def lost(self) -> list[str]:
        """What should be there and is not, or is there twice, after a healthy night."""
        memory = FaissMemory()
        kept = len(memory.meta)
        memory.close()
        files = sorted((self.path / "training_data").glob("harvest_*.jsonl"))
        examples = [example for file in files for example in read_jsonl(file, TrainingExample)]
        answers, wanted = {example.answer_id for example in examples}, FAILURES * len(self.days)
        wrong = [] if kept == wanted else [f"{kept} of {wanted} records"]
        if not len(examples) == len(answers) == wanted:
            wrong.append(f"{len(examples)} examples of {len(answers)} answers, {wanted} failures")
        wrong += [f"{e.instruction} -> {e.output}" for e in examples if not _right(e)]
        ledger.read()
        return wrong

    def close(self) -> None:
        self.engine.stop()
        self.receiver.__exit__()


def _right(example: TrainingExample) -> bool:
    """Whether an example holds the product that its question asks for."""
    a, b = map(int, re.findall(r"\d+", example.instruction))
    return str(a * b) in re.findall(r"\d+", example.output.replace(",", ""))


def small_questions(folder: Path) -> Path:
    """A QUESTIONS_PATH with few questions."""
    folder.mkdir()
    for name, count in HELD.items():
        rows = [
            row for row in read_jsonl(ROOT / "examples" / f"{name}.jsonl", Question) if row.answer or name == REPLAY
        ]
        write_jsonl(folder / f"{name}.jsonl", rows[:count])
    return folder


def base_model(folder: Path) -> Path:
    """The tiny base model that all places share."""

    class Environment:
        setenv = staticmethod(os.environ.__setitem__)

    return lora_kit.make_base(folder, Environment)

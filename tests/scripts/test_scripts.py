"""The scripts as a user and as cron run them: real bash in a temporary root, with scripted stages for Python's.

A stand-in for .venv/bin/python notes each call in `calls`, and runs `stages/<name>` (bash) for the stage that is
called; what tells people is the real Python.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.webhook import Receiver

ROOT = Path(__file__).resolve().parents[2]
TRAIN, DEPLOY, ROLLBACK, NIGHT = (
    "train_lora.sh",
    "deploy_lora.sh",
    "rollback_lora.sh",
    "cron/nightly_improvement.sh",
)
SCRIPTS = [TRAIN, DEPLOY, ROLLBACK, NIGHT]
LOCKS = {TRAIN: "loras/.train.lock", DEPLOY: "loras/.lock", ROLLBACK: "loras/.lock", NIGHT: "logs/.night.lock"}
STAGES = ["preflight", "harvest_failures", "agent0.train", "agent0.gate", "rollout deploy", "validate", "cleanup"]
STAND_IN = f"""#!/usr/bin/env bash
echo "$*" >>"$COUNCIL_HOME/calls"
[[ "$*" != *"night tell"* && "$*" != *agent0.notify* ]] || exec {sys.executable} "$@"
for stage in "$COUNCIL_HOME"/stages/*; do
  [[ "$*" != *"${{stage##*/}}"* ]] || exec bash "$stage"
done
"""


class Place:
    """A root of its own with the scripts in it, and a webhook that hears of what they do."""

    def __init__(self, path: Path, receiver: Receiver):
        self.path, self.receiver = path, receiver
        for name in (TRAIN, DEPLOY, ROLLBACK):
            shutil.copy(ROOT / name, path / name)
        shutil.copytree(ROOT / "cron", path / "cron")
        for name in ("agent0", "faiss_memory.py", "examples"):
            (path / name).symlink_to(ROOT / name)
        python = path / ".venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(STAND_IN)
        python.chmod(0o755)
        (path / "stages").mkdir()

    def stage(self, name: str, script: str) -> None:
        """Let the stage whose command contains `name` do what this bash says."""
        (self.path / "stages" / name).write_text(script)

    def environment(self, **more) -> dict[str, str]:
        """What cron gives, and the webhook."""
        return {"HOME": str(self.path), "PATH": "/usr/bin:/bin", "NOTIFICATION_WEBHOOK": self.receiver.url, **more}

    def run(self, script: str, *arguments: str, cwd: Path | str = "/", **more) -> subprocess.CompletedProcess:
        command = [str(self.path / script), *arguments]
        return subprocess.run(
            command, cwd=cwd, env=self.environment(**more), capture_output=True, text=True, timeout=60
        )

    @property
    def calls(self) -> list[str]:
        """The Python commands that were run, without the ones that tell."""
        path = self.path / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if "night tell" not in line and "agent0.notify" not in line]

    def log(self, kind: str) -> str:
        (path,) = (self.path / "logs").glob(f"{kind}_*.log")
        return path.read_text()

    def nights(self) -> list[dict]:
        path = self.path / "logs/ledger.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [event for event in events if event["event"] == "night"]

    def stages_run(self) -> list[str]:
        return [name for call in self.calls for name in STAGES if name in call]


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "a place"
    path.mkdir()
    with Receiver() as receiver:
        yield Place(path, receiver)


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel does not share out by session")
def test_a_training_has_a_low_priority_beside_a_server_of_another_session(place):
    place.stage("agent0.train", 'cat /proc/self/autogroup >"$COUNCIL_HOME/group"; nice >"$COUNCIL_HOME/nice"')
    ours = Path("/proc/self/autogroup").read_text()
    assert place.run(TRAIN).returncode == 0
    assert (place.path / "group").read_text().endswith(" nice 10\n") and int((place.path / "nice").read_text()) >= 10
    assert Path("/proc/self/autogroup").read_text() == ours, "the session that it was started from keeps its own"


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_the_header_and_needs_nothing(place, script, flag):
    shutil.rmtree(place.path / ".venv")
    link = place.path / "link"
    link.symlink_to(place.path / script)
    direct, through_link = place.run(script, flag), place.run("link", flag)
    assert direct.returncode == 0 and direct.stderr == ""
    assert direct.stdout.startswith(f"Usage: {Path(script).name}")
    assert "Exit codes: 0" in direct.stdout and "set -euo" not in direct.stdout
    assert through_link.stdout == direct.stdout
    assert not (place.path / "logs").exists()


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (TRAIN, ["--fast"]),
        (TRAIN, ["data"]),
        (DEPLOY, ["--force"]),
        (DEPLOY, ["loras/latest", "more"]),
        (ROLLBACK, ["loras/latest"]),
        (ROLLBACK, ["--to"]),
        (ROLLBACK, ["--to", "--list"]),
        (NIGHT, ["now"]),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_2(place, script, arguments):
    done = place.run(script, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "--help" in done.stderr
    assert done.stdout == "" and place.calls == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_venv_is_one_line_that_says_make_setup(place, script):
    shutil.rmtree(place.path / ".venv")
    done = place.run(script)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "make setup" in done.stderr


@pytest.mark.parametrize("code", [0, 10, 1, 137])
def test_python_decides_the_exit_code_and_the_log_holds_the_run(place, code):
    place.stage("agent0.train", f'echo "the stage" >>"${{COUNCIL_LOG%%:*}}"; exit {code}')
    done = place.run(TRAIN, COUNCIL_NIGHT="a night")
    assert done.returncode == code
    log = place.log("training")
    assert "the stage" in log and f"train_lora.sh: exit {code}" in log
    assert f"exit {code}" in done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "call"),
    [
        (DEPLOY, [], "-m agent0.rollout deploy loras/latest"),
        (DEPLOY, ["r2"], "-m agent0.rollout deploy r2"),
        (ROLLBACK, [], "-m agent0.rollout rollback"),
        (ROLLBACK, ["--to", "r1"], "-m agent0.rollout rollback --to r1"),
        (ROLLBACK, ["--dry-run", "--to", "r1"], "-m agent0.rollout rollback --dry-run --to r1"),
    ],
)
def test_arguments_reach_python(place, script, arguments, call):
    assert place.run(script, *arguments, COUNCIL_NIGHT="a night").returncode == 0
    assert place.calls == [call]


def test_state_and_relative_paths_are_in_council_home(place, tmp_path):
    elsewhere = tmp_path / "elsewhere/home"
    (elsewhere / "stages").mkdir(parents=True)
    (elsewhere / "stages/agent0.train").write_text("pwd >ran; exit 10")
    assert place.run(TRAIN, cwd=tmp_path, COUNCIL_HOME="elsewhere/home").returncode == 10
    assert (elsewhere / "ran").read_text() == f"{elsewhere}\n"
    assert len(list((elsewhere / "logs").glob("training_*.log"))) == 1
    assert not (place.path / "logs").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_held_lock_is_exit_75_and_names_the_holder(place, script):
    lock = place.path / LOCKS[script]
    lock.parent.mkdir()
    lock.write_text("another.sh (pid 42, since noon)\n")
    with open(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = place.run(script)
    assert done.returncode == 75
    assert len(done.stderr.splitlines()) == 1 and "another.sh (pid 42, since noon)" in done.stderr
    assert place.calls == [] and place.receiver.received == [] and place.nights() == []
    assert place.run(script, COUNCIL_NIGHT="a night").returncode == 0, "a lock that nobody holds stops nobody"


def test_a_missing_flock_is_not_a_held_lock(place, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "date", "dirname", "readlink", "mkdir", "awk"):
        (tools / name).symlink_to(shutil.which(name))
    done = place.run(TRAIN, PATH=str(tools))
    assert done.returncode == 1 and "flock is missing" in done.stderr and place.calls == []


def test_looking_at_releases_needs_no_lock_and_tells_nobody(place):
    lock = place.path / LOCKS[ROLLBACK]
    lock.parent.mkdir()
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert [place.run(ROLLBACK, flag).returncode for flag in ("--list", "--dry-run")] == [0, 0]
    assert len(place.calls) == 2 and place.receiver.received == []
    assert not list((place.path / "logs").glob("*.log"))


@pytest.mark.parametrize(
    ("script", "code", "title"), [(DEPLOY, 20, "Deployment: rolled back"), (ROLLBACK, 1, "Rollback: failed (exit 1)")]
)
def test_a_run_by_hand_tells_once(place, script, code, title):
    place.stage("rollout", f"exit {code}")
    assert place.run(script).returncode == code
    assert [message["title"] for message in place.receiver.received] == [title]


def test_a_stage_of_a_night_leaves_the_telling_to_the_night(place):
    place.stage("rollout", "exit 20")
    assert place.run(DEPLOY, COUNCIL_NIGHT="20261123T020000Z").returncode == 20
    assert place.receiver.received == []


@pytest.mark.parametrize(
    ("codes", "code", "last", "title"),
    [
        ({}, 0, "validate", "Night: deployed"),
        ({"harvest_failures": 10}, 0, "validate", "Night: deployed"),
        ({"harvest_failures": 10, "agent0.train": 10}, 10, "agent0.train", "Night: nothing to do"),
        ({"rollout deploy": 20}, 20, "validate", "Night: rolled back"),
        ({"rollout deploy": 30}, 30, "validate", "Night: candidate not deployed"),
        ({"preflight": 1}, 1, "preflight", "Night: failed in pre-flight (exit 1)"),
        ({"harvest_failures": 137}, 137, "harvest_failures", "Night: failed in harvest (exit 137)"),
        ({"agent0.train": 1}, 1, "agent0.train", "Night: failed in training (exit 1)"),
        ({"rollout deploy": 1, "cleanup": 1}, 1, "rollout deploy", "Night: failed in deployment (exit 1)"),
        ({"rollout deploy": 20, "validate": 1}, 1, "validate", "Night: failed in validation (exit 1)"),
        ({"agent0.gate": 1}, 1, "agent0.gate", "Night: failed in gate (exit 1)"),
        ({"cleanup": 1}, 1, "validate", "Night: failed in cleanup (exit 1)"),
    ],
)
def test_a_night_ends_with_what_happened_and_tells_once(place, codes, code, last, title):
    for name, value in codes.items():
        place.stage(name, f"exit {value}")
    done = place.run(NIGHT)
    assert done.returncode == code
    assert place.stages_run() == [*STAGES[: STAGES.index(last) + 1], "cleanup"]
    assert [message["title"] for message in place.receiver.received] == [title]
    (night,) = place.nights()
    assert night["exit_code"] == code and night["night"]
    assert len(night["stages"]) == len(place.stages_run())
    log = place.log("nightly")
    assert log.count("=====\n") == 2 * len(night["stages"]), "a banner before and after each stage"
    assert done.stderr == ""


def test_what_is_on_hold_is_tried_again_where_nothing_is_new(place):
    place.stage("agent0.train", "exit 10")
    place.stage("adapters waiting", "echo r1")
    assert place.run(NIGHT).returncode == 0
    assert place.stages_run() == STAGES


def test_a_release_that_the_gate_refuses_is_not_tried(place):
    place.stage("agent0.gate", "exit 30")
    assert place.run(NIGHT).returncode == 30
    assert place.stages_run() == [stage for stage in STAGES if stage != "rollout deploy"]
    assert [message["title"] for message in place.receiver.received] == ["Night: candidate not deployed"]


def test_the_nightly_log_holds_what_every_stage_logs_and_each_script_its_own(place):
    for name in STAGES:
        place.stage(name, f'tr : "\\n" <<<"$COUNCIL_LOG" | while read -r log; do echo "said by {name}" >>"$log"; done')
    assert place.run(NIGHT).returncode == 0
    assert [name for name in STAGES if f"said by {name}" in place.log("nightly")] == STAGES
    assert "said by agent0.train" in place.log("training")
    assert "said by rollout deploy" in place.log("deployment")
    assert "train_lora.sh: exit 0" in place.log("nightly")


def test_a_stage_that_runs_by_hand_makes_the_night_fail_aloud(place):
    lock = place.path / LOCKS[TRAIN]
    lock.parent.mkdir()
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert place.run(NIGHT).returncode == 75
    (message,) = place.receiver.received
    assert message["title"] == "Night: another run holds the lock in training (exit 75)"


@pytest.mark.parametrize("group", [False, True], ids=["the night alone", "its whole group"])
def test_a_night_that_is_stopped_ends_its_stage_and_tells_so(place, group):
    busy = 'trap "exit 0" TERM; echo $$ >"$COUNCIL_HOME/stage.pid"; while :; do sleep 0.05; done'
    place.stage("agent0.train", busy)
    command = [str(place.path / NIGHT)]
    night = subprocess.Popen(command, env=place.environment(), stdout=subprocess.DEVNULL, start_new_session=True)
    pid_file = place.path / "stage.pid"
    while not pid_file.exists() or not pid_file.read_text():
        assert night.poll() is None
        time.sleep(0.02)
    (os.killpg if group else os.kill)(night.pid, signal.SIGTERM)
    assert night.wait(30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    (event,) = place.nights()
    assert (event["outcome"], event["exit_code"], event["stage"]) == ("stopped", 143, "training")
    assert [message["title"] for message in place.receiver.received] == ["Night: stopped in training (exit 143)"]
    assert "rollout deploy" not in place.stages_run()


def test_a_deployment_that_is_stopped_ends_with_what_python_made_of_it(place):
    place.stage("rollout", 'trap "exit 20" TERM; touch "$COUNCIL_HOME/ready"; while :; do sleep 0.05; done')
    command = [str(place.path / DEPLOY)]
    deploy = subprocess.Popen(command, env=place.environment(COUNCIL_NIGHT="now"), stdout=subprocess.DEVNULL)
    while not (place.path / "ready").exists():
        assert deploy.poll() is None
        time.sleep(0.02)
    deploy.terminate()
    assert deploy.wait(30) == 20


def test_a_night_survives_the_loss_of_its_terminal(place):
    reader, writer = os.pipe()
    os.close(reader)
    night = subprocess.Popen(
        [str(place.path / NIGHT)], env=place.environment(), stdout=writer, stderr=subprocess.DEVNULL
    )
    os.close(writer)
    assert night.wait(30) == 0
    assert place.stages_run() == STAGES and len(place.receiver.received) == 1


def test_a_night_that_cannot_read_its_settings_tells_so(place):
    place.stage("preflight", f"exec {sys.executable} -m agent0.night preflight")
    done = place.run(NIGHT, BATCH_SIZE="many")
    assert done.returncode == 2
    (message,) = place.receiver.received
    assert message["title"] == "Night: bad setting in pre-flight (exit 2)"
    assert "BATCH_SIZE='many'" in message["text"]


def test_a_night_writes_one_line_to_the_journal(place, tmp_path):
    logger = tmp_path / "bin/logger"
    logger.parent.mkdir()
    logger.write_text(f'#!/bin/sh\necho "$*" >>"{tmp_path}/journal"\n')
    logger.chmod(0o755)
    place.stage("agent0.train", "exit 10")
    place.run(NIGHT, PATH=f"{logger.parent}:/usr/bin:/bin", COUNCIL_NIGHT="a night")
    (line,) = (tmp_path / "journal").read_text().splitlines()
    assert line.startswith("-t autogen-council night ") and "exit 10" in line


def test_the_cron_line_survives_a_path_with_spaces_and_percent_signs(tmp_path):
    folder = tmp_path / "my council 100%"
    (folder / "cron").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "cron/nightly_improvement.sh").write_text("echo ran\n")
    line = subprocess.run(["make", "-s", "cron-line"], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert line.startswith("0 2 * * * ")
    command = line.removeprefix("0 2 * * * ").replace("\\%", "%")  # as cron does
    assert "%" not in line.replace("\\%", "")
    assert subprocess.run(f"sh {command}", shell=True, capture_output=True, text=True).stdout == "ran\n"


def test_the_shared_file_stays_small():
    assert len((ROOT / "cron/lib.sh").read_text().splitlines()) < 80

"""One whole night, on this machine: a day of questions, then the nightly run, then what it changed.

python -m examples.demo
"""

import os
import subprocess
import sys
import time

from agent0 import ledger
from agent0.client import CouncilClient, ServerError
from agent0.command import DONE, CouncilError, log, no_arguments, run_command
from agent0.evaluate import load_questions, measure, success_rate, table
from agent0.quality import ANSWER_TOKENS, HELD_OUT, questions_file
from agent0.records import Question, read_jsonl
from agent0.settings import ROOT, Settings, get_settings
from faiss_memory import FaissMemory

DAY = ROOT / "examples" / "day.jsonl"
STORE_SECONDS = 10
START_SECONDS = 120
CRON_PATH = "/usr/local/bin:/usr/bin:/bin"


def ensure_server(client: CouncilClient) -> int | None:
    """Use the healthy server at COUNCIL_URL, or start one; return the pid of one that was started here."""
    try:
        log.info("using the server that is already there: %s", client.health()["status"])
        return None
    except ServerError:
        pass  # nobody answers: start our own
    logs = get_settings().logs
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / f"server_{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.log"
    with open(path, "w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "agent0.serve"], cwd=ROOT, stdout=out, stderr=out, start_new_session=True
        )
    log.info("starting the Council server (log: %s)", path)
    await_health(client, server, path)
    return server.pid


def await_health(client: CouncilClient, server: subprocess.Popen, path) -> None:
    """Wait until the server is healthy. Raises CouncilError that points at its log when it ends or is not in time."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            client.health()
            return
        except ServerError:
            time.sleep(0.5)
    if (code := server.poll()) is not None:
        raise CouncilError(f"the server ended with {code}; see {path}")
    server.terminate()
    raise CouncilError(f"the server did not become healthy within {START_SECONDS} s; see {path}")


def await_memory(since: float, wanted: int) -> int:
    """Return how many answers memory holds since then, as soon as they are `wanted`: answers go out before the disk."""
    deadline = time.monotonic() + STORE_SECONDS
    while (held := len(FaissMemory().between(since, time.time()))) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return held


def ask_the_day(client: CouncilClient) -> None:
    """Ask every question of the day, eight at a time; the answers go to memory, as a user's would."""
    started = time.time()
    questions = [question.question for question in read_jsonl(DAY, Question)]
    client.ask_many(questions, title="asking a day of questions", max_tokens=ANSWER_TOKENS, user="demo")
    remembered = await_memory(started, len(questions))
    if remembered < len(questions):
        raise CouncilError(
            f"{client.url} answered {len(questions)} questions, but {get_settings().memory_path} got {remembered}: "
            "that server belongs to another checkout; stop it or set COUNCIL_URL to a free port"
        )
    answers = FaissMemory().between(started, time.time(), success=False)
    log.info("asked %d questions; the model itself doubts %d of its answers", len(questions), len(answers))


def run_night() -> int:
    """Run cron/nightly_improvement.sh with cron's bare environment, over today instead of yesterday."""
    ours = {name: value for name, value in os.environ.items() if name.lower() in Settings.model_fields}
    environment = {"HOME": os.environ["HOME"], "PATH": CRON_PATH, **ours, "HARVEST_WINDOW": "today"}
    return subprocess.run(["bash", str(ROOT / "cron" / "nightly_improvement.sh")], env=environment, cwd="/").returncode


def print_result(before: list, after: list, code: int, seconds: dict[str, float], pid: int | None) -> None:
    """Print success before and after by kind, the seconds of each stage, and what to do next."""
    night = ledger.last("night") or {}
    gain = success_rate(after) - success_rate(before)
    print("\nHeld-out questions that were never asked by day, answered right:\n")
    print(table({"before": before, "after": after}))
    print(f"\n{100 * gain:+.1f} points; the night ended with exit code {code} ({night.get('outcome', 'unknown')})\n")
    for stage, value in {**seconds, **{f"  {k}": v for k, v in night.get("stages", {}).items()}}.items():
        print(f"  {stage:<28} {value:6.0f} s")
    print(
        f"""
What to do next:
  curl -s {get_settings().council_url}/health      what serves now
  ls -l loras                                what it came from, and the ways back
  bash rollback_lora.sh                      go back
  make cron-line                             the crontab line that does this every night
  make test                                  check everything"""
    )
    if pid:
        print(f"  kill {pid:<37} stop the server that this demo started")


def main() -> int:
    client, seconds = CouncilClient(), {}

    def timed(name: str, step, *arguments):
        start = time.monotonic()
        result = step(*arguments)
        seconds[name] = time.monotonic() - start
        return result

    held_out = load_questions(questions_file(HELD_OUT))
    pid = timed("start the server", ensure_server, client)
    timed("ask a day of questions", ask_the_day, client)
    before = timed("measure before", measure, held_out)
    code = timed("the night", run_night)
    after = timed("measure after", measure, held_out)
    print_result(before, after, code, seconds, pid)
    return code if code not in (0, 10) else DONE


if __name__ == "__main__":
    no_arguments(__doc__)
    run_command(main)

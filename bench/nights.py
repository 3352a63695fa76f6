"""Real nights in a row, with the calendar moved on: does the loop make the model better, and never worse?

python -m bench.nights [--nights 7] [--loop ours naive] [--questions 20] [--sabotage NIGHT=wrong NIGHT=one-kind]

Each night: a day of new questions over HTTP, then the nightly script as cron runs it, then held-out and general
questions. `naive` is the seed's recipe literally, each night on its day's examples from where the last one ended,
without gate, pool and replay. What each loop made lies in logs/nights/; a run that was stopped goes on after its last
whole night. Ends in a table, and in bench/nights.png.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import libfaketime

from agent0.client import CouncilClient
from agent0.command import DONE, NOTHING_TO_DO, REFUSED, ROLLED_BACK, CouncilError, log, run_command
from agent0.council.math import solve
from agent0.evaluate import load_questions, measure, success_rate
from agent0.quality import ANSWER_TOKENS, GENERAL, HELD_OUT, gist, held_out_questions, questions_file
from agent0.records import TrainingExample, write_jsonl
from agent0.settings import ROOT, get_settings
from examples.demo import await_health
from examples.make_questions import KINDS

CLOCK = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
CHART = Path(__file__).with_name("nights.png")
COMMON = {"HARVEST_WINDOW": "today", "ROLLBACK_THRESHOLD_LATENCY": "5000"}  # a busy machine must not decide
OURS = {**COMMON, "MONITOR_DURATION": "30"}
NAIVE = {**COMMON, "TRAIN_RECIPE": "seed", "TRAIN_FROM": "current", "REPLAY_EXAMPLES": "0"}
WRONG = 300  # examples of a night of wrong rewrites
SABOTAGE = {"wrong": "wrong rewrites", "one-kind": "one kind only"}
ENDS = {DONE: "deployed", NOTHING_TO_DO: "nothing to do", ROLLED_BACK: "rolled back", REFUSED: "not deployed"}


@dataclass(frozen=True)
class Night:
    """What one night left: shares of right answers, failures of its day, the script's exit code, minutes."""

    night: int
    held_out: float
    general: float
    failures: int
    exit_code: int
    minutes: float
    sabotage: str = ""


def day_questions(night: int, each: int, one_kind: bool) -> list[str]:
    """New questions of every kind (or of one), none of them held out; the same ones for the same night."""
    r, forbidden, asked = random.Random(1000 + night), held_out_questions(), {}
    kinds = ["average"] if one_kind else list(KINDS)
    while len(asked) < each * len(KINDS):
        question, _ = KINDS[kinds[len(asked) % len(kinds)]](r)
        if gist(question) not in forbidden:
            asked[gist(question)] = question
    return list(asked.values())


def wrong_rewrites(home: Path, night: int) -> None:
    """Put a day's examples into the pool with the answer to another question, as a council gone mad would elect.

    Put so that no exact check understands them: else the pool would drop them by itself.
    """
    solved = [(q, found) for q in day_questions(night + 500, WRONG // len(KINDS), False) if (found := solve(q))]
    solved.sort(key=lambda pair: pair[1].kind)
    facts = {"reasoning": "Sabotage.", "quality_score": 1, "harvest_timestamp": time.time(), "answer_id": "none"}
    rows = [
        TrainingExample(
            id=f"wrong-{night}-{number}",
            instruction=f"Quickly: {question}",
            output=solved[number - 1][1].output,
            kind=found.kind,
            votes={"mad": 1, "madder": 1},
            **facts,
        )
        for number, (question, found) in enumerate(solved)
    ]
    write_jsonl(home / "training_data" / f"harvest_wrong{night}.jsonl", rows)


@contextlib.contextmanager
def council(home: Path, night: int, options: dict[str, str]) -> Iterator[dict[str, str]]:
    """Run a server on its own port, home and day; yield the environment of that day's processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    clock = {"LD_PRELOAD": str(CLOCK), "FAKETIME": f"+{night}d", "DONT_FAKE_MONOTONIC": "1"}
    bare = {"HOME": os.environ["HOME"], "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    environment = {**bare, **clock, "COUNCIL_HOME": str(home), "COUNCIL_URL": url, **options}
    (home / "logs").mkdir(parents=True, exist_ok=True)
    path = home / "logs" / f"server_{night}.log"
    with open(path, "w") as out:
        server = subprocess.Popen([sys.executable, "-m", "agent0.serve"], env=environment, stdout=out, stderr=out)
    os.environ["COUNCIL_URL"] = url
    get_settings.cache_clear()
    try:
        await_health(CouncilClient(), server, path)
        yield environment
    finally:
        server.terminate()
        server.wait()


def run_ours(environment: dict[str, str]) -> int:
    return subprocess.run(["bash", str(ROOT / "cron" / "nightly_improvement.sh")], env=environment, cwd="/").returncode


def run_naive(environment: dict[str, str]) -> int:
    """Harvest, train on this day's examples from what serves, and serve the result whatever it is."""
    steps = [[sys.executable, str(ROOT / "harvest_failures.py")], ["bash", str(ROOT / "train_lora.sh")]]
    code = next((code for step in steps if (code := subprocess.run(step, env=environment, cwd="/").returncode)), 0)
    loras = Path(environment["COUNCIL_HOME"]) / "loras"
    if code == 0:
        release = (loras / "latest").resolve()
        client = CouncilClient()
        client.load_adapter(release.name, str(release))
        client.route(release.name)
        (loras / ".next").symlink_to(f"adapters/{release.name}")
        (loras / ".next").rename(loras / "current")
    for learnt in loras.parent.glob("training_data/harvest_*.jsonl"):
        learnt.rename(learnt.with_name(f"past_{learnt.name}"))
    return code


LOOPS = {"ours": (OURS, run_ours), "naive": (NAIVE, run_naive)}


def live(home: Path, loop: str, night: int, each: int, sabotage: str) -> Night:
    """Live one day and night. Raises CouncilError where the server fails."""
    started, (options, run) = time.monotonic(), LOOPS[loop]
    ledger = home / "logs" / "ledger.jsonl"
    told = len(ledger.read_text().splitlines()) if ledger.exists() else 0
    with council(home, night, options) as environment:
        CouncilClient().ask_many(
            day_questions(night, each, sabotage == "one-kind"), title=f"{loop}, day {night}", max_tokens=ANSWER_TOKENS
        )
        if sabotage == "wrong":
            wrong_rewrites(home, night)
        code = run(environment)
        held_out, general = (
            success_rate(measure(load_questions(questions_file(name)), title=name)) for name in (HELD_OUT, GENERAL)
        )
    events = [json.loads(line) for line in ledger.read_text().splitlines()[told:]]
    failures = sum(event["failures"] for event in events if event["event"] == "harvest")
    return Night(night, held_out, general, failures, code, (time.monotonic() - started) / 60, sabotage)


def nights(home: Path, loop: str, count: int, each: int, sabotage: dict[int, str]) -> list[Night]:
    """Live the nights that are not lived yet; return all, night 0 being the model before any."""
    path = home / "nights.jsonl"
    lived = [Night(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
    home.mkdir(parents=True, exist_ok=True)
    for night in range(len(lived), count + 1):
        if night == 0:
            with council(home, 0, LOOPS[loop][0]):
                shares = [success_rate(measure(load_questions(questions_file(n)))) for n in (HELD_OUT, GENERAL)]
            lived.append(Night(0, *shares, 0, 0, 0))
        else:
            lived.append(live(home, loop, night, each, sabotage.get(night, "")))
        log.info("%s, night %d: held-out %.1f %%", loop, night, 100 * lived[-1].held_out)
        with open(path, "a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(lived[-1])) + "\n")
    return lived


def draw(runs: dict[str, list[Night]]) -> None:
    """Write the chart; a hollow mark is a night that changed nothing."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = {"held_out": "held-out right, %", "general": "general right, %", "failures": "failures of the day"}
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(8, 8), sharex=True, layout="constrained")
    for (name, label), ax in zip(panels.items(), axes, strict=True):
        scale = 1 if name == "failures" else 100
        for loop, lived in runs.items():
            shown = [night for night in lived if night.night or name != "failures"]
            x, y = [night.night for night in shown], [scale * getattr(night, name) for night in shown]
            (line,) = ax.plot(x, y, label=loop)
            filled = [line.get_color() if night.exit_code == DONE else "white" for night in shown]
            ax.scatter(x, y, c=filled, edgecolors=line.get_color(), zorder=3)
        ax.set(ylabel=label, ylim=(0, None if name == "failures" else 105))
    for night in next(iter(runs.values())):
        if night.sabotage:
            [ax.axvline(night.night, color="0.8", zorder=0) for ax in axes]
            axes[0].annotate(SABOTAGE[night.sabotage], (night.night, 2), rotation=90, fontsize=8, ha="right")
    axes[0].legend(loc="upper left")
    axes[-1].set(xlabel="night")
    figure.savefig(CHART, dpi=110)


def table(runs: dict[str, list[Night]]) -> str:
    lines = ["| loop | night | held-out | general | failures | night's end | minutes | |", "| --- " * 8 + "|"]
    for loop, lived in runs.items():
        for n in lived:
            shares, end = f"{n.held_out:.1%} | {n.general:.1%}", ENDS.get(n.exit_code, n.exit_code)
            end, spoilt = end if n.night else "", SABOTAGE.get(n.sabotage, "")
            lines.append(f"| {loop} | {n.night} | {shares} | {n.failures} | {end} | {n.minutes:.0f} | {spoilt} |")
    return "\n".join(lines)


def _sabotage(text: str) -> tuple[int, str]:
    night, _, what = text.partition("=")
    if what not in SABOTAGE:
        raise argparse.ArgumentTypeError(f"{text!r}: NIGHT=wrong or NIGHT=one-kind")
    return int(night), what


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=7)
    parser.add_argument("--loop", nargs="+", choices=LOOPS, default=["ours", "naive"])
    parser.add_argument("--questions", type=int, default=20, help="new questions of each kind a day")
    parser.add_argument("--sabotage", nargs="*", type=_sabotage, default=[], metavar="NIGHT=WHAT")
    arguments = parser.parse_args()
    if not CLOCK.exists():
        raise CouncilError(f"{CLOCK} is missing; install requirements-dev.txt")
    home = get_settings().logs / "nights"
    runs = {
        loop: nights(home / loop, loop, arguments.nights, arguments.questions, dict(arguments.sabotage))
        for loop in arguments.loop
    }
    print(table(runs))
    draw(runs)
    log.info("the chart is %s", CHART)
    return DONE


if __name__ == "__main__":
    run_command(main)

"""The morning report: logs/report_YYYYMMDD.html, one page that tells a person what the night did, and why.

python -m agent0.report [--night ID | --date YYYY-MM-DD] [--list]      (default: the newest night)

Everything in it is derived: the ledger, the releases, the pool, the quarantine and memory hold the facts, so that a
report can be written again at any time. The page needs no network, no script and no other file.
"""

import argparse
import re
from datetime import date
from pathlib import Path

from agent0 import ledger, morning, plots
from agent0.command import DONE, NOTHING_TO_DO, CouncilError, log, run_command
from agent0.morning import Night
from agent0.records import write_atomic
from agent0.settings import get_settings
from faiss_memory import FaissMemory

TEMPLATES = Path(__file__).parent / "pages"
NAME = re.compile(r"report_(\d{8})\.html")


def report_path(day: date | str) -> Path:
    """Where the report of a day (a date, or YYYYMMDD) stands."""
    return get_settings().logs / f"report_{day if isinstance(day, str) else f'{day:%Y%m%d}'}.html"


def reported_days() -> list[str]:
    """The days that have a report, as YYYYMMDD, newest first."""
    found = (NAME.fullmatch(path.name) for path in get_settings().logs.glob("report_*.html"))
    return sorted((match[1] for match in found if match), reverse=True)


def write(night: Night | None = None) -> Path:
    """Write the report of a night (default: the newest), and return where it stands.

    Two runs of one day share a page: the newest is told in full, the earlier ones in a line.
    Raises CouncilError where there is no night yet, or where the ledger, the pool or memory cannot be read.
    """
    known = morning.nights()
    if not known:
        raise CouncilError("no night has run yet; run `make night`", NOTHING_TO_DO)
    night = night or known[-1]
    path = report_path(night.day)
    write_atomic(path, render(night, [other for other in known if other.day == night.day and other.id < night.id]))
    return path


def refreshed(day: str) -> Path:
    """The report of a day, written again where the ledger has grown since: what people overruled shows at once.

    It stays as it was where that cannot be done, or where the day's only night has not ended yet.
    """
    path, story = report_path(day), ledger.ledger_path()
    if not story.exists() or path.stat().st_mtime >= story.stat().st_mtime:
        return path
    try:
        ended = [night for night in morning.nights() if f"{night.day:%Y%m%d}" == day and night.newest("night")]
        return write(ended[-1]) if ended else path
    except (CouncilError, OSError) as error:
        log.warning("warning: %s is shown as it was: %s", path, error)
        return path


def render(night: Night, earlier: list[Night]) -> str:
    """Return the page about one night."""
    memory = FaissMemory()
    try:
        return template("report.html").render(
            **_figures(night),
            night=night,
            started=morning.started(night.id),
            earlier=earlier,
            learned=night.learned(memory),
            refused=night.refused(),
            traffic=night.traffic(memory),
            chain=morning.chain(),
            tomorrow=morning.tomorrow(night.end["exit_code"]),
            past=[day for day in reported_days() if day < f"{night.day:%Y%m%d}"][:60],
            head=(night.ledger[-1].get("hash", "") if night.ledger else "")[:16],
        )
    finally:
        memory.close()


def _figures(night: Night) -> dict:
    """The night's figures, and what they are drawn from; None where the night did not come so far."""
    kinds, points = night.comparisons("kinds"), night.history()
    training = night.summary("training_metrics") if night.newest("training") else {}
    gate = night.newest("gate")
    answers = night.summary("gate_summary").get("changed", {}) if gate else {}
    return {
        "success_plot": plots.success_by_night(points) if points else None,
        "kinds": kinds,
        "suites": night.comparisons("suites"),
        "kinds_plot": plots.by_kind(kinds) if kinds else None,
        "training": training,
        "loss_plot": plots.loss_curve(training["losses"]) if len(training.get("losses", [])) > 1 else None,
        "gate": gate,
        "better": answers.get("better", []),
        "worse": answers.get("worse", []),
        "latency": (gate or {}).get("latency_ms"),
    }


def template(name: str):
    """Return a template of agent0/pages; every value that it prints is escaped, except the figures."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    pages.filters["percent"] = lambda share: f"{share:.1%}"
    pages.filters["seconds"] = lambda s: f"{s:.0f} s" if s < 100 else f"{s / 60:.0f} min"
    return pages.get_template(name)


def _chosen(arguments: argparse.Namespace) -> Night | None:
    nights = morning.nights()
    if arguments.night:
        found = [night for night in nights if night.id == arguments.night]
    elif arguments.date:
        found = [night for night in nights if night.day == arguments.date]
    else:
        return None
    if not found:
        raise CouncilError("the ledger knows no such night; `python -m agent0.report --list` prints them")
    return found[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--night", metavar="ID", help="a night's id, YYYYMMDDTHHMMSSZ")
    which.add_argument("--date", metavar="YYYY-MM-DD", type=date.fromisoformat, help="the newest night of a local day")
    which.add_argument("--list", action="store_true", help="print the nights, and stop")
    arguments = parser.parse_args()
    if arguments.list:
        for night in morning.nights():
            print(f"{night.id}  {night.end['outcome']}")
        return DONE
    log.info("the morning report is %s; last hash of the ledger %s", write(_chosen(arguments)), ledger.verify()[2])
    return DONE


if __name__ == "__main__":
    run_command(main)

"""Look after the memory: its size and health, a search, its index, and the rule by which it forgets.

python -m agent0.memory [show | search TEXT [--count N] | embed | rebuild | forget]
"""

import argparse
import time

from agent0.command import DONE, FAILED, CouncilError, log, run_command
from agent0.settings import get_settings
from faiss_memory import FaissMemory


def show(memory: FaissMemory) -> int:
    """Print size and health; exit 1 where the database is damaged."""
    health = memory.health()
    sizes = f"database {health['database_bytes'] / 1e6:.1f} MB, index {health['index_bytes'] / 1e6:.1f} MB"
    print(f"{health['place']}: {health['records']} records, {health['embedded']} embedded; {sizes}")
    print(f"database: {health['trouble'] or 'sound'}")
    return FAILED if health["trouble"] else DONE


def search(memory: FaissMemory, text: str, count: int) -> int:
    """Print the records whose questions are most like a text: score, id, question."""
    for record in memory.query(text, count):
        print(f"{record['score']:.3f} {record['id']} {' '.join(record['query'].split())[:100]}")
    return DONE


def forget_by_rule(memory: FaissMemory | None = None) -> int:
    """Forget what is older than MEMORY_DAYS; without that setting nothing is ever forgotten."""
    days, mine = get_settings().memory_days, None
    if days:
        memory = memory or (mine := FaissMemory())
        gone = memory.forget(time.time() - days * 86400)
        log.info("memory: %d records older than %d days are forgotten", gone, days)
    if mine:
        mine.close()
    return DONE


def embed(memory: FaissMemory) -> int:
    """Embed what was added since."""
    log.info("%d questions are embedded", memory.embed())
    return DONE


def rebuild(memory: FaissMemory) -> int:
    """Embed every question afresh."""
    memory.rebuild()
    return embed(memory)


def _forget(memory: FaissMemory) -> int:
    if not get_settings().memory_days:
        raise CouncilError("MEMORY_DAYS=0 keeps every record; set it to the days that records are kept")
    return forget_by_rule(memory)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m agent0.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("show", help=show.__doc__)
    asking = commands.add_parser("search", help=search.__doc__)
    asking.add_argument("text")
    asking.add_argument("--count", type=int, default=5, metavar="N")
    for command in (embed, rebuild):
        commands.add_parser(command.__name__, help=command.__doc__)
    commands.add_parser("forget", help="forget what is older than MEMORY_DAYS")
    options = vars(parser.parse_args())
    command = options.pop("command") or "show"
    known = {"show": show, "search": search, "embed": embed, "rebuild": rebuild, "forget": _forget}
    memory = FaissMemory()
    try:
        return known[command](memory, **options)
    finally:
        memory.close()


if __name__ == "__main__":
    run_command(main)

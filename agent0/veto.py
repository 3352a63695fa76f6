"""A person overrules the council: an example that is vetoed is never trained on again, nor the same rewrite of it.

python -m agent0.veto EXAMPLE [--undo] [--reason TEXT]      (--list: what is vetoed)

A veto is an event in the ledger, without any text: the example's id, and a hash of its question and output, so that a
harvest which finds the same rewrite again does not bring it back. It takes effect at the next training, which it makes
due where the newest release was trained on the example; jurors who voted for the example are known to have erred.
"""

import argparse
from hashlib import sha256

from agent0 import adapters, ledger
from agent0.command import DONE, NOTHING_TO_DO, CouncilError, log, run_command
from agent0.quality import normalise
from agent0.records import TrainingExample, read_jsonl
from agent0.settings import get_settings


def content(instruction: str, output: str) -> str:
    """What a veto knows an example by besides its id: a hash of the question and the rewrite."""
    return sha256(f"{normalise(instruction)}\n{output.strip()}".encode()).hexdigest()


class Vetoes:
    """The vetoes in force: those of people, and (unless `people_only`) what gates set aside, until people undo it.

    Raises CouncilError where the ledger is damaged.
    """

    def __init__(self, people_only: bool = False) -> None:
        self._contents: dict[str, str] = {}  # example id → content
        for event in ledger.read():
            if event["event"] == "gate" and not people_only:
                self._contents.update(event.get("set_aside", {}))
            elif event["event"] == "veto" and event["undone"]:
                again = {event["example"], event["content"]}  # it may have been vetoed under other ids, too
                self._contents = {id: kept for id, kept in self._contents.items() if not {id, kept} & again}
            elif event["event"] == "veto":
                self._contents[event["example"]] = event["content"]

    def __contains__(self, example: TrainingExample) -> bool:
        if example.id in self._contents:
            return True
        return bool(self._contents) and content(example.instruction, example.output) in self._contents.values()

    @property
    def ids(self) -> list[str]:
        return list(self._contents)


def all_examples() -> list[TrainingExample]:
    """Every example of training_data/harvest_*.jsonl, vetoed ones too. Raises CouncilError for a damaged line."""
    paths = sorted(get_settings().training_data.glob("harvest_*.jsonl"))
    return [example for path in paths for example in read_jsonl(path, TrainingExample)]


def find_example(id: str) -> TrainingExample:
    """Return the example of that id. Raises CouncilError where no harvest holds it."""
    for example in all_examples():
        if example.id == id:
            return example
    raise CouncilError(f"{id!r:.40}: no harvest holds this example; the morning report prints the ids")


def veto(id: str, reason: str = "", undo: bool = False) -> bool:
    """Veto an example, or take the veto back; return whether that changes anything.

    `reason` goes into the log only: the ledger holds no text. Raises CouncilError where the example is unknown.
    """
    example = find_example(id)
    if (example in Vetoes()) is not undo:
        return False
    ledger.append("veto", example=id, content=content(example.instruction, example.output), undone=undo)
    state = "allowed again" if undo else "vetoed, and left out of the next training (--undo takes that back)"
    log.info("example %s is %s%s", id, state, f"; {reason}" if reason else "")
    return True


def vetoed_examples(people_only: bool = False) -> list[TrainingExample]:
    """The examples that vetoes keep out of the pool."""
    vetoes = Vetoes(people_only)
    return [example for example in all_examples() if example in vetoes] if vetoes.ids else []


def removed(release: adapters.Release | None) -> int:
    """How many examples that a release was trained on were vetoed or forgotten since.

    One that a newer rewrite of the same question replaced is in the harvests still, and does not count.
    """
    trained = set(release.manifest.get("example_ids", [])) if release else set()
    if not trained:
        return 0
    vetoes = Vetoes()
    return len(trained - {example.id for example in all_examples() if example not in vetoes})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("example", nargs="?", help="an example's id, as the morning report and the harvests give it")
    parser.add_argument("--undo", action="store_true", help="take the veto back")
    parser.add_argument("--reason", default="", help="for the log")
    parser.add_argument("--list", action="store_true", help="print what is vetoed, and stop")
    arguments = parser.parse_args()
    if arguments.list:
        for example in vetoed_examples():
            print(f"{example.id}  {example.instruction!r:.80} -> {example.output!r:.60}")
        return DONE
    if not arguments.example:
        parser.error("name an example, or --list")
    if veto(arguments.example, arguments.reason, arguments.undo):
        return DONE
    log.info("nothing to do: example %s is %s", arguments.example, "not vetoed" if arguments.undo else "vetoed already")
    return NOTHING_TO_DO


if __name__ == "__main__":
    run_command(main)

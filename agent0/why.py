"""Why an answer came out as it did: its adapter, the training examples that were nearest, and where those came from.

python -m agent0.why ANSWER_ID

Nearness is the cosine between the question's embedding and the examples': it shows what the adapter was taught about
such questions, not that one example caused the answer.
"""

import argparse
import sys
from dataclasses import dataclass
from datetime import datetime

from agent0 import adapters, ledger, story
from agent0.command import DONE, CouncilError, run_command
from agent0.records import TrainingExample
from agent0.veto import Vetoes, all_examples
from faiss_memory import FaissMemory, load_embedder

NEAREST = 3


@dataclass(frozen=True)
class Near:
    """An example that the adapter was trained on, its cosine to the question, and the failure that it came from."""

    example: TrainingExample
    similarity: float
    failed: dict | None
    vetoed: bool

    @property
    def decided(self) -> str:
        """How the council decided, in words."""
        if self.example.verified_by:
            return f"proven by {self.example.verified_by}"
        votes = self.example.votes or {}
        return "elected: " + ", ".join(f"{juror} {worth:g}" for juror, worth in votes.items())


@dataclass(frozen=True)
class Why:
    """The whole chain behind one answer; `nights` are the ledger's events about its adapter, oldest first."""

    answer: dict
    nearest: list[Near]
    trained: int
    nights: list[dict]

    @property
    def when(self) -> str:
        return f"{datetime.fromtimestamp(self.answer['timestamp']):%Y-%m-%d %H:%M:%S}"


def explain(answer_id: str, memory: FaissMemory) -> Why:
    """Return what is known of an answer. Raises CouncilError where memory or the ledger does not hold it."""
    answer = memory.get(answer_id)
    if answer is None:
        raise CouncilError(f"memory holds no answer {answer_id!r:.80}; the morning report and the API's `id` name them")
    name = answer["adapter"]
    about = [event for event in ledger.read() if event.get("release") == name]
    trained = _trained_on(name)
    return Why(answer, _nearest(answer["query"], trained, memory), len(trained), about)


def _trained_on(name: str) -> list[TrainingExample]:
    """The examples that a release was trained on and that are still there; none where the release is gone."""
    release = adapters.Release(adapters.adapters_folder() / name)
    if release not in adapters.releases():
        return []
    ids = set(release.manifest.get("example_ids", []))
    return [example for example in all_examples() if example.id in ids]


def _nearest(question: str, examples: list[TrainingExample], memory: FaissMemory) -> list[Near]:
    if not examples:
        return []
    embed, vetoes = load_embedder(), Vetoes()
    scores = embed([example.instruction for example in examples]) @ embed([question])[0]
    best = sorted(zip(scores.tolist(), examples, strict=True), key=lambda pair: -pair[0])[:NEAREST]
    return [Near(e, score, memory.get(e.answer_id), e in vetoes) for score, e in best]


def text(why: Why) -> str:
    """Return the chain as lines for a terminal."""
    answer = why.answer
    lines = [
        f"answer {answer['id']}, {why.when}",
        f"  asked     {answer['query']}",
        f"  answered  {answer['response']}",
        f"  counted as {'a success' if answer['success'] else 'a failure'}: {_judged_by(answer)}",
        f"adapter {answer['adapter']}, trained on {why.trained} examples that are still known"
        + ("; the nearest, by meaning (1: the same):" if why.nearest else ""),
    ]
    for near in why.nearest:
        example = near.example
        lines += [
            f"  {near.similarity:.2f}  example {example.id}{' (vetoed)' if near.vetoed else ''}: {near.decided}",
            f"        question  {example.instruction}",
            f"        failed    {near.failed['response'] if near.failed else '(forgotten)'}",
            f"        rewritten {example.output}",
        ]
    lines += ["the ledger on that adapter:"] if why.nights else ["the ledger knows nothing of that adapter"]
    for event in why.nights:
        when = f"{datetime.fromtimestamp(event['timestamp']):%Y-%m-%d %H:%M}"
        night = f"night {event['night']}" if event["night"] else "by hand"
        lines.append(f"  {when}  {night}  {story.describe(event) or event['event']}")
    if why.nearest:
        lines.append("to overrule: `python -m agent0.veto EXAMPLE`: the next training goes without it")
    return "\n".join(lines)


def _judged_by(answer: dict) -> str:
    if told := answer["feedback"]:
        return f"feedback {', '.join(f'{name} {value}' for name, value in told.items() if name != 'timestamp')}"
    return f"confidence {answer['confidence']:.2f}, by the model itself"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answer", help="the answer's id, as the API and the morning report give it")
    answer = parser.parse_args().answer
    memory = FaissMemory()
    try:
        sys.stdout.write(text(explain(answer, memory)) + "\n")
    finally:
        memory.close()
    return DONE


if __name__ == "__main__":
    run_command(main)

"""How far the server's log-probabilities are from those that training records: what fingerprint.TOLERANCE is set from.

    python -m bench.fingerprint FOLDER FOLDER ...      (adapters of the configured base model)

Each adapter's fingerprint, by PEFT in fp32, against the engine with that adapter, with the others, and with none.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

from agent0 import fingerprint
from agent0.adapter_checks import CONFIG, WEIGHTS
from agent0.command import DONE, run_command
from agent0.serve.engine import Engine, load_engine


def asking(engine: Engine) -> SimpleNamespace:
    """The part of a client that fingerprints need, without HTTP."""

    def log_probabilities(prompt: str, model: str, tokens: int, alternatives: int) -> list[dict]:
        return engine.answer(prompt, model=model, max_tokens=tokens, logprobs=alternatives).logprobs or []

    return SimpleNamespace(log_probabilities=log_probabilities)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    folders = parser.parse_args().folders
    engine, same, other = load_engine(), [], []
    with tempfile.TemporaryDirectory() as place:
        made = {}
        for number, folder in enumerate(folders):
            made[f"adapter-{number}"] = copy = Path(place, f"adapter-{number}")
            copy.mkdir()
            [shutil.copyfile(folder / name, copy / name) for name in (CONFIG, WEIGHTS)]
            fingerprint.record(copy)
            engine.load(copy.name, copy)
        for recorded, folder in made.items():
            found = {name: fingerprint.difference(asking(engine), folder, name) for name in [*made, "base"]}
            print(f"{recorded}:", *(f"{name} {value:.4f}" for name, value in found.items()), flush=True)
            same.append(found.pop(recorded))
            other += found.values()
    engine.close()
    print(
        f"the same adapter: {min(same):.4f} to {max(same):.4f}; another or none: {min(other):.4f} to {max(other):.4f}"
    )
    return DONE


if __name__ == "__main__":
    run_command(main)

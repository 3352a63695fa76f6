"""Print what becomes of bad adapters, and of valid ones: python -m tests.adapters [--valid N]"""

import argparse
import re
import tempfile
from pathlib import Path

from agent0.command import DONE, FAILED, run_command
from agent0.serve.torch_decoder import TorchDecoder
from tests.adapters.suite import Refusal, tiny_server
from tests.adapters.valid import Trial, try_variant, variants
from tests.unit.tiny_council import make_model

REFUSED_AT_MOST, DIFFERENCE_AT_MOST = 0.05, 5e-3  # of the valid ones; of what an adapter changes
UNSUPPORTED = {"DoRA": {"use_dora": True}}


def shorten(reason: str) -> str:
    """A refusal without status, JSON and folders."""
    message = re.search(r'"message":"(.*?)","type"', reason)
    return re.sub(r"/\S*/", "", message[1] if message else reason)[:110]


def print_bad(refusals: list[Refusal]) -> None:
    print(f"{'kind':<50} {'refused by':<11} reason")
    for refusal in refusals:
        alone = "" if refusal.alone is not False else " [the engine alone would take it]"
        print(f"{refusal.kind:<50} {refusal.by or 'NOBODY':<11} {shorten(refusal.reason)}{alone}")
    refused, same = (sum(map(bool, found)) for found in zip(*((r.by, r.unchanged) for r in refusals), strict=True))
    print(f"{len(refusals)} bad adapters: {refused} refused; what is served was bit-identical after {same}")


def print_valid(trials: list[Trial]) -> None:
    refused, compared = [t for t in trials if t.refused], [t for t in trials if not t.refused]
    for trial in refused:
        print(f"refused: {trial.kind}: {shorten(trial.refused)}")
    worst = max(compared, key=lambda trial: trial.difference)
    print(f"{len(trials)} valid adapters: {len(refused)} refused; the others' logits are PEFT's within")
    print(f"{worst.difference:.1e} of what the adapter changes, the worst being {worst.kind}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--valid", type=int, default=210, help="how many valid adapters")
    with tempfile.TemporaryDirectory() as home, tiny_server(Path(home)) as place:
        count = parser.parse_args().valid
        refusals = place.try_all()
        decoders = [TorchDecoder(make_model())]
        trials = [try_variant(dtype, options, decoders) for dtype, options in variants(count)]
        print_bad(refusals)
        print_valid(trials)
        for name, option in UNSUPPORTED.items():
            trial = try_variant("fp32", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **option}, decoders)
            print(f"unsupported: {name}: {shorten(trial.refused or 'ACCEPTED')}")
    good = all(r.by and r.unchanged for r in refusals) and all(t.difference < DIFFERENCE_AT_MOST for t in trials)
    return DONE if good and sum(bool(t.refused) for t in trials) <= REFUSED_AT_MOST * len(trials) else FAILED


if __name__ == "__main__":
    run_command(main)

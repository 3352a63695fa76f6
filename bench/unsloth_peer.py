"""Train the rows of bench/train.py with Unsloth, in an interpreter of its own; print a JSON line a run."""

import json
import sys
from types import SimpleNamespace


def prepared(job: SimpleNamespace):
    """Return the training of one run on a model with an adapter, which all runs share."""
    import unsloth  # before transformers and trl, which it changes
    from trl_peer import DTYPE, trains

    plain = {"use_gradient_checkpointing": False}  # as all trainers here
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(job.path, max_seq_length=512, dtype=DTYPE, **plain)
    lora = {"r": 16, "lora_alpha": 32, "target_modules": job.modules}
    model = unsloth.FastLanguageModel.get_peft_model(model, **lora, **plain)
    return trains(job, model, tokenizer)


def main() -> None:
    job = SimpleNamespace(**json.loads(sys.stdin.readline()))
    try:
        train = prepared(job)
    except Exception as error:  # it fits few versions of the libraries that it changes
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        print(json.dumps({"run": job.runs[0], "error": reason}))
        return
    from trl_peer import do

    do(job, train)


if __name__ == "__main__":
    main()

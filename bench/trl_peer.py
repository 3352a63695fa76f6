"""Train the rows of bench/train.py with TRL's SFTTrainer, in an interpreter of its own; print a JSON line a run."""

import gc
import json
import resource
import sys
import tempfile
import time
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback, set_seed

GPU = torch.cuda.is_available()
DTYPE = torch.bfloat16 if GPU else torch.float32
SEED = 7


class Clock(TrainerCallback):
    """Seconds of each optimiser step of the last pass, with the loading of its rows; no checkpoint is saved.

    A GPU still works when a step's call returns: it is waited for. What it holds for an earlier run is given back, but
    not between the passes of one: to ask for it again takes time.
    """

    def __init__(self) -> None:
        gc.collect()
        if GPU:
            torch.cuda.empty_cache()

    def lap(self) -> float:
        """Seconds since the last lap."""
        if GPU:
            torch.cuda.synchronize()
        before, self.since = self.since, time.monotonic()
        return self.since - before

    def on_train_begin(self, args, state, control, **kwargs):
        self.steps: list[float] = []
        gc.collect()  # what an earlier pass left
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        self.since = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(self.lap())
        control.should_save = False


def peak() -> dict[str, float]:
    """Most memory in MB: of the process, or on a GPU what was allocated since the training began, and held for it."""
    if not GPU:
        return {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}
    return {"memory": torch.cuda.max_memory_allocated() / 1e6, "reserved": torch.cuda.max_memory_reserved() / 1e6}


def tell(run: dict, train) -> None:
    """Do train(run, clock) and print what bench/train.py reads: the run's seconds and memory, or why it failed."""
    try:
        clock = Clock()
        train(run, clock)
        result = {"steps": clock.steps, **peak()}
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    print(json.dumps({"run": run, **result}), flush=True)


def do(job: SimpleNamespace, train) -> None:
    """Say that all is loaded, wait for this trainer's turn, and do the job's runs."""
    print("\nready", flush=True)
    for run in job.runs if sys.stdin.readline() else []:  # bench/train.py is gone: no turn comes
        tell(run, train)


def load(job: SimpleNamespace):
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=DTYPE,
        bnb_4bit_use_double_quant=GPU,  # on a CPU it only takes time
    )
    quantised = {"quantization_config": nf4} if job.nf4 else {}
    return AutoModelForCausalLM.from_pretrained(job.path, dtype=DTYPE, **quantised)


def arguments(run: dict, job: SimpleNamespace, folder: str) -> dict:
    """What SFTConfig takes for one pass over the run's rows.

    `packed` is how many tokens are packed into a sequence, one a step; `padded` what rows are padded to.
    """
    lengths = {"max_length": run["packed"], "packing": True} if run.get("packed") else {"max_length": 512}
    if run.get("padded"):
        lengths["pad_to_multiple_of"] = run["padded"]
    return lengths | {
        "output_dir": folder,
        "per_device_train_batch_size": 1 if run.get("packed") else run["batch"],
        "gradient_accumulation_steps": 1,  # Unsloth would take two
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "train_sampling_strategy": "group_by_length" if run.get("grouped") else "random",
        "completion_only_loss": True,
        "gradient_checkpointing": False,
        "use_cpu": not GPU,
        "bf16": GPU or job.bf16,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "seed": SEED,
    }


def trains(job: SimpleNamespace, model, tokenizer, **adapter):
    """Return the training of one run, on a model that has no adapter before and after, or keeps the one it has.

    Each pass of a run meets the same rows in the same order.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    def train(run: dict, clock: Clock) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer = SFTTrainer(
                model=model,
                args=SFTConfig(**arguments(run, job, folder)),
                train_dataset=Dataset.from_list(job.rows[: run["rows"]]),
                processing_class=tokenizer,
                callbacks=[clock],
                **adapter,
            )
            try:
                for _ in range(run["passes"]):
                    set_seed(SEED)
                    trainer.train()
            finally:
                if adapter:
                    trainer.model.unload()

    return train


def main() -> None:
    from peft import LoraConfig

    job = SimpleNamespace(**json.loads(sys.stdin.readline()))
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=job.modules, task_type="CAUSAL_LM")
    do(job, trains(job, load(job), AutoTokenizer.from_pretrained(job.path), peft_config=lora))


if __name__ == "__main__":
    main()

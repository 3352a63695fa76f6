"""Train the rows of bench/train.py with TRL's SFTTrainer, in an interpreter of its own; print one JSON line."""

import json
import resource
import sys
import time
from types import SimpleNamespace

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer


class StepTimes(TrainerCallback):
    """When each optimiser step ended, in seconds."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.monotonic())


def main() -> None:
    job = SimpleNamespace(**json.loads(sys.stdin.read()))
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    quantised = {"quantization_config": nf4} if job.nf4 else {}
    model = AutoModelForCausalLM.from_pretrained(job.path, dtype=torch.float32, **quantised)
    tokenizer = AutoTokenizer.from_pretrained(job.path)
    times = StepTimes()
    padding = {"pad_to_multiple_of": job.padded} if job.padded else {}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=job.folder,
            per_device_train_batch_size=job.batch_size,
            max_steps=job.steps,
            learning_rate=1e-3,
            max_length=512,
            train_sampling_strategy="group_by_length" if job.grouped else "random",
            completion_only_loss=True,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=job.bf16,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=7,
            **padding,
        ),
        train_dataset=Dataset.from_list(job.rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=job.modules, task_type="CAUSAL_LM"),
        callbacks=[times],
    )
    trainer.train()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"ends": times.ends, "memory": memory}))


if __name__ == "__main__":
    main()

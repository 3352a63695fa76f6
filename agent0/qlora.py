"""The part of training that needs torch: the NF4 base model, its LoRA, and a loop with losses on answers only."""

import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import torch
from peft import LoraConfig, get_peft_model
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from agent0.command import log
from agent0.data_parallel import choose_processes, is_first, together

SEED = 7
disable_progress_bar()  # of loading: training has a bar of its own
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # between transformers and peft


def compute_dtype() -> torch.dtype:
    """bf16 or fp16 where the hardware has it, fp32 elsewhere (bf16 is emulated, slowly, on AVX2-only CPUs)."""
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def load_tokenizer(path: str):
    """Return the base model's tokenizer with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def load_model(path: str, recipe) -> torch.nn.Module:
    """Return the base model in NF4 (QLoRA, arXiv:2305.14314) with a fresh trainable LoRA on recipe.target_modules."""
    set_seed(SEED)
    dtype = compute_dtype()
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    base = AutoModelForCausalLM.from_pretrained(path, quantization_config=nf4, dtype=dtype, use_safetensors=True)
    base.requires_grad_(False)
    lora = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules=list(recipe.target_modules),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, lora)


class AnswerTrainer(Trainer):
    """Trainer whose loss takes logits at answer positions alone: the vocabulary's matmul dominates a small model."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the cross entropy of the answer tokens, summed and divided by their number in the whole step.

        `inputs` is one packed sequence. The number is that of all processes, whose gradients are averaged: hence
        the factor.
        """
        labels = inputs.pop("labels")[0, 1:]
        at_answer = (labels != -100).nonzero()[:, 0]
        logits = model(**inputs, use_cache=False, logits_to_keep=at_answer).logits[0].float()
        loss = torch.nn.functional.cross_entropy(logits, labels[at_answer], reduction="sum")
        if num_items_in_batch is None:
            return loss / len(at_answer)
        return loss * self.accelerator.num_processes / num_items_in_batch


def common_prefix(rows: list[dict]) -> list[int]:
    """The token ids that all rows begin with, short of any row's last prompt token."""
    shortest = min(row["labels"].count(-100) for row in rows) - 1
    columns = zip(*(row["input_ids"][: max(0, shortest)] for row in rows), strict=True)
    return [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]


def packer(prefix: list[int]) -> Callable[[list[dict]], dict[str, torch.Tensor]]:
    """Return a function that packs rows, which all begin with prefix, into one sequence (1, tokens).

    The prefix (the chat template's opening) stands there once and is seen by every row; no row sees another, and
    each counts its positions from the prefix on. So nothing is padded, and nothing is computed twice.
    """

    def pack(rows: list[dict]) -> dict[str, torch.Tensor]:
        start = len(prefix)
        pieces = [row["input_ids"][start:] for row in rows]
        segments = torch.tensor([0] * start + [n for n, piece in enumerate(pieces, 1) for _ in piece])
        visible = (segments == segments[:, None]) | (segments == 0)
        positions = [*range(start), *(start + n for piece in pieces for n in range(len(piece)))]
        labels = [-100] * start + [label for row in rows for label in row["labels"][start:]]
        return {
            "input_ids": torch.tensor([[*prefix, *itertools.chain(*pieces)]]),
            "position_ids": torch.tensor([positions]),
            "attention_mask": visible.tril()[None, None],
            "labels": torch.tensor([labels]),
        }

    return pack


class Progress(TrainerCallback):
    """A bar on the terminal, and a line in the log at each tenth of the way."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(total=state.max_steps, desc="training", unit="step", disable=None)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}):
            return
        self.bar.update(state.global_step - self.bar.n if not self.bar.disable else 0)
        self.bar.set_postfix(loss=f"{logs['loss']:.3f}")
        if state.global_step % max(1, state.max_steps // 10) == 0:
            log.info("step %d of %d: loss %.3f", state.global_step, state.max_steps, logs["loss"])

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


def train(path: str, rows: list[dict], recipe, scratch: Path) -> tuple[torch.nn.Module, list[float]]:
    """Train a LoRA on the base model at `path`; return the model and the loss of each optimiser step.

    rows are {input_ids, labels}. On a CPU the passes of a step are shared by several processes. `scratch` is a folder
    to write to; what is left there is of no use afterwards.
    """
    processes = choose_processes(recipe.gradient_accumulation)
    job = scratch / "job.json"
    job.write_text(json.dumps({"path": path, "rows": rows, "recipe": asdict(recipe)}), encoding="utf-8")
    with together(processes, ["-m", "agent0.qlora", str(job)]):
        if processes > 1:
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        return _train(path, rows, recipe, scratch)


def _train(path: str, rows: list[dict], recipe, scratch: Path) -> tuple[torch.nn.Module, list[float]]:
    model = load_model(path, recipe)
    return model, fit(model, load_tokenizer(path), rows, recipe, scratch)


def fit(model, tokenizer, rows: list[dict], recipe, scratch: Path) -> list[float]:
    """Train model in place on rows, alone or as one of several processes; return the loss of each optimiser step."""
    from datasets import Dataset

    dtype = compute_dtype()
    arguments = TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=max(1, recipe.gradient_accumulation // int(os.environ.get("WORLD_SIZE", 1))),
        learning_rate=recipe.learning_rate,
        num_train_epochs=recipe.num_epochs,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,  # a share of all steps
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        log_level="error",
        seed=SEED,
    )
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=packer(common_prefix(rows)),
        processing_class=tokenizer,
    )
    trainer.model_accepts_loss_kwargs = True  # so that the loss of accumulated batches is divided once
    trainer.remove_callback(PrinterCallback)
    if is_first():
        trainer.add_callback(Progress())
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def save(model, staging: Path, base_name: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors to staging, and nothing else."""
    model.peft_config["default"].base_model_name_or_path = base_name
    model.save_pretrained(staging, safe_serialization=True, save_embedding_layers=False)
    (staging / "README.md").unlink(missing_ok=True)


if __name__ == "__main__":  # one of several processes: the first one keeps what all have trained
    _job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    _train(_job["path"], _job["rows"], SimpleNamespace(**_job["recipe"]), Path(sys.argv[1]).parent)

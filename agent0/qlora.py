"""The part of training that needs torch: the NF4 base model, its LoRA, and a loop with losses on answers only."""

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

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
    base = AutoModelForCausalLM.from_pretrained(path, quantization_config=nf4, dtype=dtype)
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
        """Return the cross entropy of the answer tokens, summed and divided by their number in the whole step."""
        causal = self.accelerator.unwrap_model(model).get_base_model()
        labels = inputs.pop("labels")[:, 1:]
        at_answer = labels != -100
        hidden = causal.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
        logits = causal.lm_head(hidden[at_answer]).float()
        count = num_items_in_batch if num_items_in_batch is not None else at_answer.sum()
        return torch.nn.functional.cross_entropy(logits, labels[at_answer], reduction="sum") / count


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


def fit(model, tokenizer, rows: list[dict], recipe, scratch: Path) -> list[float]:
    """Train model in place on rows ({input_ids, labels}) and return the loss of each optimiser step.

    `scratch` is a folder that the trainer may write to; what it leaves there is of no use afterwards.
    """
    from datasets import Dataset

    dtype = compute_dtype()
    arguments = TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
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
    trainer.add_callback(Progress())
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def save(model, staging: Path, base_name: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors to staging, and nothing else."""
    model.peft_config["default"].base_model_name_or_path = base_name
    model.save_pretrained(staging, safe_serialization=True, save_embedding_layers=False)
    (staging / "README.md").unlink(missing_ok=True)

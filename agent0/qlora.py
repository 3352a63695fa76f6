"""The part of training that needs torch: the base model in 4 bits, its LoRA, and a loop with losses on answers only."""

import json
import os
import sys
import timeit
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import kl_div
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.logging import disable_progress_bar

from agent0.adapter_checks import WEIGHTS
from agent0.budget import Budget
from agent0.command import log
from agent0.data_parallel import agree, choose_processes, is_first, together
from agent0.fused import cross_entropy, fuse_adapters
from agent0.packing import BY_ROWS, common_prefix, packer
from agent0.recipe import Recipe
from agent0.records import write_json

LOOKS = 6  # checkpoints a run, each with a look at the validation loss
PATIENCE = 4  # looks without a better loss after which a run ends; in the middle the rate is high, and so is the loss
SEED = 7
REPLAY_WEIGHT = 10  # of a replayed token against an answer's: bench/RESULTS.md, "Recipes tried"
SUMMED = {"reduction": "sum", "log_target": True}
disable_progress_bar()  # of loading: training has a bar of its own
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # between transformers and peft


def choose_dtype() -> str:
    """Return what to compute in: bfloat16 or float16 on a GPU; on a CPU bfloat16 or float32, which multiplies faster.

    That is measured, since no flag tells: of two CPUs with AVX512-BF16 one takes half as long in bf16, one twice.
    """
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return min(("float32", "bfloat16"), key=_product_seconds)


def _product_seconds(dtype: str) -> float:
    """The least time of a product as small as those of a step on the embedded model."""
    rows, weight = (torch.ones(size, 576, dtype=getattr(torch, dtype)) for size in (256, 1536))
    return min(timeit.repeat(lambda: rows @ weight.T, number=1, repeat=10))


def load_tokenizer(path: str):
    """Return the base model's tokenizer with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def load_model(path: str, recipe: Recipe, dtype: str, start: str | None = None) -> torch.nn.Module:
    """Return the 4-bit base model with a LoRA to train (QLoRA, arXiv:2305.14314): a fresh one, or that of `start`."""
    set_seed(SEED)
    base = load_base(path, getattr(torch, dtype))
    base.requires_grad_(False)
    model = PeftModel.from_pretrained(base, start, is_trainable=True) if start else get_peft_model(base, _lora(recipe))
    # a release names its base, and PEFT would look that name up on the hub at each checkpoint
    model.peft_config["default"].base_model_name_or_path = path
    fuse_adapters(model)
    return model


def load_base(path: str, dtype: torch.dtype) -> torch.nn.Module:
    """Return the base model in the 4 bits that it comes with, else in NF4; dtype is what it computes in.

    To round 4 bits to 4 others is to train another model than the one that serves: bench/RESULTS.md, "The base that is
    trained on". On a CPU NF4 weights are unpacked once, to the same values, instead of in each pass.
    """
    gpu = torch.cuda.is_available()
    options = {"dtype": dtype, "use_safetensors": True, "attn_implementation": "sdpa" if gpu else BY_ROWS}
    if comes_in_four_bits(path):
        return AutoModelForCausalLM.from_pretrained(path, **options)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype if gpu else torch.uint8,  # FSDP shards one type alone
    )
    base = AutoModelForCausalLM.from_pretrained(path, quantization_config=nf4, **options)
    return base if gpu else base.dequantize()


def comes_in_four_bits(path: str) -> bool:
    """Whether a local model's linear layers hold 16 levels a group, as one made from GGUF's Q4_0 or Q4_1 does."""
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            layers = [name for name in tensors.keys() if name.endswith("_proj.weight")]  # noqa: SIM118 (not a dict)
            if layers:
                return _levels(tensors.get_tensor(layers[0])) <= 16
    return False


def _levels(weight: torch.Tensor) -> int:
    """The most different values that 32 weights in a row (out, in), which share a scale, have."""
    groups = weight[:, : weight.shape[1] // 32 * 32].unflatten(1, (-1, 32))
    return 1 + int((groups.sort(2).values.diff(dim=2) != 0).sum(2).max())


def _lora(recipe: Recipe) -> LoraConfig:
    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules=list(recipe.target_modules),
        task_type="CAUSAL_LM",
    )


class AnswerTrainer(Trainer):
    """Trainer whose loss takes logits at answer positions alone: the vocabulary's matmul dominates a small model."""

    def __init__(self, budget: Budget, **options) -> None:
        super().__init__(**options, callbacks=[budget])
        self.budget = budget
        self.model_accepts_loss_kwargs = True  # so that the loss of accumulated batches is divided once
        self.remove_callback(PrinterCallback)
        if is_first():
            self.add_callback(Progress())

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Return a scheduler that asks the budget."""
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self.budget.rate)
        return self.lr_scheduler

    def log(self, logs, *arguments, **options):
        """Log, with the seconds spent so far."""
        super().log({**logs, "spent": round(self.budget.spent, 1)}, *arguments, **options)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the cross entropy of the answer tokens, summed and divided by their number in the whole step.

        `inputs` is one packed sequence. Replayed rows teach no words: there the loss is how far the model strays from
        what it says without its adapter, at every token (the Kullback-Leibler divergence, as in Learning without
        Forgetting, arXiv:1606.09282), REPLAY_WEIGHT times. The number is that of all processes, whose gradients are
        averaged: hence the factor.
        """
        tokens = dict(inputs)
        labels, replayed = tokens.pop("labels")[0, 1:], tokens.pop("replayed")[0]
        answers = (labels != -100) & ~replayed[1:]
        at = (answers | replayed[:-1]).nonzero()[:, 0]
        answers = answers[at]
        usual = base_logits(self.accelerator.unwrap_model(model), tokens, at[~answers])
        logits = model(**tokens, use_cache=False, logits_to_keep=at).logits[0].float()
        loss = cross_entropy(logits[answers], labels[at][answers])
        loss = loss + REPLAY_WEIGHT * kl_div(*(x.log_softmax(1) for x in (logits[~answers], usual)), **SUMMED)
        if num_items_in_batch is None:
            loss = loss / (labels != -100).sum()
        else:
            loss = loss * self.accelerator.num_processes / num_items_in_batch
        return (loss, {}) if return_outputs else loss


def base_logits(model: PeftModel, tokens: dict[str, torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """Return the logits (places, vocabulary) without the adapter at some places of a packed sequence.

    Only what leads up to them is read: replayed rows stand first.
    """
    if not len(at):
        return torch.empty(0, model.config.vocab_size, device=at.device)
    end = at[-1] + 1
    leading = {name: tokens[name][:, :end] for name in ("input_ids", "position_ids")}
    mask = tokens["attention_mask"][..., :end, :end]
    with torch.no_grad(), model.disable_adapter():
        return model(**leading, attention_mask=mask, use_cache=False, logits_to_keep=at).logits[0].float()


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


@dataclass
class Job:
    """One training: plain values, since each process of it reads them from a file.

    `path` is the base model, `start` an adapter to go on from (None: a fresh one), rows and validation are
    {input_ids, labels, replayed}; `minutes` bounds the run (0: no bound); checkpoints are kept in `folder`, and a run
    that finds some there goes on from them, in the same `dtype` ("": that of choose_dtype).
    """

    path: str
    start: str | None
    rows: list[dict]
    validation: list[dict]
    recipe: Recipe
    minutes: float
    folder: str
    dtype: str = ""


class Trained(NamedTuple):
    """The model, best by validation loss where there is one; its weights where it is one of several shards (FSDP), as
    the first process gathered them; and the log of each optimiser step."""

    model: torch.nn.Module
    gathered: dict[str, torch.Tensor] | None
    history: list[dict]


def train(job: Job) -> Trained:
    """Do a job.

    On a CPU the passes of a step are shared by several processes.
    """
    processes = choose_processes(job.recipe.gradient_accumulation)
    path = Path(job.folder) / "job.json"
    if is_first():
        job.dtype = job.dtype or _begun_in(path) or choose_dtype()
        write_json(path, asdict(job))
    with together(processes, ["-m", "agent0.qlora", str(path)]):
        if processes > 1:
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        job.dtype = agree(job.dtype)
        model = load_model(job.path, job.recipe, job.dtype, job.start)
        return Trained(model, *fit(model, load_tokenizer(job.path), job))


def _begun_in(path: Path) -> str:
    """What an earlier run of the job at path computed in ("": there was none)."""
    return json.loads(path.read_text(encoding="utf-8"))["dtype"] if path.exists() else ""


def fit(model, tokenizer, job: Job) -> tuple[dict[str, torch.Tensor] | None, list[dict]]:
    """Train model in place, alone or as one of several processes; return what of it was gathered, and the log."""
    from datasets import Dataset

    trainer = AnswerTrainer(
        Budget(job.minutes),
        model=model,
        args=_arguments(job),
        train_dataset=Dataset.from_list(job.rows),
        eval_dataset=Dataset.from_list(job.validation) if job.validation else None,
        data_collator=packer(common_prefix([*job.rows, *job.validation])),
        processing_class=tokenizer,
    )
    if job.validation:
        trainer.add_callback(EarlyStoppingCallback(PATIENCE))
    begun = get_last_checkpoint(job.folder)
    if begun and is_first():
        log.info("an earlier run of this training was cut off: going on from its %s", Path(begun).name)
    trainer.train(resume_from_checkpoint=begun)
    sharded = trainer.is_fsdp_enabled
    gathered = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    return gathered, trainer.state.log_history


def _arguments(job: Job) -> TrainingArguments:
    recipe, gpu = job.recipe, torch.cuda.is_available()
    passes = max(1, recipe.gradient_accumulation // int(os.environ.get("WORLD_SIZE", 1)))
    return TrainingArguments(
        output_dir=job.folder,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        gradient_accumulation_steps=passes,
        learning_rate=recipe.learning_rate,
        num_train_epochs=recipe.num_epochs,
        bf16=gpu and job.dtype == "bfloat16",  # a CPU needs no autocast: all but the LoRA is bf16 there
        fp16=job.dtype == "float16",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=1 / LOOKS,
        save_total_limit=2,
        eval_strategy="steps" if job.validation else "no",
        eval_steps=1 / LOOKS,
        prediction_loss_only=True,
        load_best_model_at_end=bool(job.validation),
        report_to="none",
        dataloader_pin_memory=gpu,
        use_cpu=not gpu,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        log_level="error",
        seed=SEED,
    )


def save(trained: Trained, staging: Path, base_name: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors to staging, and nothing else."""
    trained.model.peft_config["default"].base_model_name_or_path = base_name
    weights = {} if trained.gathered is None else {"state_dict": trained.gathered}
    trained.model.save_pretrained(staging, safe_serialization=True, save_embedding_layers=False, **weights)
    (staging / "README.md").unlink(missing_ok=True)


def mix(staging: Path, start: Path, share: float) -> None:
    """Replace the adapter in staging by a mean: `share` (0 to 1) of the weights of `start`, which it was trained from.

    A training scatters about something better than itself (WiSE-FT, arXiv:2109.01903; "Half of the way" in
    bench/RESULTS.md).
    """
    reached, before = (load_file(folder / WEIGHTS) for folder in (staging, start))
    mean = {name: torch.lerp(tensor, before[name].to(tensor.dtype), share) for name, tensor in reached.items()}
    save_file(mean, staging / WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":  # one of several processes: the first one keeps what all have trained
    _job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    _job["recipe"] = Recipe(**_job["recipe"])
    train(Job(**_job))

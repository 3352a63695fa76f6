"""A release's fingerprint: what the model says to fixed prompts under the adapter, and at which log-probabilities.

Training records it by PEFT, from the files that it publishes; a server that claims to serve the release must repeat it.
"""

import math
from pathlib import Path

from agent0.adapter_checks import read_json
from agent0.client import CouncilClient
from agent0.command import CouncilError, log
from agent0.models import base_model_path
from agent0.records import write_json

FILE = "fingerprint.json"
PROMPTS = (
    "What is 17 + 25?",
    "A shirt costs 40 dollars and is 15% off. What does it cost now?",
    "Convert 3 hours to minutes.",
    "Which day comes two days after Tuesday?",
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "Write one sentence about rain.",
    "Is 91 a prime number?",
)
TOKENS = 8  # of each answer, greedily
ALTERNATIVES = 20  # as many as OpenAI's API tells
TOLERANCE = 0.06  # nats, mean over the tokens: int8 costs up to 0.025, another adapter 0.088 or more (bench/RESULTS.md)


def record(staging: Path) -> None:
    """Write fingerprint.json beside the adapter in `staging`: in fp32, or bf16 on a GPU."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base_model_path())
    base = AutoModelForCausalLM.from_pretrained(base_model_path(), dtype=dtype, use_safetensors=True)
    model = PeftModel.from_pretrained(base.to(device), staging).eval()
    with torch.inference_mode():
        write_json(staging / FILE, {"prompts": [_answer(model, tokenizer, prompt) for prompt in PROMPTS]})


def _answer(model, tokenizer, prompt: str) -> dict:
    """The greedy answer: its tokens as text, and the log-probability of each."""
    import torch

    turns = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(model.device)
    past, tokens, values = None, [], []
    while len(tokens) < TOKENS:
        step = model(input_ids=ids, past_key_values=past, use_cache=True)
        value, token = step.logits[0, -1].float().log_softmax(-1).max(-1)
        if token.item() == tokenizer.eos_token_id:
            break
        tokens.append(tokenizer.decode([token.item()]))
        values.append(round(value.item(), 5))
        ids, past = torch.tensor([[token]], device=model.device), step.past_key_values
    return {"prompt": prompt, "tokens": tokens, "log_probabilities": values}


def check(client: CouncilClient, folder: Path, name: str) -> None:
    """Compare what the server says under the adapter `name` with the fingerprint of the release in `folder`.

    Raises CouncilError where the log-probabilities differ by more than TOLERANCE.
    """
    if not (folder / FILE).exists():
        log.info("%s has no fingerprint (made by hand, or before there were any): nothing to compare", name)
        return
    found = difference(client, folder, name)
    if not found <= TOLERANCE:
        raise CouncilError(
            f"{name}: the server's log-probabilities differ by {found:.3f} from those of its training, {TOLERANCE} at "
            "most are rounding: the server answers with other weights; restart it, or train again"
        )
    log.info("%s answers as it did in training (log-probabilities differ by %.3f)", name, found)


def difference(client: CouncilClient, folder: Path, name: str) -> float:
    """Mean absolute difference of the tokens' log-probabilities, nats, as far as both say the same."""
    found = []
    for recorded in read_json(folder / FILE)["prompts"]:
        served = client.log_probabilities(recorded["prompt"], name, max(1, len(recorded["tokens"])), ALTERNATIVES)
        found += _differences(recorded, served)
    return math.fsum(found) / len(found) if found else 0.0


def _differences(recorded: dict, served: list[dict]) -> list[float]:
    """One value a token, up to the first at which the server would go another way."""
    found = []
    for at, (token, value) in enumerate(zip(recorded["tokens"], recorded["log_probabilities"], strict=True)):
        if at == len(served):  # it stopped, where training went on
            return [*found, abs(value - math.log(1e-4))]
        entry = served[at]
        if "\ufffd" in token:  # a part of a character, which servers spell as they like
            found.append(abs(value - entry["logprob"]))
            continue
        known = {top["token"]: top["logprob"] for top in [*entry["top_logprobs"], entry]}
        found.append(abs(value - known.get(token, min(known.values()))))
        if entry["token"] != token:
            break
    return found

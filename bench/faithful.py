"""How close the server's answers are to fp32 transformers with peft, both greedy, on held-out questions."""

from dataclasses import dataclass
from pathlib import Path

import requests

from agent0.agreement import is_right
from agent0.models import base_model_path
from agent0.quality import ANSWER_TOKENS
from agent0.records import Question


@dataclass(frozen=True)
class Told:
    """An answer of the server: its text, its tokens with their log-probabilities, and whether it came to its end."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    ended: bool


class Reference:
    """fp32 transformers, with the adapter by peft."""

    def __init__(self, adapter: Path):
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from agent0.serve.text import Prompter

        model = AutoModelForCausalLM.from_pretrained(base_model_path())
        self.model = PeftModel.from_pretrained(model, adapter).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(base_model_path())
        self.prompter = Prompter(self.tokenizer)
        self.ids = {self.prompter.token_bytes(token): token for token in range(len(self.tokenizer))}

    def prompt(self, question: str) -> list[int]:
        return self.prompter.encode([{"role": "user", "content": question}])

    def read(self, prompt: list[int], told: Told) -> tuple[list[float], bool]:
        """Log-probabilities of the server's tokens, and whether greedy decoding takes the very same ones."""
        import torch

        end = [self.tokenizer.eos_token_id] if told.ended else []
        tokens = torch.tensor(told.tokens + end)
        with torch.inference_mode():
            logits = self.model(torch.tensor([prompt + told.tokens])).logits[0, len(prompt) - 1 :][: len(tokens)]
        logprobs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        return logprobs.tolist()[: len(told.tokens)], bool((logits.argmax(-1) == tokens).all())

    def answer(self, prompt: list[int]) -> str:
        import torch

        with torch.inference_mode():
            ids = self.model.generate(torch.tensor([prompt]), max_new_tokens=ANSWER_TOKENS, do_sample=False)
        return self.tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True)


def ask(url: str, question: str, ids: dict[bytes, int]) -> Told:
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": ANSWER_TOKENS, "temperature": 0}
    response = requests.post(f"{url}/v1/chat/completions", json={**body, "logprobs": True, "store": False}, timeout=60)
    response.raise_for_status()
    choice = response.json()["choices"][0]
    entries = choice["logprobs"]["content"]
    tokens = [ids[bytes(entry["bytes"])] for entry in entries]
    ended = choice["finish_reason"] == "stop"
    return Told(choice["message"]["content"], tokens, [entry["logprob"] for entry in entries], ended)


def compare(url: str, adapter: Path, questions: list[Question]) -> tuple[float, float, float]:
    """Shares of equal verdicts and of equal answers, and the mean |difference| of a token's log-probability.

    fp32 reads the server's own tokens; only where it would have chosen another one does it have to answer itself.
    """
    reference, differences, same, verdicts = Reference(adapter), [], 0, 0
    for question in questions:
        told, prompt = ask(url, question.question, reference.ids), reference.prompt(question.question)
        logprobs, equal = reference.read(prompt, told)
        differences += [abs(ours - theirs) for ours, theirs in zip(told.logprobs, logprobs, strict=True)]
        same += equal
        text = told.text if equal else reference.answer(prompt)
        verdicts += is_right(told.text, question.answer) == is_right(text, question.answer)
    return verdicts / len(questions), same / len(questions), sum(differences) / len(differences)

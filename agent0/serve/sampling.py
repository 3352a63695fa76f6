"""Choose the next token of each sequence, and know how sure the model was of it."""

import torch
from torch import Tensor

from agent0.serve.interface import Sampling


def generator_for(sampling: Sampling) -> torch.Generator | None:
    """A source of randomness of its own for one request; None where it needs none."""
    if sampling.temperature == 0:
        return None
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return generator


@torch.inference_mode()
def choose(logits: Tensor, how: list[tuple[Sampling, torch.Generator | None]]) -> list[tuple[int, float]]:
    """Return (token, log-probability under the model itself) for each row of logits (rows, vocabulary)."""
    chosen = _argmax(logits)
    for row, (sampling, generator) in enumerate(how):
        if generator is not None:
            chosen[row] = _sample(logits[row].cpu(), sampling, generator)
    log_probabilities = logits.log_softmax(-1).gather(1, torch.tensor(chosen, device=logits.device)[:, None])
    return list(zip(chosen, log_probabilities[:, 0].tolist(), strict=True))


def _argmax(logits: Tensor) -> list[int]:
    on_device = logits.is_cuda  # on a CPU numpy's is ten times as fast as torch's
    return (logits.argmax(-1) if on_device else logits.numpy().argmax(-1)).tolist()


def _sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw from the smallest set of tokens that holds top_p of the probability (arXiv:1904.09751)."""
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p == 1:
        return int(torch.multinomial(probabilities, 1, generator=generator))
    ordered, tokens = probabilities.sort(descending=True)
    ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
    return int(tokens[torch.multinomial(ordered, 1, generator=generator)])

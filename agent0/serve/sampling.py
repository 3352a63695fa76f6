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
    best, tokens = logits.max(-1)
    chosen = tokens.tolist()
    for row, (sampling, generator) in enumerate(how):
        if generator is not None:
            chosen[row] = _sample(logits[row].cpu(), sampling, generator)
            best[row] = logits[row, chosen[row]]
    return list(zip(chosen, (best - logits.logsumexp(-1)).tolist(), strict=True))


def _sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw from the smallest set of tokens that holds top_p of the probability (arXiv:1904.09751)."""
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p == 1:
        return int(torch.multinomial(probabilities, 1, generator=generator))
    ordered, tokens = probabilities.sort(descending=True)
    ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
    return int(tokens[torch.multinomial(ordered, 1, generator=generator)])

"""Sentences that steer instead of ask, told by what they mean: patterns know only the words they were written for.

A logistic regression over the memory's embeddings of steering.txt and ordinary.txt, fitted when it is first needed, so
that it goes with any embedder. To teach it, add a line to one of the two files.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

_FOLDER = Path(__file__).parent
_SURE = 0.6  # probability from which a sentence steers
_SENTENCES = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_SHORTEST = 3  # words: a shorter sentence is read with the one before it


class Steering:
    """Tells which texts hold a sentence that steers. `embed` turns n texts into unit vectors (n, width)."""

    def __init__(self, embed: Callable):
        from sklearn.linear_model import LogisticRegression

        texts = [_lines(_FOLDER / "ordinary.txt"), _lines(_FOLDER / "steering.txt")]
        labels = [label for label, lines in enumerate(texts) for _ in lines]
        self._embed = embed
        self._model = LogisticRegression(C=30, class_weight="balanced", max_iter=1000)
        self._model.fit(embed([*texts[0], *texts[1]]), labels)

    def find(self, texts: Sequence[str]) -> list[str | None]:
        """Return for each text the sentence that steers most, or None where none does."""
        pieces = [(n, sentence) for n, text in enumerate(texts) for sentence in sentences(text)]
        found: list[tuple[float, str | None]] = [(_SURE, None)] * len(texts)
        if pieces:
            chances = self._model.predict_proba(self._embed([sentence for _, sentence in pieces]))[:, 1]
            for (n, sentence), chance in zip(pieces, chances, strict=True):
                found[n] = max(found[n], (chance, sentence), key=lambda pair: pair[0])
        return [sentence for _, sentence in found]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, the very short ones together with what they follow."""
    parts: list[str] = []
    for part in filter(None, map(str.strip, _SENTENCES.split(text))):
        if parts and len(part.split()) < _SHORTEST:
            parts[-1] += f" {part}"
        else:
            parts.append(part)
    return parts


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()

"""Rows of a batch as one sequence without padding, each seeing only itself and the opening that all share."""

import itertools
from collections.abc import Callable

import torch


def common_prefix(rows: list[dict]) -> list[int]:
    """The token ids that all rows begin with, short of any row's last prompt token."""
    shortest = min(row["labels"].count(-100) for row in rows) - 1
    columns = zip(*(row["input_ids"][: max(0, shortest)] for row in rows), strict=True)
    return [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]


def packer(prefix: list[int]) -> Callable[[list[dict]], dict[str, torch.Tensor]]:
    """Return a function that packs rows, which all begin with prefix, into one sequence (1, tokens).

    The prefix (the chat template's opening) stands there once and is seen by every row; no row sees another, and
    each counts its positions from the prefix on. So nothing is padded, and nothing is computed twice. Replayed rows
    come first.
    """

    def pack(rows: list[dict]) -> dict[str, torch.Tensor]:
        start = len(prefix)
        rows = sorted(rows, key=lambda row: not row.get("replayed"))
        pieces = [row["input_ids"][start:] for row in rows]
        segments = torch.tensor([0] * start + [n for n, piece in enumerate(pieces, 1) for _ in piece])
        visible = (segments == segments[:, None]) | (segments == 0)
        positions = [*range(start), *(start + n for piece in pieces for n in range(len(piece)))]
        labels = [-100] * start + [label for row in rows for label in row["labels"][start:]]
        replayed = [False] * start + [
            bool(row.get("replayed")) for row, piece in zip(rows, pieces, strict=True) for _ in piece
        ]
        return {
            "input_ids": torch.tensor([[*prefix, *itertools.chain(*pieces)]]),
            "position_ids": torch.tensor([positions]),
            "attention_mask": visible.tril()[None, None],
            "labels": torch.tensor([labels]),
            "replayed": torch.tensor([replayed]),
        }

    return pack

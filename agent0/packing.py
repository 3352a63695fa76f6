"""Rows of a batch as one sequence without padding, each seeing only itself and the opening that all share."""

import itertools
from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

BY_ROWS = "by_rows"  # for from_pretrained(attn_implementation=...)


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


def attend_by_rows(_module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_) -> tuple:
    """Return the attention (1, tokens, heads, size) of a packed sequence; query, key, value: (1, heads, tokens, size).

    Each row is computed with the prefix alone: what one pass under the mask of packer() gives, three quarters of which
    is masked, and which a CPU computes all the same. In fp32, since so small products take it longer in bf16.
    """
    starts = [] if attention_mask is None else ((~attention_mask[0, 0].diagonal(-1)).nonzero()[:, 0] + 1).tolist()
    prefix = int(attention_mask[0, 0, starts[0]].sum()) - 1 if starts else 0  # else all is one text
    edges = [0, *starts, query.shape[2]]
    lengths = [end - start for start, end in itertools.pairwise(edges)]
    queries, *seen = (side.float().split(lengths, 2) for side in (query, key, value))
    options = {"scale": scaling, "dropout_p": dropout, "enable_gqa": True}
    results = [scaled_dot_product_attention(queries[0], seen[0][0], seen[1][0], is_causal=True, **options)]
    for row, queried in enumerate(queries[1:], 1):
        keys, values = (torch.cat([side[0][:, :, :prefix], side[row]], 2) for side in seen)
        mask = torch.ones(lengths[row], prefix + lengths[row], dtype=torch.bool).tril(prefix)
        results.append(scaled_dot_product_attention(queried, keys, values, attn_mask=mask, **options))
    return torch.cat(results, 2).to(query.dtype).transpose(1, 2).contiguous(), None


AttentionInterface.register(BY_ROWS, attend_by_rows)

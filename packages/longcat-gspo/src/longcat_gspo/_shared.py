"""Sequences that begin alike in one row, where what they share stands once.

Attempts at one task have its prompt in common, and several segments of one attempt their past: the
row is the tree of all prefixes, and each token sees those before it in its own sequence.

Dimension key: B sequences, L the longest one's length, N tokens of the row, U places in sequences
where a token is learned, W of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._adapters import base_model
from ._samples import Rows, Sample
from ._tensors import evaluating

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Tree:
    """A row, and where in it learned tokens are predicted."""

    ids_N: Tensor
    positions_N: Tensor
    sees_NN: Tensor
    """Whether a token (of the first axis) sees another one."""
    wanted_W: Tensor
    place_U: Tensor
    """Among the W."""

    @classmethod
    def of(cls, rows: Rows) -> Tree:
        """Lay sequences over each other as far as they begin alike."""
        ids_BL, wanted_BL = rows.ids_BL.cpu().numpy(), rows.wanted_BL.cpu().numpy()
        lengths = rows.real_BL.sum(1).tolist()
        sequences: list[list[int]] = [
            ids[:length].tolist() for ids, length in zip(ids_BL, lengths, strict=True)
        ]
        node_BL, begins = _nodes(sequences, ids_BL.shape)
        num = 1 + int(node_BL.max())
        ids_N, positions_N = np.zeros(num, np.int64), np.zeros(num, np.int64)
        sees_NN = np.zeros((num, num), bool)
        for node_L, begin, ids in zip(node_BL, begins, sequences, strict=True):
            path, new = node_L[: len(ids)], node_L[begin : len(ids)]
            ids_N[new], positions_N[new] = ids[begin:], np.arange(begin, len(ids))
            sees_NN[new[:, None], path] = np.arange(begin, len(ids))[:, None] >= np.arange(len(ids))
        wanted_W, place_U = np.unique(node_BL[wanted_BL], return_inverse=True)
        arrays = ids_N, positions_N, sees_NN, wanted_W, place_U
        return cls(*(torch.from_numpy(array).to(rows.ids_BL.device) for array in arrays))


def _nodes(
    sequences: Sequence[list[int]], shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], list[int]]:
    """Each token's place in the row, and from where on a sequence's tokens are its own."""
    node_BL, begins = np.zeros(shape, np.int64), [0] * len(sequences)
    num, before = 0, -1
    for place in sorted(range(len(sequences)), key=sequences.__getitem__):
        ids = sequences[place]
        begin = num_alike(sequences[before], ids) if before >= 0 else 0
        node_BL[place, :begin] = node_BL[before, :begin]
        node_BL[place, begin : len(ids)] = np.arange(num, num + len(ids) - begin)
        num += len(ids) - begin
        begins[place], before = begin, place
    return node_BL, begins


def num_alike(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))


def shared_batches(
    items: Sequence[Item], sample: Callable[[Item], Sample], max_tokens: int
) -> list[list[Item]]:
    """Cut where a row's tokens, each counted once, are as many as allowed.

    Neighbours begin alike. A sequence that alone is longer has a row of its own.
    """
    batches: list[list[Item]] = []
    size, before = 0, list[int]()
    for item in sorted(items, key=lambda item: list(sample(item).token_ids)):
        ids = list(sample(item).token_ids)
        new = len(ids) - num_alike(before, ids)
        if not batches or size + new > max_tokens:
            batches.append([])
            size, new = 0, len(ids)
        batches[-1].append(item)
        size, before = size + new, ids
    return batches


def shared_logits(model: nn.Module, rows: Rows, options: dict[str, bool]) -> Tensor:
    """Logits where a token is to be learned, (U, V), from one row."""
    tree = Tree.of(rows)
    out = cast("Any", model)(
        input_ids=tree.ids_N[None], position_ids=tree.positions_N[None],
        attention_mask=tree.sees_NN[None, None], logits_to_keep=tree.wanted_W, **options,
    )  # fmt: skip
    return out.logits[0][tree.place_U]


def check_sharing(model: nn.Module, options: dict[str, bool]) -> None:
    """Try it on two short sequences.

    Raises:
        ValueError: The model's attention is not full everywhere, or takes no mask of its own.
    """
    config: Any = getattr(base_model(model), "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = set(getattr(text, "layer_types", None) or ())
    slides = getattr(text, "sliding_window", None) is not None
    if kinds - {"full_attention"} or (slides and not kinds):
        raise ValueError("shared_prefixes needs full attention in every layer, the model's is not")
    ids = [1, 2, 3, 1], [1, 2, 1, 3]
    samples = [Sample(token_ids=i, loss_mask=[False, *[True] * 3], log_probs=None) for i in ids]
    rows = Rows.of(samples, next(model.parameters()).device)
    try:
        with torch.no_grad(), evaluating(model):
            own = model(rows.ids_BL, attention_mask=rows.real_BL, **options).logits[rows.wanted_BL]
            gap = (shared_logits(model, rows, options) - own).abs().max()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "shared_prefixes needs a model of transformers that takes a mask of its own "
            f"(attn_implementation='sdpa'): {str(error)[:200]}"
        ) from error
    if not gap <= 1e-2 * (1 + own.abs().max()):
        raise ValueError(
            "shared_prefixes needs a model that takes a mask of its own "
            f"(attn_implementation='sdpa'); this one's logits differ by {gap:.2g}"
        )

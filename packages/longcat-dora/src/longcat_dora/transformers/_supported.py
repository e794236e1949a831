"""Which models `TransformersEngine` can hold; what a config does not say is tried.

A model whose attention takes masks in another way, or positions from elsewhere, would not fail but
sample from another distribution than it tells.
"""

# transformers is only partly typed:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from longcat_dora import LongcatDoraError

from ._cache import RowCache

_CLOSE = {torch.float64: 1e-4, torch.float32: 1e-3}
"""How far logits may be from those of a pass without a cache, over their size; 0.02 in others."""


def check_lengths(model: Any, max_length: int) -> None:
    """Find attention that does not see all, and positions that a conversation could pass.

    Raises:
        LongcatDoraError: There are such.
    """
    text = model.config.get_text_config()
    named = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None)
    kinds = set(named or ["full_attention" if window is None else "sliding_attention"])
    slides = "sliding_attention" in kinds and window is not None and window < max_length
    if slides or kinds - {"full_attention", "sliding_attention"}:
        raise LongcatDoraError(
            f"TransformersEngine holds full attention alone, the model has {sorted(kinds)}"
            + (f" of {window} tokens: give max_length={window}" if slides else "; use vLLM")
        )
    most = getattr(text, "max_position_embeddings", None)
    if isinstance(most, int) and most < max_length and _learns_positions(model, most):
        raise LongcatDoraError(
            f"the model knows {most} positions: give max_length={most}, got {max_length}"
        )
    for kind, original in _turns_by_length(text):
        if original < max_length:
            raise LongcatDoraError(
                f"the model's {kind} rope turns what is cached otherwise beyond {original} tokens: "
                f"give max_length={original}, got {max_length}"
            )


def _turns_by_length(text: Any) -> list[tuple[str, int]]:
    """Ropes whose frequencies depend on the longest of a batch, and up to which length they stay.

    A row in the cache, and shorter ones beside it, would have been turned by others.
    """
    rope: Any = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    parts = [rope, *rope.values()]  # one for all layers, or one for each kind of them
    found = list[tuple[str, int]]()
    for part in (part for part in parts if isinstance(part, Mapping)):
        kind = str(part.get("rope_type") or part.get("type"))
        if kind not in ("longrope", "su") and "dynamic" not in kind:
            continue
        name = "original_max_position_embeddings"
        given = part.get(name), getattr(text, name, None), text.max_position_embeddings
        found.append((kind, min(length for length in given if isinstance(length, int))))
    return found


def _learns_positions(model: Any, most: int) -> bool:
    """Whether positions are looked up in a table, which ends."""
    words = model.get_input_embeddings()
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not words]
    return any(most <= table.num_embeddings <= most + 2 for table in tables)  # OPT begins at 2


def num_words(model: Any) -> int:
    """How many words a model can be given; its table may be longer than its vocabulary."""
    try:
        words = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # of transformers, where a model tells none
        words = None
    if isinstance(words, nn.Embedding):
        return words.num_embeddings
    return model.config.get_text_config().vocab_size


def adds_masks(model: Any, device: torch.device) -> bool:
    """Whether masks are numbers to be added to scores (eager attention), not what is seen.

    Raises:
        LongcatDoraError: Neither gives what a pass without a cache gives.
    """
    said = ""
    for adds in (False, True):
        try:
            gap, size = _gap(model, device, adds=adds)
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            said = f"fails: {str(error)[:200]}"
            continue
        if gap <= _CLOSE.get(model.dtype, 0.02) * (1 + size):
            return adds
        said = f"gives logits that differ by {gap:.2g} from those without a cache"
    raise LongcatDoraError(
        f"TransformersEngine needs a model that takes positions, a mask and a cache from outside; "
        f"{type(model).__name__} {said}; use vLLM"
    )


def added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of what is seen as numbers to be added to scores."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


@torch.no_grad()
def _gap(model: Any, device: torch.device, *, adds: bool) -> tuple[float, float]:
    """Largest difference of logits in two conversations and at their next token; and their size."""
    text = model.config.get_text_config()
    cache = RowCache(text.num_hidden_layers, 2, 8)
    ids = torch.arange(6, device=device) % text.vocab_size
    whole = model(ids[None], use_cache=False).logits[0].float()

    def call(new: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        out = model(
            input_ids=new, position_ids=places, past_key_values=cache, use_cache=True,
            attention_mask=added(mask, model.dtype) if adds else mask, logits_to_keep=1,
        )  # fmt: skip
        return out.logits[:, -1].float()

    found, lengths = list[Tensor](), [5, 3]
    places = torch.arange(6, device=device)
    for row, length in enumerate(lengths):
        mask = cache.one(row, 0, length, device)
        found.append(call(ids[None, :length], places[None, :length], mask))
    mask = cache.at(places[lengths], max(lengths) + 1)
    found.append(call(ids[lengths][:, None], places[lengths][:, None], mask))
    wanted = whole[[4, 2, 5, 3]]
    return (torch.cat(found) - wanted).abs().max().item(), wanted.abs().max().item()

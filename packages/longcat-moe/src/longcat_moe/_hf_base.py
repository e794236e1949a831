"""The model without its output matrix, as a base model of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput  # noqa: TID253 - of the extra

if TYPE_CHECKING:
    from .transformers import LongcatHfForCausalLM


class Backbone:
    """What computes states: called as transformers' base models are, else the model itself."""

    def __init__(self, whole: LongcatHfForCausalLM) -> None:
        self._of = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of.model, name)

    def __call__(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **kwargs: Any,
    ) -> BaseModelOutput:  # fmt: skip
        """Return the last state, normed, (B, T, D), as `last_hidden_state`; nothing is cached."""
        ids = ids_of(input_ids, inputs_embeds)
        state = self._of.states_of(ids, attention_mask, position_ids, inputs_embeds, None)
        return BaseModelOutput(last_hidden_state=state)


def ids_of(ids: Tensor | None, embeds: Tensor | None) -> Tensor:
    """Return the ids, or some in their place where embeddings are given."""
    if ids is not None:
        return ids
    assert embeds is not None
    return torch.zeros(embeds.shape[:2], dtype=torch.long, device=embeds.device)

"""Torch's Muon for hidden layers' matrices and its AdamW for all else, as one optimiser.

Muon takes matrices alone, and embeddings, the output matrix, norms and biases are better left to
AdamW. Both halves share their groups and their state with the whole, so that a checkpoint, a
learning rate that moves and whoever else looks into an optimiser sees one.

Source: Muon as in torch (arXiv 2502.16982 for the scale by which a rate of AdamW fits it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class MuonAndAdamW(torch.optim.Optimizer):
    """Steps orthogonal matrices where a group says `is_hidden`, and as AdamW elsewhere.

    Args:
        groups: Each with `params`, `lr` and `weight_decay`.
        betas: Of AdamW.
        eps: Of AdamW.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], eps: float
    ) -> None:
        hidden = [group for group in groups if group.get("is_hidden")]
        others = [group for group in groups if not group.get("is_hidden")]
        self._halves: list[tuple[bool, torch.optim.Optimizer]] = []
        # Each fills its defaults into the groups that it is given, which then are the whole's too.
        if hidden:
            muon = torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw")
            self._halves.append((True, muon))
        if others:
            rest = torch.optim.AdamW(others, betas=betas, eps=eps, fused=True)
            self._halves.append((False, rest))
        super().__init__([*hidden, *others], {})
        self._share()

    def _share(self) -> None:
        for is_hidden, half in self._halves:
            half.state = self.state
            half.param_groups = [
                group for group in self.param_groups if bool(group.get("is_hidden")) == is_hidden
            ]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was loaded is the halves' too."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Let both halves take theirs."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for _, half in self._halves:
            half.step()
        return loss

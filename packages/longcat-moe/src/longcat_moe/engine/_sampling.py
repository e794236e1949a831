"""Draw tokens: temperature, top-k and top-p per request, one uniform number per token.

Dimension key: R rows of logits, W vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a request's tokens are drawn; names as in the OpenAI API."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 for all."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0 (0 for all), got {self.top_k}")


def distributions(logits_RW: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Return what tokens are drawn from, (R, W), rows of sum one; greedy: all on one token."""
    device = logits_RW.device
    logits_RW = logits_RW.float()
    temperature = torch.tensor([p.temperature or 1.0 for p in params], device=device)
    probs = (logits_RW / temperature[:, None]).softmax(-1)
    if any(p.top_k for p in params):
        probs = _top_k(probs, [p.top_k for p in params])
    if any(p.top_p < 1 for p in params):
        probs = _nucleus(probs, torch.tensor([p.top_p for p in params], device=device))
    if any(p.top_k or p.top_p < 1 for p in params):
        probs = probs / probs.sum(-1, keepdim=True)
    greedy = torch.tensor([p.temperature == 0 for p in params], device=device)
    if greedy.any():
        best = torch.zeros_like(probs).scatter_(1, logits_RW.argmax(-1, keepdim=True), 1.0)
        probs = torch.where(greedy[:, None], best, probs)
    return probs


def draw(probs_RW: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Return a token per row, (R,); rows need not sum to one."""
    ends = probs_RW.cumsum(-1)
    target = torch.tensor(uniforms, device=ends.device)[:, None] * ends[:, -1:]
    drawn = torch.searchsorted(ends, target, right=True)[:, 0]
    # A uniform close to one may land behind the last token with any mass.
    return drawn.minimum(ends.shape[1] - (ends == ends[:, -1:]).sum(-1))


def sample(
    logits_RW: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Return a token and its log-probability per row.

    The log-probability is that of the model at temperature 1, whatever the sampling: it is what
    the policy-gradient ratio compares.
    """
    if all(p.temperature == 0 for p in params):
        chosen = logits_RW.argmax(-1)
    else:
        chosen = draw(distributions(logits_RW, params), uniforms)
    return chosen.tolist(), log_probs_of(logits_RW, chosen)


def log_probs_of(logits_RW: Tensor, chosen: Tensor) -> list[float]:
    """Return the log-probability of a token per row at temperature 1."""
    return logits_RW.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()


def _top_k(probs_RW: Tensor, top_k: Sequence[int]) -> Tensor:
    """Keep the most probable tokens of each row."""
    width = probs_RW.shape[1]
    nums = [min(k or width, width) for k in top_k]
    least = probs_RW.topk(max(nums), dim=-1).values
    threshold = least.gather(1, torch.tensor(nums, device=probs_RW.device)[:, None] - 1)
    return probs_RW.masked_fill(probs_RW < threshold, 0.0)


def _nucleus(probs_RW: Tensor, top_p_R: Tensor) -> Tensor:
    """Keep the fewest most probable tokens whose mass reaches `top_p`."""
    ordered, index = probs_RW.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    mass = ordered.sum(-1, keepdim=True)
    ordered = ordered.masked_fill(before >= top_p_R[:, None] * mass, 0.0)
    return torch.zeros_like(probs_RW).scatter(1, index, ordered)

"""Draw tokens: temperature and top-p per request, one uniform number per token."""

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

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")


def sample(
    logits_BW: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Return a token and its log-probability per row.

    The log-probability is that of the model at temperature 1, whatever the sampling: it is what
    the policy-gradient ratio compares.
    """
    logits_BW = logits_BW.float()
    log_probs = logits_BW.log_softmax(-1)
    temperature = torch.tensor([p.temperature or 1.0 for p in params])
    probs = (logits_BW / temperature[:, None]).softmax(-1)
    if any(p.top_p < 1 for p in params):
        probs = _nucleus(probs, torch.tensor([p.top_p for p in params]))
    ends = probs.cumsum(-1)
    target = torch.tensor(uniforms)[:, None] * ends[:, -1:]
    drawn = torch.searchsorted(ends, target, right=True)[:, 0].clamp_max(probs.shape[1] - 1)
    greedy = torch.tensor([p.temperature == 0 for p in params])
    chosen = torch.where(greedy, logits_BW.argmax(-1), drawn)
    return chosen.tolist(), log_probs.gather(1, chosen[:, None])[:, 0].tolist()


def _nucleus(probs_BW: Tensor, top_p_B: Tensor) -> Tensor:
    """Keep the fewest most probable tokens whose mass reaches `top_p`."""
    ordered, index = probs_BW.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= top_p_B[:, None], 0.0)
    return torch.zeros_like(probs_BW).scatter(1, index, ordered)

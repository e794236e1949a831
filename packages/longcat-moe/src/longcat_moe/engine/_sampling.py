"""Draw tokens: what a request says of sampling, one uniform number per token.

In this order, as vLLM: a constraint, `logit_bias`, penalties, temperature, `min_p`, `top_k`,
`top_p`. Reported log-probabilities are always those of the model alone, at temperature 1.

Dimension key: R rows of logits, W vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Protocol

import torch
from torch import Tensor

MIN_TEMPERATURE = 1e-5
"""Below this only 0, which is greedy: logits divided by less leave float32."""
MAX_TEMPERATURE = 1e5
MAX_TOP_LOG_PROBS = 64
MAX_STOP_STRINGS, MAX_STOP_CHARS = 64, 1024
"""What stop strings may cost each step."""


class Constraint(Protocol):
    """What an answer must look like, token by token; `longcat_moe.server` has one by grammar."""

    def allowed(self, token_ids: Sequence[int]) -> Tensor:
        """Return which tokens may follow those sampled so far, a bool tensor (W,) on CPU."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """What is asked of one turn; names as in the OpenAI API, and in vLLM where that has none.

    Example:
        >>> SamplingParams(max_tokens=8, temperature=0.7, top_p=0.9).is_plain
        True

    Raises:
        ValueError: A parameter is out of range, or of the wrong kind.
    """

    max_tokens: int
    """Sampled at most; 0 where only the prompt's log-probabilities are wanted."""
    temperature: float = 1.0
    """0 is greedy; else in [1e-5, 1e5]."""
    top_p: float = 1.0
    """Draw from the fewest tokens that have this mass."""
    top_k: int = 0
    """Draw from this many tokens; 0 for all."""
    min_p: float = 0.0
    """Draw from tokens with this share, at least, of the most probable one's probability."""
    presence_penalty: float = 0.0
    """Taken off the logit of a token that was sampled before, in [-2, 2]."""
    frequency_penalty: float = 0.0
    """Taken off the logit of a token for each time it was sampled before, in [-2, 2]."""
    repetition_penalty: float = 1.0
    """What positive logits of tokens in the prompt or sampled before are divided by, negative ones
    multiplied by."""
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    """Token id to what is added to its logit, in [-100, 100]."""
    stop_ids: Sequence[int] | None = None
    """End after one of these; the config's end of turn when absent."""
    stop: Sequence[str] = ()
    """End when one of these strings was written; its tokens are kept."""
    timeout_s: float | None = None
    """End after this long with what there is."""
    num_top_log_probs: int = 0
    """Tokens told beside each sampled one, with their log-probabilities, the most probable
    first."""
    prompt_log_probs: int | None = None
    """Tell the log-probability of each prompt token, and so many others beside it."""
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_stops()
        if self.max_tokens == 0 and self.prompt_log_probs is None:
            raise ValueError("max_tokens must be at least 1, got 0 (0 needs prompt_log_probs)")
        for token, bias in self.logit_bias.items():
            _whole("a token id of logit_bias", token, 0, None)
            _real("logit_bias", bias, -100, 100)

    def _check_numbers(self) -> None:
        _whole("max_tokens", self.max_tokens, 0, None)
        if self.temperature != 0:
            _real("temperature", self.temperature, MIN_TEMPERATURE, MAX_TEMPERATURE, " or 0")
        _real("top_p", self.top_p, 0, 1)
        if self.top_p == 0:
            raise ValueError("top_p must be in (0, 1], got 0")
        _whole("top_k", self.top_k, 0, None)
        _real("min_p", self.min_p, 0, 1)
        _real("presence_penalty", self.presence_penalty, -2, 2)
        _real("frequency_penalty", self.frequency_penalty, -2, 2)
        _real("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _whole("num_top_log_probs", self.num_top_log_probs, 0, MAX_TOP_LOG_PROBS)
        if self.prompt_log_probs is not None:
            _whole("prompt_log_probs", self.prompt_log_probs, 0, MAX_TOP_LOG_PROBS)
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, got {self.timeout_s}")

    def _check_stops(self) -> None:
        if isinstance(self.stop, str) or not all(isinstance(stop, str) for stop in self.stop):
            raise ValueError("stop must be a sequence of strings")
        if len(self.stop) > MAX_STOP_STRINGS or any(
            not 0 < len(stop) <= MAX_STOP_CHARS for stop in self.stop
        ):
            raise ValueError(
                f"stop must have at most {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_CHARS} "
                "characters"
            )
        for token in self.stop_ids or ():
            _whole("a stop id", token, 0, None)

    @property
    def is_plain(self) -> bool:
        """Whether logits are only divided and cut, whatever was said before."""
        return (
            self.constraint is None
            and not self.logit_bias
            and self.presence_penalty == 0 == self.frequency_penalty
            and self.repetition_penalty == 1
        )


def merged(params: SamplingParams | None, options: dict[str, Any]) -> SamplingParams:
    """Return `params`, the defaults when absent, with `options` in place of what they name."""
    if params is None:
        return SamplingParams(**options)
    return replace(params, **options) if options else params


def _whole(name: str, value: Any, least: int, most: int | None) -> None:
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or int(value) < least or (most is not None and int(value) > most):
        span = f"in [{least}, {most}]" if most is not None else f"at least {least}"
        raise ValueError(f"{name} must be a whole number, {span}, got {value!r}")


def _real(name: str, value: Any, least: float, most: float, more: str = "") -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    # NaN is neither.
    if not is_number or not least <= value <= most:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"{name} must be in [{least:g}, {most:g}]{more}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Said:
    """What a row's conversation said so far, for penalties and constraints."""

    given: Sequence[int]
    """The whole conversation before what is being sampled."""
    sampled: Sequence[int]


def steer(
    logits_RW: Tensor, params: Sequence[SamplingParams], said: Sequence[Said | None]
) -> Tensor:
    """Return logits after constraint, bias and penalties; the same tensor where none is asked."""
    if all(p.is_plain for p in params):
        return logits_RW
    logits_RW = logits_RW.float().clone()
    for row_W, p, before in zip(logits_RW, params, said, strict=True):
        if p.is_plain or before is None:
            continue
        _penalise(row_W, p, before)
        if p.constraint is not None:
            allowed_W = p.constraint.allowed(before.sampled).to(row_W.device)
            if not bool(allowed_W.any()):
                raise ValueError("the constraint allows no token")
            row_W.masked_fill_(~allowed_W, float("-inf"))
    return logits_RW


def _penalise(row_W: Tensor, p: SamplingParams, said: Said) -> None:
    width = len(row_W)
    biased = [(token, bias) for token, bias in p.logit_bias.items() if token < width]
    if biased:
        where, what = zip(*biased, strict=True)
        row_W[_index(where, row_W)] += torch.tensor(what, dtype=row_W.dtype, device=row_W.device)
    if p.repetition_penalty != 1:
        seen = _index(sorted({*said.given, *said.sampled}), row_W)
        old, factor = row_W[seen], p.repetition_penalty
        row_W[seen] = torch.where(old > 0, old / factor, old * factor)
    if said.sampled and (p.presence_penalty or p.frequency_penalty):
        counts = Counter(said.sampled)
        num = torch.tensor(list(counts.values()), dtype=row_W.dtype, device=row_W.device)
        row_W[_index(list(counts), row_W)] -= p.presence_penalty + p.frequency_penalty * num


def _index(tokens: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(tokens, dtype=torch.long, device=like.device)


def distributions(logits_RW: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Return what tokens are drawn from, (R, W), rows of sum one; greedy: all on one token."""
    device = logits_RW.device
    logits_RW = logits_RW.float()
    temperature = torch.tensor([p.temperature or 1.0 for p in params], device=device)
    probs = (logits_RW / temperature[:, None]).softmax(-1)
    if any(p.min_p for p in params):
        least_R = torch.tensor([p.min_p for p in params], device=device) * probs.amax(-1)
        probs = probs.masked_fill(probs < least_R[:, None], 0.0)
    if any(p.top_k for p in params):
        probs = _top_k(probs, [p.top_k for p in params])
    if any(p.top_p < 1 for p in params):
        probs = _nucleus(probs, torch.tensor([p.top_p for p in params], device=device))
    if any(p.top_k or p.min_p or p.top_p < 1 for p in params):
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
    # A uniform close to one may land behind the last token with any mass; a row of NaN anywhere.
    last = (ends.shape[1] - (ends == ends[:, -1:]).sum(-1)).clamp(max=ends.shape[1] - 1)
    return drawn.minimum(last)


def sample(
    logits_RW: Tensor,
    params: Sequence[SamplingParams],
    uniforms: Sequence[float],
    said: Sequence[Said | None] | None = None,
) -> tuple[list[int], list[float]]:
    """Return a token and its log-probability per row.

    The log-probability is that of the model at temperature 1, whatever the sampling: it is what
    the policy-gradient ratio compares. Where it is not finite, the logits were not.
    """
    steered_RW = logits_RW if said is None else steer(logits_RW, params, said)
    if all(p.temperature == 0 for p in params):
        chosen = steered_RW.argmax(-1)
    else:
        chosen = draw(distributions(steered_RW, params), uniforms)
    return chosen.tolist(), log_probs_of(logits_RW, chosen)


def log_probs_of(logits_RW: Tensor, chosen: Tensor) -> list[float]:
    """Return the log-probability of a token per row at temperature 1."""
    return logits_RW.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()


def top_log_probs(logits_RW: Tensor, num: int) -> list[list[tuple[int, float]]]:
    """Return the most probable tokens per row with their log-probabilities at temperature 1."""
    best = logits_RW.float().log_softmax(-1).topk(min(num, logits_RW.shape[1]), dim=-1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [list(zip(ids, values, strict=True)) for ids, values in pairs]


def is_finite(log_probs: Sequence[float]) -> bool:
    """Whether all log-probabilities are numbers."""
    return all(map(math.isfinite, log_probs))


def _top_k(probs_RW: Tensor, top_k: Sequence[int]) -> Tensor:
    """Keep the most probable tokens of each row."""
    width = probs_RW.shape[1]
    nums = [min(k or width, width) for k in top_k]
    least = probs_RW.topk(max(nums), dim=-1).values
    threshold = least.gather(1, torch.tensor(nums, device=probs_RW.device)[:, None] - 1)
    return probs_RW.masked_fill(probs_RW < threshold, 0.0)


def _nucleus(probs_RW: Tensor, top_p_R: Tensor) -> Tensor:
    """Keep the fewest most probable tokens whose mass reaches `top_p`, one at least."""
    ordered, index = probs_RW.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    mass = ordered.sum(-1, keepdim=True)
    outside = before >= top_p_R[:, None] * mass
    outside[:, 0] = False  # a share below float32's least number
    ordered = ordered.masked_fill(outside, 0.0)
    return torch.zeros_like(probs_RW).scatter(1, index, ordered)

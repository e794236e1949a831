"""A batch cut into micro-batches, and what they showed.

Dimension key: T learned tokens, S sequences, both of one micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._batch_loss import divergence
from ._config import TrainerConfig
from ._objective import LossStats, log_gap, sequence_mean
from ._samples import Rows, Sample, micro_batches
from ._shared import shared_batches


@dataclass(slots=True)
class Part:
    """A micro-batch of `train`, laid out once for all epochs."""

    rows: Rows
    advantage_S: Tensor
    on_policy_S: Tensor
    """Whether the engine's log-probs are of the weights as the batch began, as far as is known."""
    old_T: Tensor | None = None
    """What ratios are taken against; set by the first pass."""
    weight_T: Tensor | None = None
    reference_T: Tensor | None = None
    mismatch: Mismatch | None = None
    is_idle: bool = False


@dataclass(slots=True)
class Seen:
    """What a micro-batch showed, detached."""

    loss: float
    stats: LossStats
    behaviour_kl: float
    """Sum over tokens, as the next two."""
    reference_kl: float
    entropy: float
    num_tokens: int
    num_old: int
    """Tokens that came with log-probs."""


@dataclass(slots=True)
class Mismatch:
    """How engine and trainer differ on the same weights: on-policy tokens with log-probs."""

    own_T: Tensor
    engine_T: Tensor
    sequence_T: Tensor
    num_sequences: int

    @classmethod
    def of(cls, part: Part, own_T: Tensor) -> Mismatch | None:
        """Take what a part can tell; nothing where no sample of it is on policy."""
        rows = part.rows
        is_told_S = part.on_policy_S & rows.has_old_S
        is_told_T = is_told_S[rows.sequence_T]
        if part.is_idle or not is_told_T.any():
            return None
        picked = (t[is_told_T].detach() for t in (own_T, rows.old_T, rows.sequence_T))
        return cls(*picked, num_sequences=len(part.advantage_S))


def cut(config: TrainerConfig) -> Callable[..., list[list[Any]]]:
    """Return what cuts items into micro-batches."""
    return shared_batches if config.shared_prefixes else micro_batches


def lay_out(
    pairs: Sequence[tuple[Sample, float]], version: int, config: TrainerConfig, device: torch.device
) -> list[Part]:
    """Cut samples with their advantages into micro-batches."""
    parts: list[Part] = []
    for batch in cut(config)(pairs, lambda pair: pair[0], config.micro_batch_tokens):
        samples = [sample for sample, _ in batch]
        on_policy = [sample.version in (None, version) for sample in samples]
        parts.append(Part(
            Rows.of(samples, device), torch.tensor([a for _, a in batch], device=device),
            torch.tensor(on_policy, device=device),
        ))  # fmt: skip
    return parts


def idle_part(device: torch.device) -> Part:
    """A dummy pass, so that every process joins the gathering of sharded weights."""
    nothing = torch.zeros(1, device=device)
    return Part(Rows.nothing(device), nothing, nothing.bool(), is_idle=True)


def summary(seen: Sequence[Seen], parts: Sequence[Part]) -> dict[str, float]:
    """Metrics of a step, over the tokens and sequences that were computed."""
    ratio_S = torch.cat([s.stats.ratio_S for s in seen])
    clipped_S = torch.cat([s.stats.is_clipped_S for s in seen])
    num, num_old = sum(s.num_tokens for s in seen), sum(s.num_old for s in seen)
    metrics = {
        "ratio_mean": ratio_S.mean().item(),
        "ratio_max": ratio_S.max().item(),
        "clip_share": clipped_S.mean().item(),
        "entropy": sum(s.entropy for s in seen) / num,
    }
    if num_old:
        metrics["behaviour_kl"] = sum(s.behaviour_kl for s in seen) / num_old
    weights = [p.weight_T for p in parts if p.weight_T is not None and not p.is_idle]
    if weights:
        metrics["correction"] = torch.cat(weights).mean().item()
    if any(p.reference_T is not None for p in parts):
        metrics["reference_kl"] = sum(s.reference_kl for s in seen) / num
    return metrics | mismatch_metrics([p.mismatch for p in parts if p.mismatch is not None])


def mismatch_metrics(told: Sequence[Mismatch]) -> dict[str, float]:
    """`mismatch_kl` a token, and how far a sequence's ratio is from 1 at most."""
    if not told:
        return {}
    kl = torch.cat([divergence(m.engine_T, m.own_T) for m in told]).mean().item()
    means = [
        sequence_mean(log_gap(m.own_T, m.engine_T), m.sequence_T, m.num_sequences) for m in told
    ]
    return {
        "mismatch_kl": kl,
        "mismatch_ratio": max((mean_S.exp() - 1).abs().max().item() for mean_S in means),
    }

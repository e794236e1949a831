"""Merge experts that share a start: normalise, drop, erase, add.

With task vectors `tau_i = theta_i - theta_0`, tensor by tensor (LongCat-Flash-Thinking 2509 report
3.4.2; what it leaves open is our choice and said so):

1. normalise   scale each tau_i to the mean norm of its tensor over the experts (ours: per tensor)
2. drop        keep each element with probability 1 - drop, scaled by 1 / (1 - drop)  (DARE)
3. erase       per element, keep only the sign with the larger total (after SCE and TIES)
4. merge       theta_0 + scale * sum_i w_i tau_i; weights 1 add, weights 1/n average

The dropout mask is a function of (seed, expert, tensor), not of threads or order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig:
    """How experts become one."""

    normalise: bool = True
    drop: float = 0.1
    """Share of elements dropped from each task vector."""
    erase: bool = True
    scale: float = 1.0
    weights: tuple[float, ...] | None = None
    """One per expert; 1 each when absent, so that an expert's own skill is kept in full."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop must be in [0, 1), got {self.drop}")


def merge_tensor(
    base: Tensor, experts: Sequence[Tensor], *, config: MergeConfig, name: str = ""
) -> Tensor:
    """Merge one tensor; the result has the base's shape and dtype.

    Tensors that are not floating point must be equal everywhere, and are returned as they are.

    Raises:
        ValueError: Shapes differ, or the number of weights is not that of the experts.
    """
    if not experts:
        raise ValueError("need at least one expert, got none")
    for expert in experts:
        if expert.shape != base.shape:
            raise ValueError(
                f"{name}: every expert must have the base's shape {tuple(base.shape)}, "
                f"got {tuple(expert.shape)}"
            )
    if not base.is_floating_point():
        if any(not torch.equal(expert, base) for expert in experts):
            raise ValueError(f"{name}: {base.dtype} tensors must be equal in all experts")
        return base
    weights = config.weights or (1.0,) * len(experts)
    if len(weights) != len(experts):
        raise ValueError(f"need one weight per expert: {len(experts)} experts, {len(weights)}")
    deltas = [expert.float() - base.float() for expert in experts]
    if config.normalise:
        deltas = _normalise(deltas)
    if config.drop:
        deltas = [_drop(d, config, name, place) for place, d in enumerate(deltas)]
    stacked = torch.stack([w * d for w, d in zip(weights, deltas, strict=True)])
    if config.erase:
        stacked = _erase(stacked)
    return (base.float() + config.scale * stacked.sum(0)).to(base.dtype)


def _normalise(deltas: list[Tensor]) -> list[Tensor]:
    norms = [float(delta.norm()) for delta in deltas]
    moved = [norm for norm in norms if norm > 0]
    mean = sum(moved) / len(moved) if moved else 0.0
    return [d * (mean / n) if n > 0 else d for d, n in zip(deltas, norms, strict=True)]


def _drop(delta: Tensor, config: MergeConfig, name: str, place: int) -> Tensor:
    key = hashlib.blake2b(f"{config.seed}:{place}:{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key) % 2**63)
    keep = torch.rand(delta.shape, generator=generator) >= config.drop
    return delta * keep / (1 - config.drop)


def _erase(stacked: Tensor) -> Tensor:
    """Zero the elements whose sign is not that of the sum over experts."""
    elected = stacked.sum(0).sign()
    return stacked * (stacked.sign() == elected)


def merge(
    base: Mapping[str, Tensor],
    experts: Sequence[Mapping[str, Tensor]],
    *,
    config: MergeConfig | None = None,
) -> dict[str, Tensor]:
    """Merge state dicts: exactly the base's names, shapes and dtypes, or an error.

    Raises:
        ValueError: An expert lacks a tensor or has one too many; the message names it.
    """
    for place, expert in enumerate(experts):
        odd = sorted(set(base) ^ set(expert))
        if odd:
            raise ValueError(
                f"expert {place} must have the base's {len(base)} tensors, differs in "
                f"{', '.join(odd[:3])}"
            )
    config = config or MergeConfig()
    return {
        name: merge_tensor(tensor, [e[name] for e in experts], config=config, name=name)
        for name, tensor in base.items()
    }

"""Rotary positions, stretched by YaRN where a model was trained on longer contexts later.

Dimension key: B sequences, T tokens, H heads, R rotary width.

Source: YaRN, arXiv 2309.00071, section 3.2 (which frequencies are stretched) and 3.4 (the softmax
temperature), as used by the LongCat-Flash checkpoints with long contexts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ._config import LongcatConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """How positions were stretched; names as in `config.json`."""

    factor: float
    """New context length over the old one."""
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    """Frequencies that turn more often than this over the old context stay as they are."""
    beta_slow: float = 1.0
    """Frequencies that turn less often than this are divided by `factor`; between, a ramp."""
    mscale: float = 1.0
    mscale_all_dim: float = 1.0

    def __post_init__(self) -> None:
        if self.factor < 1 or self.original_max_position_embeddings < 1:
            raise ValueError(
                f"need factor >= 1 and original_max_position_embeddings >= 1, got {self.factor} "
                f"and {self.original_max_position_embeddings}"
            )
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(f"need 0 < beta_slow < beta_fast: {self.beta_slow}, {self.beta_fast}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> YarnScaling:
        """Build from `rope_parameters` or `rope_scaling` of a `config.json`.

        Raises:
            ValueError: `factor` or `original_max_position_embeddings` is missing, or a variant is
                asked for that is not implemented here.
        """
        for key, only in (("attention_factor", None), ("truncate", True)):
            if values.get(key, only) != only:
                raise ValueError(f"config.json: YaRN's {key} must be {only}, got {values[key]!r}")
        known = {k: values[k] for k in cls.__dataclass_fields__ if values.get(k) is not None}
        missing = {"factor", "original_max_position_embeddings"} - set(known)
        if missing:
            raise ValueError(f"config.json: YaRN needs {', '.join(sorted(missing))}, got {values}")
        return cls(**known)

    @property
    def table_scale(self) -> float:
        """What cos and sin are multiplied by."""
        return self._temperature(self.mscale) / self._temperature(self.mscale_all_dim)

    @property
    def softmax_scale(self) -> float:
        """What every attention score is multiplied by, the content part included."""
        return self._temperature(self.mscale_all_dim) ** 2

    def _temperature(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1.0

    def stretch(self, frequency_R: Tensor, theta: float) -> Tensor:
        """Return the frequencies (R / 2,) after stretching."""
        half = len(frequency_R)

        def place(turns: float) -> float:  # of the frequency that turns so often over the context
            angle = self.original_max_position_embeddings / (2 * math.pi * turns)
            return half * math.log(angle) / math.log(theta)

        low = max(math.floor(place(self.beta_fast)), 0)
        high = min(math.ceil(place(self.beta_slow)), 2 * half - 1)
        steps = torch.arange(half, dtype=torch.float32, device=frequency_R.device)
        ramp = ((steps - low) / max(high - low, 1e-3)).clamp(0, 1)
        return frequency_R * (1 - ramp + ramp / self.factor)


def rotary_tables(positions_BT: Tensor, config: LongcatConfig) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each (B, T, R / 2), in float32."""
    width, yarn = config.qk_rope_head_dim, config.rope_scaling
    steps = torch.arange(0, width, 2, device=positions_BT.device, dtype=torch.float32)
    frequency_R = config.rope_theta ** (-steps / width)
    if yarn is not None:
        frequency_R = yarn.stretch(frequency_R, config.rope_theta)
    angles = positions_BT[..., None].float() * frequency_R
    cos, sin = angles.cos(), angles.sin()
    if yarn is not None and yarn.table_scale != 1:
        return cos * yarn.table_scale, sin * yarn.table_scale
    return cos, sin


def rotate(x_BTHR: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn interleaved pairs `(x0, x1), (x2, x3), ...` by their position's angle.

    The result is laid out as all first members, then all second ones; queries and keys share the
    layout, so their products are those of the released, interleaved weights.
    """
    first, second = x_BTHR.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_BTHR.dtype)

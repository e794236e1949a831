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
    """How positions were stretched; names as in `config.json`, defaults as in transformers."""

    factor: float
    """New context length over the old one."""
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    """Frequencies that turn more often than this over the old context stay as they are."""
    beta_slow: float = 1.0
    """Frequencies that turn less often than this are divided by `factor`; between, a ramp."""
    mscale: float | None = 1.0
    mscale_all_dim: float | None = 1.0
    """Without both of `mscale` and this, cos and sin are multiplied by the paper's temperature;
    with this, scores are multiplied by its square."""
    attention_factor: float | None = None
    """What cos and sin are multiplied by, in place of what `mscale` and the rest give."""
    truncate: bool = True
    """Round the ramp's ends to whole places."""

    def __post_init__(self) -> None:
        for name in ("factor", "beta_fast", "beta_slow", "original_max_position_embeddings"):
            _check_positive(name, getattr(self, name))
        for name in ("mscale", "mscale_all_dim", "attention_factor"):
            value = getattr(self, name)
            if value is not None and value != 0:
                _check_positive(name, value)
        if not self.beta_slow < self.beta_fast:
            raise ValueError(f"need 0 < beta_slow < beta_fast: {self.beta_slow}, {self.beta_fast}")
        if type(self.truncate) is not bool:
            raise ValueError(f"YaRN's truncate must be true or false, got {self.truncate!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, max_position_embeddings: int) -> YarnScaling:
        """Build from `rope_parameters` or `rope_scaling` of a `config.json`.

        Args:
            values: `factor` must be there; null is the new context length over the old one.
            max_position_embeddings: The new context length, and the old one where none is told.

        Raises:
            ValueError: `factor` is missing, or a value is of the wrong kind.
        """
        if "factor" not in values:
            raise ValueError(f"config.json: YaRN needs factor, got {values}")
        known = {k: values[k] for k in cls.__dataclass_fields__ if values.get(k) is not None}
        old = known.setdefault("original_max_position_embeddings", max_position_embeddings)
        _check_positive("original_max_position_embeddings", old)
        known.setdefault("factor", max_position_embeddings / old)
        for name in ("beta_fast", "beta_slow"):
            if known.get(name) == 0:
                del known[name]
        missing: dict[str, Any] = {"mscale": None, "mscale_all_dim": None}
        if "truncate" in values and values["truncate"] is None:
            missing["truncate"] = False  # as transformers reads it
        return cls(**{**missing, **known})

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.truncate:
            del values["truncate"]
        return {name: value for name, value in values.items() if value is not None}

    @property
    def table_scale(self) -> float:
        """What cos and sin are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._temperature(self.mscale) / self._temperature(self.mscale_all_dim)
        return self._temperature(1.0)

    @property
    def softmax_scale(self) -> float:
        """What every attention score is multiplied by, the content part included."""
        return self._temperature(self.mscale_all_dim) ** 2 if self.mscale_all_dim else 1.0

    def _temperature(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    def stretch(self, frequency_R: Tensor, theta: float) -> Tensor:
        """Return the frequencies (R / 2,) after stretching."""
        half = len(frequency_R)

        def place(turns: float) -> float:  # of the frequency that turns so often over the context
            angle = self.original_max_position_embeddings / (2 * math.pi * turns)
            return half * math.log(angle) / math.log(theta)

        low, high = place(self.beta_fast), place(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * half - 1)
        steps = torch.arange(half, dtype=torch.float32, device=frequency_R.device)
        # A ramp that ends before it begins stretches nothing, one without length the rest.
        ramp = ((steps - low) / ((high - low) or 1e-3)).clamp(0, 1)
        return frequency_R * (1 - ramp + ramp / self.factor)


def _check_positive(name: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ValueError(f"YaRN's {name} must be a positive number, got {value!r}")


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

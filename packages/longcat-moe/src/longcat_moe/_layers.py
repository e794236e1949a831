"""The small parts: norm, rotary positions, dense FFN.

Dimension key: B sequences, T tokens, H heads, R rotary width, D model width.
"""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 whatever the input."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        if x.dtype == self.weight.dtype == torch.float32:
            return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return nn.functional.rms_norm(x.float(), self.weight.shape, None, self.eps).to(
            x.dtype
        ) * self.weight.to(x.dtype)


class DenseFFN(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis to itself."""
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


def rotary_tables(positions_BT: Tensor, *, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each (B, T, width / 2), in float32."""
    steps = torch.arange(0, width, 2, device=positions_BT.device, dtype=torch.float32)
    angles = positions_BT[..., None].float() * theta ** (-steps / width)
    return angles.cos(), angles.sin()


def rotate(x_BTHR: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn interleaved pairs `(x0, x1), (x2, x3), ...` by their position's angle.

    The result is laid out as all first members, then all second ones; queries and keys share the
    layout, so their products are those of the released, interleaved weights.
    """
    first, second = x_BTHR.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_BTHR.dtype)

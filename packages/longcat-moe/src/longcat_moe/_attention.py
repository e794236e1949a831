"""Multi-head latent attention (MLA) with scale correction.

What is cached per token is one latent of `kv_lora_rank` numbers and one rotary key shared by all
heads, never keys and values. Training expands the latent; decoding absorbs the up-projection into
the query instead, so that a step reads the latents alone.

Dimension key: B sequences, T new tokens of each, P new tokens of all, S tokens so far, H heads,
D model width, N content width of a head, R rotary width, V value width, C latent width
(`kv_lora_rank`), L = C + R.

Source: LongCat-Flash report 2.3.1, equations 6 and 7.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ._config import LongcatConfig
from ._layers import RMSNorm
from ._rotary import rotate
from ._sparse import windowed_attention

# The released code builds the two LoRA norms with the class default, not with `rms_norm_eps`.
LORA_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Stretch:
    """Sequences with the same number of new tokens; a shorter one repeats its last."""

    rows_BT: Tensor
    """Where the new tokens stand among the packed ones."""
    latents_BSL: Tensor
    bias_BTS: Tensor
    """0 where a new token may look, -inf elsewhere."""


class CacheView(Protocol):
    """What an attention needs of a cache, for new tokens packed into one line without padding."""

    def extend(self, index: int, latent_PL: Tensor) -> Iterable[Stretch]:
        """Store new latents of attention `index`; return what the new tokens may see."""
        ...


class LatentAttention(nn.Module):
    """One MLA. `index` is its place among all attentions, and so its cache slot."""

    def __init__(self, config: LongcatConfig, index: int) -> None:
        super().__init__()
        c, heads = config, config.num_attention_heads
        self.index = index
        self.heads, self.nope, self.rope = heads, c.qk_nope_head_dim, c.qk_rope_head_dim
        self.value, self.latent = c.v_head_dim, c.kv_lora_rank
        self.q_a_proj = nn.Linear(c.hidden_size, c.q_lora_rank, bias=False)
        self.q_a_layernorm = RMSNorm(c.q_lora_rank, LORA_NORM_EPS)
        self.q_b_proj = nn.Linear(c.q_lora_rank, heads * c.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(c.hidden_size, c.latent_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, LORA_NORM_EPS)
        self.kv_b_proj = nn.Linear(c.kv_lora_rank, heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(heads * self.value, c.hidden_size, bias=False)
        # Queries and latents keep the variance of the model width; the rotary key has it already.
        self.scale_q = (c.hidden_size / c.q_lora_rank) ** 0.5
        self.scale_kv = (c.hidden_size / c.kv_lora_rank) ** 0.5
        self.softmax_scale = c.qk_head_dim**-0.5
        if c.rope_scaling is not None:
            self.softmax_scale *= c.rope_scaling.softmax_scale
        self.window = c.window_of(index)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        cache: CacheView | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Attend causally.

        With a cache, B is 1, and T packed tokens attend to what it returns; with `lengths`, B is 1,
        and packed sequences of these lengths attend each to itself alone.
        """
        q_nope_BTHN, q_rope_BTHR, c_BTC, k_rope_BTR = self._project(x_BTD, rotary)
        if cache is None:
            out = self._expanded(q_nope_BTHN, q_rope_BTHR, c_BTC, k_rope_BTR, lengths)
        else:
            latent_BTL = torch.cat([c_BTC, k_rope_BTR], dim=-1)
            stretches = cache.extend(self.index, latent_BTL[0])
            out = self._absorbed(q_nope_BTHN[0], q_rope_BTHR[0], stretches)[None]
        return self.o_proj(out)

    def _project(
        self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTD))) * self.scale_q
        q_nope, q_rope = q.unflatten(-1, (self.heads, -1)).split([self.nope, self.rope], dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x_BTD).split([self.latent, self.rope], dim=-1)
        latent = self.kv_a_layernorm(latent) * self.scale_kv
        k_rope = rotate(k_rope[:, :, None], *rotary)[:, :, 0]
        return q_nope, rotate(q_rope, *rotary), latent, k_rope

    def _expanded(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        c_BTC: Tensor,
        k_rope: Tensor,
        lengths: Sequence[int] | None,
    ) -> Tensor:
        kv = self.kv_b_proj(c_BTC).unflatten(-1, (self.heads, -1))
        k_nope, v = kv.split([self.nope, self.value], dim=-1)
        shared = k_rope[:, :, None].expand(-1, -1, self.heads, -1)
        q = torch.cat([q_nope, q_rope], dim=-1).transpose(1, 2)
        k = torch.cat([k_nope, shared.to(k_nope.dtype)], dim=-1).transpose(1, 2)
        # The fused kernels want values as wide as keys; zeros in the rest change nothing.
        gap = q.shape[-1] - self.value
        v = nn.functional.pad(v, (0, gap)) if gap > 0 else v
        v = v.transpose(1, 2)
        if lengths is None:
            out = self._causal(q, k, v)
        else:
            parts = zip(*(x.split(list(lengths), dim=2) for x in (q, k, v)), strict=True)
            out = torch.cat([self._causal(*part) for part in parts], dim=2)
        return out[..., : self.value].transpose(1, 2).flatten(2)

    def _causal(self, q_BHTQ: Tensor, k_BHTQ: Tensor, v_BHTV: Tensor) -> Tensor:
        window = self.window
        if window is not None and q_BHTQ.shape[2] > window.num_tokens:
            return windowed_attention(q_BHTQ, k_BHTQ, v_BHTV, window, scale=self.softmax_scale)
        return nn.functional.scaled_dot_product_attention(
            q_BHTQ, k_BHTQ, v_BHTV, is_causal=True, scale=self.softmax_scale
        )

    def _absorbed(
        self, q_nope_PHN: Tensor, q_rope_PHR: Tensor, stretches: Iterable[Stretch]
    ) -> Tensor:
        up = _weight_of(self.kv_b_proj).unflatten(0, (self.heads, -1))  # (H, N + V, C)
        up_k_HNC, up_v_HVC = up.split([self.nope, self.value], dim=1)
        q_PHC = torch.einsum("phn,hnc->phc", q_nope_PHN, up_k_HNC)
        q_PHL = torch.cat([q_PHC, q_rope_PHR.to(q_PHC.dtype)], dim=-1) * self.softmax_scale
        seen_PHC = torch.empty_like(q_PHC)
        for stretch in stretches:
            q_BTHL = q_PHL[stretch.rows_BT]
            seen = _attend(q_BTHL, stretch.latents_BSL, stretch.bias_BTS, self.latent)
            seen_PHC[stretch.rows_BT] = seen
        return torch.einsum("phc,hvc->phv", seen_PHC, up_v_HVC).flatten(1)


def _weight_of(linear: nn.Linear) -> Tensor:
    """Return the matrix of a linear map, an adapter's part included."""
    if type(linear) is nn.Linear:
        return linear.weight
    width = linear.in_features
    return linear(torch.eye(width, device=linear.weight.device, dtype=linear.weight.dtype)).T


def _attend(q_BTHL: Tensor, latents_BSL: Tensor, bias_BTS: Tensor, width: int) -> Tensor:
    """Softmax attention of all heads to the same latents; return (B, T, H, `width`).

    Keys times queries, not queries times keys: with one new token a sequence there are as few
    queries as heads, and the product with the long side in front is twice as fast on CPU.
    """
    batch, steps, heads = q_BTHL.shape[:3]
    scores = latents_BSL @ q_BTHL.flatten(1, 2).transpose(1, 2)
    scores_BTHS = scores.transpose(1, 2).reshape(batch, steps, heads, -1) + bias_BTS[:, :, None]
    weights = scores_BTHS.float().softmax(-1).to(q_BTHL.dtype)
    seen = weights.flatten(1, 2) @ latents_BSL[..., :width]
    return seen.view(batch, steps, heads, width)

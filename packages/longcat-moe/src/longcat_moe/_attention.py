"""Multi-head latent attention (MLA) with scale correction.

What is cached per token is one latent of `kv_lora_rank` numbers and one rotary key shared by all
heads, never keys and values. Training expands the latent; decoding absorbs the up-projection into
the query instead, so that a step reads the latents alone.

Dimension key: B sequences, T new tokens, S cached tokens, H heads, D model width, N content width
of a head, R rotary width, V value width, C latent width (`kv_lora_rank`).

Source: LongCat-Flash report 2.3.1, equations 6 and 7.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from ._config import LongcatConfig
from ._layers import RMSNorm, rotate

# The released code builds the two LoRA norms with the class default, not with `rms_norm_eps`.
LORA_NORM_EPS = 1e-6


class CacheView(Protocol):
    """What an attention needs of a cache, for the sequences of one batch."""

    def extend(self, index: int, latent_BTL: Tensor) -> tuple[Tensor, Tensor]:
        """Store new latents of attention `index`.

        Returns:
            All latents so far (B, S, C + R), and the boolean mask (B, T, S) of what may be seen.
        """
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

    def forward(
        self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], cache: CacheView | None = None
    ) -> Tensor:
        """Attend causally; with a cache, also to everything it holds."""
        q_nope_BTHN, q_rope_BTHR, c_BTC, k_rope_BTR = self._project(x_BTD, rotary)
        if cache is None:
            out = self._expanded(q_nope_BTHN, q_rope_BTHR, c_BTC, k_rope_BTR)
        else:
            latents_BSL, mask_BTS = cache.extend(self.index, torch.cat([c_BTC, k_rope_BTR], dim=-1))
            out = self._absorbed(q_nope_BTHN, q_rope_BTHR, latents_BSL, mask_BTS)
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

    def _expanded(self, q_nope: Tensor, q_rope: Tensor, c_BTC: Tensor, k_rope: Tensor) -> Tensor:
        kv = self.kv_b_proj(c_BTC).unflatten(-1, (self.heads, -1))
        k_nope, v = kv.split([self.nope, self.value], dim=-1)
        shared = k_rope[:, :, None].expand(-1, -1, self.heads, -1)
        q = torch.cat([q_nope, q_rope], dim=-1).transpose(1, 2)
        k = torch.cat([k_nope, shared.to(k_nope.dtype)], dim=-1).transpose(1, 2)
        # The fused kernels want values as wide as keys; zeros in the rest change nothing.
        gap = q.shape[-1] - self.value
        v = nn.functional.pad(v, (0, gap)) if gap > 0 else v
        out = nn.functional.scaled_dot_product_attention(
            q, k, v.transpose(1, 2), is_causal=True, scale=self.softmax_scale
        )
        return out[..., : self.value].transpose(1, 2).flatten(2)

    def _absorbed(
        self, q_nope: Tensor, q_rope: Tensor, latents_BSL: Tensor, mask_BTS: Tensor
    ) -> Tensor:
        up = self.kv_b_proj.weight.unflatten(0, (self.heads, -1))  # (H, N + V, C)
        up_k_HNC, up_v_HVC = up.split([self.nope, self.value], dim=1)
        q_BTHC = torch.einsum("bthn,hnc->bthc", q_nope, up_k_HNC)
        q_BTHL = torch.cat([q_BTHC, q_rope.to(q_BTHC.dtype)], dim=-1)
        batch, steps = q_BTHL.shape[:2]
        # One product for all heads: they share the keys.
        scores = q_BTHL.flatten(1, 2) @ latents_BSL.transpose(1, 2) * self.softmax_scale
        scores = scores.view(batch, steps, self.heads, -1)
        scores = scores.masked_fill(~mask_BTS[:, :, None], float("-inf"))
        weights = scores.float().softmax(-1).to(scores.dtype)
        seen = weights.flatten(1, 2) @ latents_BSL[..., : self.latent]
        seen_BTHC = seen.view(batch, steps, self.heads, -1)
        return torch.einsum("bthc,hvc->bthv", seen_BTHC, up_v_HVC).flatten(2)

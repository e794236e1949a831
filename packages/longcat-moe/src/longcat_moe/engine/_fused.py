"""One decoding step of a model through `_kernels`: 19 launches a layer, where the modules make some 200.

The experts have a stream of their own: they read the state after the first attention and are missed at
the layer's end alone (report 2.2), so that their reads fill the gaps of everything between.

    main     attn0 ── ffn0 ── attn1 ── ffn1 ──(+)──
    side          └─ route ─ experts ─────────┘

Dimension key: B rows, D model width, W vocabulary.
"""

from __future__ import annotations

import importlib.util
from typing import Any, cast

import torch
from torch import Tensor, nn

from longcat_moe._attention import LORA_NORM_EPS, LatentAttention
from longcat_moe._config import LongcatConfig
from longcat_moe._layers import DenseFFN
from longcat_moe._model import DecoderLayer, LongcatForCausalLM
from longcat_moe._rotary import rotary_tables

from ._cache import LatentCache

MAX_ROWS = 64
"""More are as well off with the ordinary products."""
_SPLITS_OF_EXPERTS = 4


def can_fuse(config: LongcatConfig) -> bool:
    """Whether such a model has a fused step here: Triton, and the released wiring."""
    return (
        importlib.util.find_spec("triton") is not None
        and config.norm == "pre"
        and config.sparse_attention is None
        and not config.has_ngrams
    )


class FusedStep:
    """Buffers for so many rows; `logits` is one step.

    Args:
        model: Its weights are read where they lie, at each step.
        cache: Where latents go.
        num_rows: B.
        max_length: Positions that may come.
    """

    def __init__(
        self, model: LongcatForCausalLM, cache: LatentCache, *, num_rows: int, max_length: int
    ) -> None:
        from . import _kernels  # Triton is asked for here alone

        self.kernels, self.model, self.cache = _kernels, model, cache
        c, weight = model.config, model.lm_head.weight
        self.config, self.num_rows = c, num_rows
        self.is_exact = weight.dtype == torch.float32
        self.block_b = max(16, _power_of_two(num_rows))

        def new(*shape: int, dtype: torch.dtype = weight.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=weight.device)

        heads, low = c.num_attention_heads, c.q_lora_rank + c.latent_dim
        self.splits = max(1, min(16, 128 // num_rows))
        f32 = torch.float32
        self.low_B = new(num_rows, low)
        self.q_B = new(num_rows, heads * c.qk_head_dim)
        self.absorbed_B = new(num_rows, heads * c.latent_dim)
        self.seen = new(num_rows * self.splits * heads, c.kv_lora_rank, dtype=f32)
        self.tops = new(num_rows * self.splits * heads, dtype=f32)
        self.sums = new(num_rows * self.splits * heads, dtype=f32)
        self.values_B = new(num_rows, heads * c.v_head_dim)
        self.states = [new(num_rows, c.hidden_size) for _ in range(3)]
        self.ffn_B = new(num_rows, c.ffn_hidden_size)
        self.route_logits = new(num_rows, c.num_experts, dtype=f32)
        self.normed_B = new(num_rows, c.hidden_size)
        self.act = new(c.n_routed_experts * num_rows, c.expert_ffn_hidden_size)
        self.weights = new(c.n_routed_experts + 1, num_rows, dtype=f32)
        self.shortcut = new(_SPLITS_OF_EXPERTS * num_rows, c.hidden_size, dtype=f32)
        self.logits_BW = new(num_rows, c.vocab_size, dtype=f32)
        cos, sin = rotary_tables(torch.arange(max_length, device=weight.device)[None], c)
        self.cos, self.sin = cos[0].contiguous(), sin[0].contiguous()
        self._side = torch.cuda.Stream() if weight.is_cuda else None

    def logits(self, ids_B: Tensor, positions_B: Tensor, table_BN: Tensor) -> Tensor:
        """Store latents of the new tokens; return logits (B, W) in float32, in a buffer."""
        inner = self.model.model
        x = inner.embed_tokens(ids_B)
        for module in inner.layers:
            x = self._layer(cast(DecoderLayer, module), x, positions_B, table_BN)
        self._linear(x, self.model.lm_head.weight, self.logits_BW, norm=inner.norm, block_n=32)
        return self.logits_BW

    def _layer(self, layer: DecoderLayer, x: Tensor, positions: Tensor, table: Tensor) -> Tensor:
        first, second, third = self.states  # the experts read the first while the rest goes on
        x = self._attention(layer, 0, x, first, positions, table)
        self._fork(layer, x)
        y = self._ffn(layer, 0, x, second)
        y = self._attention(layer, 1, y, third, positions, table)
        self._join()
        return self._ffn(layer, 1, y, second, more=self.shortcut)

    def _fork(self, layer: DecoderLayer, x: Tensor) -> None:
        if self._side is None:
            self._experts(layer, x)
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            self._experts(layer, x)

    def _join(self) -> None:
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)

    # -- parts -------------------------------------------------------------------------------

    def _linear(
        self, x: Tensor, w: Tensor, out: Tensor, *, norm: Any = None, second: Tensor | None = None,
        kind: str = "one", res: Tensor | None = None, more: Tensor | None = None, scale: float = 1.0,
        width: int | None = None, eps: float | None = None, block_n: int = 16,
    ) -> Tensor:  # fmt: skip
        num, num_2 = len(w), len(second) if second is not None else 0
        width = width or w.shape[1]
        blocks = _blocks(num, block_n) + (_blocks(num_2, block_n) if kind == "pair" else 0)
        gain = w if norm is None else norm.weight
        has_norm = norm is not None
        self.kernels.linear[(blocks,)](
            x, gain, w, w if second is None else second, out if res is None else res,
            out if more is None else more, out,
            self.num_rows, num, num_2, width, x.stride(0), out.stride(0),
            (norm.eps if has_norm else 0.0) if eps is None else eps, scale,
            HAS_NORM=has_norm, KIND=kind, HAS_RES=res is not None,
            NUM_MORE=0 if more is None else _SPLITS_OF_EXPERTS, IS_EXACT=self.is_exact,
            BLOCK_B=self.block_b, BLOCK_N=block_n, BLOCK_K=self._block_k(width),
            num_warps=4, num_stages=4 if self.block_b <= 32 else 3,
        )  # fmt: skip
        return out

    def _block_k(self, width: int) -> int:
        return min(256 if self.block_b <= 16 else 128, max(16, _power_of_two(width)))

    def _attention(
        self,
        layer: DecoderLayer,
        place: int,
        x: Tensor,
        out: Tensor,
        positions: Tensor,
        table: Tensor,
    ) -> Tensor:
        a = cast(LatentAttention, layer.self_attn[place])
        c, rows, k = self.config, self.num_rows, self.kernels
        heads, n, r, v, wide = a.heads, a.nope, a.rope, a.value, a.latent
        store = self.cache.store_of(a.index)
        self._linear(x, a.q_a_proj.weight, self.low_B, norm=layer.input_layernorm[place],
                     second=a.kv_a_proj_with_mqa.weight, kind="pair")  # fmt: skip
        self._linear(self.low_B, a.q_b_proj.weight, self.q_B, norm=a.q_a_layernorm, scale=a.scale_q)
        up, exact = a.kv_b_proj.weight, self.is_exact
        block_c = min(64, max(16, _power_of_two(wide)))
        k.absorb[(heads * _blocks(wide, block_c) + rows,)](
            self.q_B, self.low_B, up, a.kv_a_layernorm.weight, self.cos, self.sin, positions, table,
            store, self.absorbed_B, rows, self.low_B.stride(0), c.q_lora_rank, LORA_NORM_EPS,
            a.scale_kv, a.softmax_scale, table.shape[1], self.cache.block_size,
            H=heads, N=n, R=r, V=v, C=wide, IS_EXACT=exact, BLOCK_B=self.block_b,
            BLOCK_N=max(16, _power_of_two(n)), BLOCK_C=block_c, ALL_C=_power_of_two(wide),
            BLOCK_R=_power_of_two(r // 2),
        )  # fmt: skip
        k.attend[(rows, self.splits, _blocks(heads, 16))](
            self.absorbed_B, store, table, positions, self.seen, self.tops, self.sums,
            table.shape[1], self.cache.block_size,
            H=heads, R=r, C=wide, SPLITS=self.splits, IS_EXACT=exact, BLOCK_H=16, BLOCK_S=32,
            BLOCK_C=max(16, _power_of_two(wide)), BLOCK_R=max(16, _power_of_two(r)),
            num_warps=4, num_stages=2,
        )  # fmt: skip
        k.combine[(heads, _blocks(v, 32))](
            self.seen, self.tops, self.sums, up, self.values_B, rows,
            H=heads, N=n, V=v, C=wide, SPLITS=self.splits, IS_EXACT=exact, BLOCK_B=self.block_b,
            BLOCK_V=32, BLOCK_C=min(128, max(16, _power_of_two(wide))),
        )  # fmt: skip
        return self._linear(self.values_B, a.o_proj.weight, out, res=x)

    def _ffn(
        self, layer: DecoderLayer, place: int, x: Tensor, out: Tensor, more: Tensor | None = None
    ) -> Tensor:
        ffn = cast(DenseFFN, layer.mlps[place])
        norm: nn.Module = layer.post_attention_layernorm[place]
        self._linear(x, ffn.gate_proj.weight, self.ffn_B, norm=norm, second=ffn.up_proj.weight,
                     kind="swiglu")  # fmt: skip
        return self._linear(self.ffn_B, ffn.down_proj.weight, out, res=x, more=more)

    def _experts(self, layer: DecoderLayer, x: Tensor) -> None:
        c, k, rows = self.config, self.kernels, self.num_rows
        router, experts = layer.mlp.router, layer.mlp.experts
        norm = cast(Any, layer.post_attention_layernorm[0])
        width, inner, num_ffn = c.hidden_size, c.expert_ffn_hidden_size, c.n_routed_experts
        k.route[(c.num_experts,)](
            x, norm.weight, router.classifier.weight, self.route_logits, self.normed_B,
            rows, width, c.num_experts, norm.eps,
            BLOCK_B=self.block_b, BLOCK_K=min(4096 // self.block_b, max(16, _power_of_two(width))),
        )  # fmt: skip
        k.experts_up[(num_ffn, _blocks(inner, 16))](
            self.normed_B, self.route_logits, router.e_score_correction_bias, experts.gate_up_proj,
            self.act, self.weights, rows, width, router.scaling,
            E=c.num_experts, NUM_FFN=num_ffn, TOP_K=c.moe_topk, I=inner, IS_EXACT=self.is_exact,
            BLOCK_B=self.block_b, BLOCK_E=max(16, _power_of_two(c.num_experts)), BLOCK_I=16,
            BLOCK_K=self._block_k(width), num_warps=4, num_stages=4 if self.block_b <= 32 else 3,
        )  # fmt: skip
        share = _blocks(num_ffn, _SPLITS_OF_EXPERTS)
        k.experts_down[(_blocks(width, 16), _SPLITS_OF_EXPERTS)](
            self.normed_B, self.act, self.weights, experts.down_proj, self.shortcut, rows, width,
            NUM_FFN=num_ffn, I=inner, SPLITS=_SPLITS_OF_EXPERTS, IS_EXACT=self.is_exact,
            BLOCK_B=self.block_b, BLOCK_E=max(16, _power_of_two(share)), BLOCK_D=16,
            BLOCK_I=self._block_k(inner), num_warps=4, num_stages=4,
        )  # fmt: skip


def _blocks(num: int, size: int) -> int:
    return -(-num // size)


def _power_of_two(num: int) -> int:
    return 1 << (num - 1).bit_length()

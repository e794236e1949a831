"""One decoding step of a model through `_kernels`: 20 launches a layer; the modules make some 200.

The experts have a stream of their own: they read the state after the first attention and are missed
at the layer's end alone (report 2.2), so that their reads fill the gaps of everything between.

    main     attn0 ── ffn0 ── attn1 ── ffn1 ──(+)──
    side          └─ route ─ experts ─────────┘

Dimension key: B rows, D model width, W vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from longcat_moe._attention import LORA_NORM_EPS, LatentAttention
from longcat_moe._layers import DenseFFN
from longcat_moe._model import DecoderLayer, LongcatForCausalLM
from longcat_moe._rotary import rotary_tables

from ._cache import LatentCache
from ._triton import kernels

MAX_ROWS = 128
"""Where a tile of all rows still fits."""
MAX_NARROW = 32
"""Above this, dense products are the library's, and norms and activations kernels of their own."""
_AT_ONCE = 8192
"""Numbers that a program for one row reads at once: 64 a thread."""
USE_PDL = True
"""Whether kernels are set up while the one before them ends."""


@dataclass(slots=True)
class _State:
    """What one kernel leaves for the next."""

    x: Tensor
    """(B, D)"""
    unit: Tensor
    """x times the gain of the norm that comes next, (B, D)"""
    squares: Tensor
    """(programs, B): of the columns of each program that wrote x"""
    num_squares: int = 0


class FusedStep:
    """Buffers for so many rows.

    Args:
        model: Its weights are read where they lie, at each step.
        cache: Where latents go.
        num_rows: B.
        max_length: Positions that may come.
        like: Of as many rows, for another length: never run beside this one, it shares its buffers.
    """

    def __init__(
        self,
        model: LongcatForCausalLM,
        cache: LatentCache,
        *,
        num_rows: int,
        max_length: int,
        like: FusedStep | None = None,
    ) -> None:
        self.model, self.cache = model, cache
        self.dense, self.one = kernels(), kernels("_one")
        self.attention, self.experts = kernels("_attention"), kernels("_experts")
        weight = model.lm_head.weight
        self.config, self.num_rows = model.config, num_rows
        self.is_exact = weight.dtype == torch.float32
        self.is_one, self.is_wide = num_rows == 1, num_rows > MAX_NARROW
        self.block_b = max(16, _power_of_two(num_rows))
        self.splits = max(1, min(16 if self.is_one else 8, max_length // 32, 256 // num_rows))
        self.expert_splits = 1 if self.is_one else 8 if self.is_wide else 4
        self.plain: dict[str, Any] = {"PDL": False}
        self.early = self.plain
        if USE_PDL and self.is_one and weight.is_cuda:  # with more rows nothing was won
            self.early = {"PDL": True, "launch_pdl": True}
        self._make_parts(weight)
        if like is None:
            self._make_buffers(weight)
        else:
            vars(self).update({name: vars(like)[name] for name in like.buffers})
        cos, sin = rotary_tables(torch.arange(max_length, device=weight.device)[None], model.config)
        self.cos, self.sin = cos[0].contiguous(), sin[0].contiguous()
        self._side = torch.cuda.Stream() if weight.is_cuda else None

    def _make_parts(self, weight: Tensor) -> None:
        """Make room for what `attend` leaves, of which there is more for greater lengths."""
        c = self.config
        num_parts = self.num_rows * self.splits * c.num_attention_heads
        self.seen = weight.new_zeros(num_parts, c.kv_lora_rank, dtype=torch.float32)
        self.tops, self.sums = (weight.new_zeros(num_parts, dtype=torch.float32) for _ in range(2))

    def _make_buffers(self, weight: Tensor) -> None:
        before = set(vars(self))
        c, rows = self.config, self.num_rows

        def new(*shape: int, dtype: torch.dtype = weight.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=weight.device)

        def state(width: int) -> _State:  # no program writes less than a column
            return _State(new(rows, width), new(rows, width), new(width, rows, dtype=torch.float32))

        f32, heads = torch.float32, c.num_attention_heads
        self.states = [state(c.hidden_size) for _ in range(3)]
        self.low = state(c.q_lora_rank + c.latent_dim)
        self.q = state(heads * c.qk_head_dim)
        self.values, self.ffn = state(heads * c.v_head_dim), state(c.ffn_hidden_size)
        self.absorbed_B = new(rows, heads * c.latent_dim)
        self.route_logits = new(rows, c.num_experts, dtype=f32)
        self.normed_B = new(rows, c.hidden_size)
        self.chosen = new(rows, c.moe_topk, dtype=torch.int32)
        self.weights = new(c.n_routed_experts + 1, rows, dtype=f32)
        num_act = c.moe_topk if self.is_one else c.n_routed_experts * rows
        self.act = new(num_act, c.expert_ffn_hidden_size)
        self.shortcut = new(self.expert_splits * rows, c.hidden_size, dtype=f32)
        self.logits = _State(new(rows, c.vocab_size, dtype=f32), weight, weight)
        if self.is_wide:
            self.units = {w: new(rows, w) for w in (c.hidden_size, c.q_lora_rank)}
            self.gate_B, self.up_B = (new(rows, c.ffn_hidden_size) for _ in range(2))
            self.words_BW = new(rows, c.vocab_size)
        self.buffers = {"buffers", *vars(self)} - before

    def step(self, ids_B: Tensor, positions_B: Tensor, table_BN: Tensor) -> Tensor:
        """Store latents of the new tokens; return logits (B, W) in float32, in a buffer."""
        inner = self.model.model
        layers = [cast(DecoderLayer, layer) for layer in inner.layers]
        x = self.states[1]
        self.one.embed[(self.num_rows,)](
            ids_B, inner.embed_tokens.weight, cast(Any, layers[0].input_layernorm[0]).weight,
            x.x, x.unit, x.squares, self.num_rows, self.config.hidden_size,
            BLOCK_K=_power_of_two(self.config.hidden_size),
        )  # fmt: skip
        x.num_squares = 1
        for layer, after in zip(layers, [*layers[1:], None], strict=True):
            norm = inner.norm if after is None else after.input_layernorm[0]
            x = self._layer(layer, x, norm, positions_B, table_BN)
        self._product(x, self.model.lm_head.weight, self.logits, norm=inner.norm)
        return self.logits.x

    def _layer(
        self, layer: DecoderLayer, x: _State, after: nn.Module, positions: Tensor, table: Tensor
    ) -> _State:
        """Run a layer; `after` is the norm that reads what comes out."""
        first, second, third = self.states  # the experts read the first while the rest goes on
        norms = layer.post_attention_layernorm
        x = self._attention(layer, 0, x, first, norms[0], positions, table)
        self._fork(layer, x)
        y = self._ffn(layer, 0, x, second, layer.input_layernorm[1])
        y = self._attention(layer, 1, y, third, norms[1], positions, table)
        self._join()
        return self._ffn(layer, 1, y, second, after)

    def _fork(self, layer: DecoderLayer, x: _State) -> None:
        if self._side is None:
            self._experts(layer, x)
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            self._experts(layer, x)

    def _join(self) -> None:
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)

    # -- products ----------------------------------------------------------------------------

    def _product(
        self, x: _State, w: Tensor, out: _State, *, norm: Any = None, second: Tensor | None = None,
        kind: str = "one", res: _State | None = None, has_more: bool = False, gain: Any = None,
        scale: float = 1.0, is_early: bool = True,
    ) -> _State:  # fmt: skip
        """See `_kernels.linear`; `gain` is the norm that reads what comes out."""
        if self.is_wide:
            return self._wide(x, w, out, norm, second, kind, res, has_more, scale)
        num, num_2, width = len(w), 0 if second is None else len(second), w.shape[1]
        tile = self._tile(num, width, kind)
        first = _blocks(num, tile["BLOCK_N"])
        out.num_squares = first if gain is not None else 0
        args = (
            x.x if norm is None else x.unit, x.squares, w, w if second is None else second,
            out.x if res is None else res.x, self.shortcut, w if gain is None else gain.weight,
            out.x, out.unit, out.squares,
        )  # fmt: skip
        sizes = (num, num_2, width)
        eps = 0.0 if norm is None else norm.eps
        flags: dict[str, Any] = {
            "HAS_NORM": norm is not None, "KIND": kind, "HAS_RES": res is not None,
            "HAS_GAIN": gain is not None, "BLOCK_Q": _power_of_two(max(1, x.num_squares)),
            **tile, **(self.early if is_early else self.plain),
        }  # fmt: skip
        blocks = first + (_blocks(num_2, tile["BLOCK_N"]) if kind == "pair" else 0)
        if self.is_one:
            self.one.linear_one[(blocks,)](
                *args, *sizes, x.num_squares, eps, scale, HAS_MORE=has_more, **flags
            )
        else:
            self.dense.linear[(blocks,)](
                *args, self.num_rows, *sizes, x.x.stride(0), out.x.stride(0), x.num_squares, eps,
                scale, NUM_MORE=self.expert_splits if has_more else 0, IS_EXACT=self.is_exact,
                BLOCK_B=self.block_b, **flags,
            )  # fmt: skip
        return out

    def _rows_at_once(self, width: int) -> int:
        """Rows of a matrix that a program of one state takes: 16 KB of bf16 in all."""
        return max(1, _AT_ONCE // _power_of_two(width))

    def _tile(self, num: int, width: int, kind: str) -> dict[str, int]:
        if self.is_one:
            num_n = self._rows_at_once(width)
            num_n = max(1, num_n // 2) if kind == "swiglu" else num_n
            warps = 4 if num_n * _power_of_two(width) <= _AT_ONCE else 8
            return {"BLOCK_N": num_n, "BLOCK_K": _power_of_two(width), "num_warps": warps}
        deep = min(256 if self.block_b <= 16 else 128, max(16, _power_of_two(width)))
        tall = 32 if num >= 4096 else 16
        return {"BLOCK_N": tall, "BLOCK_K": deep, "num_warps": 4, "num_stages": 4}

    def _wide(
        self, x: _State, w: Tensor, out: _State, norm: Any, second: Tensor | None, kind: str,
        res: _State | None, has_more: bool, scale: float,
    ) -> _State:  # fmt: skip
        """The same with the library's products, and norms and activations between them."""
        k, width, to, source = self.dense, w.shape[1], out.x, x.x
        if norm is not None:
            source = self.units[width]
            k.unit_rows[(self.num_rows,)](
                x.x, norm.weight, source, width, x.x.stride(0), norm.eps, scale,
                BLOCK_K=_power_of_two(width), **self.plain,
            )  # fmt: skip
        if kind == "pair":
            assert second is not None
            torch.mm(source, w.t(), out=to[:, : len(w)])
            torch.mm(source, second.t(), out=to[:, len(w) :])
        elif kind == "swiglu":
            assert second is not None
            torch.mm(source, w.t(), out=self.gate_B)
            torch.mm(source, second.t(), out=self.up_B)
            num = to.numel()
            k.swiglu_rows[(_blocks(num, 1024),)](
                self.gate_B, self.up_B, to, num, BLOCK=1024, **self.plain
            )
        elif res is not None:
            torch.addmm(res.x, source, w.t(), out=to)
        elif to.dtype == w.dtype:
            torch.mm(source, w.t(), out=to)
        else:
            to.copy_(torch.mm(source, w.t(), out=self.words_BW))
        if has_more:
            num = to.numel()
            k.add_pieces[(_blocks(num, 1024),)](
                to, self.shortcut, num, NUM_PIECES=self.expert_splits, BLOCK=1024, **self.plain
            )
        return out

    # -- parts of a layer --------------------------------------------------------------------

    def _attention(
        self, layer: DecoderLayer, place: int, x: _State, out: _State, after: nn.Module,
        positions: Tensor, table: Tensor,
    ) -> _State:  # fmt: skip
        a = cast(LatentAttention, layer.self_attn[place])
        self._product(x, a.q_a_proj.weight, self.low, norm=layer.input_layernorm[place],
                      second=a.kv_a_proj_with_mqa.weight, kind="pair",
                      gain=a.q_a_layernorm)  # fmt: skip
        self._product(self.low, a.q_b_proj.weight, self.q, norm=a.q_a_layernorm, scale=a.scale_q)
        self._attend(a, positions, table)
        return self._product(self.values, a.o_proj.weight, out, res=x, gain=after)

    def _attend(self, a: LatentAttention, positions: Tensor, table: Tensor) -> None:
        c, rows, k, wide = self.config, self.num_rows, self.attention, a.latent
        sizes = {"H": a.heads, "C": wide}
        exact: dict[str, Any] = {"IS_EXACT": self.is_exact}
        up, store, size = a.kv_b_proj.weight, self.cache.store_of(a.index), self.cache.block_size
        all_c = max(16, _power_of_two(wide))
        block_c, warps = min(64, all_c), 8 if self.is_wide else 4
        k.absorb[(a.heads * _blocks(wide, block_c) + rows,)](
            self.q.x, self.low.x, up, a.kv_a_layernorm.weight, self.cos, self.sin, positions, table,
            store, self.absorbed_B, rows, self.low.x.stride(0), c.q_lora_rank, LORA_NORM_EPS,
            a.scale_kv, a.softmax_scale, table.shape[1], size,
            N=a.nope, R=a.rope, V=a.value, BLOCK_B=self.block_b,
            BLOCK_N=max(16, _power_of_two(a.nope)), BLOCK_C=block_c, ALL_C=_power_of_two(wide),
            BLOCK_R=_power_of_two(a.rope // 2), num_warps=warps, **sizes, **exact, **self.early,
        )  # fmt: skip
        k.attend[(rows, self.splits, _blocks(a.heads, 16))](
            self.absorbed_B, store, table, positions, self.seen, self.tops, self.sums,
            table.shape[1], size, R=a.rope, SPLITS=self.splits, BLOCK_H=16,
            BLOCK_S=16 if self.is_one else 32, BLOCK_C=all_c, BLOCK_R=max(16,
            _power_of_two(a.rope)),
            num_warps=4, num_stages=1 if self.is_one else 2, **sizes, **exact, **self.early,
        )  # fmt: skip
        parts = (self.seen, self.tops, self.sums, up, self.values.x)
        shape: dict[str, Any] = {"N": a.nope, "V": a.value, "SPLITS": self.splits, **sizes}
        shape |= self.early
        if self.is_one:
            self.one.combine_one[(a.heads, _blocks(a.value, 8))](
                *parts, BLOCK_V=8, BLOCK_C=all_c, BLOCK_S=_power_of_two(self.splits), **shape
            )
        else:
            k.combine[(a.heads, _blocks(a.value, 32))](
                *parts, rows, BLOCK_B=self.block_b, BLOCK_V=32, num_warps=warps,
                BLOCK_C=min(128 if self.block_b <= 16 else 64, all_c), **exact, **shape,
            )  # fmt: skip

    def _ffn(
        self, layer: DecoderLayer, place: int, x: _State, out: _State, after: nn.Module
    ) -> _State:
        """Run a dense FFN; the second one of a layer comes after the experts, and adds them."""
        ffn, is_last = cast(DenseFFN, layer.mlps[place]), place == 1
        self._product(x, ffn.gate_proj.weight, self.ffn, norm=layer.post_attention_layernorm[place],
                      second=ffn.up_proj.weight, kind="swiglu", is_early=not is_last)  # fmt: skip
        return self._product(
            self.ffn, ffn.down_proj.weight, out, res=x, gain=after, has_more=is_last
        )

    def _experts(self, layer: DecoderLayer, x: _State) -> None:
        c, k, rows = self.config, self.experts, self.num_rows
        router, experts = layer.mlp.router, layer.mlp.experts
        norm = cast(Any, layer.post_attention_layernorm[0])
        width, num = c.hidden_size, c.n_routed_experts
        wide = _power_of_two(width)
        at_once = 1 if self.is_one else max(1, min(4, _AT_ONCE // wide))
        k.route[(c.num_experts, _blocks(rows, at_once))](
            x.x, norm.weight, router.classifier.weight, self.route_logits, self.normed_B,
            rows, width, c.num_experts, norm.eps, BLOCK_B=at_once, BLOCK_K=wide, **self.plain,
        )  # fmt: skip
        k.choose[(rows,)](
            self.route_logits, router.e_score_correction_bias, self.weights, self.chosen, rows,
            router.scaling, E=c.num_experts, NUM_FFN=num, TOP_K=c.moe_topk,
            BLOCK_E=_power_of_two(c.num_experts), num_warps=1, **self.plain,
        )  # fmt: skip
        if self.is_one:
            self._one_rows_experts(experts.gate_up_proj, experts.down_proj)
        else:
            self._rows_experts(experts.gate_up_proj, experts.down_proj)

    def _one_rows_experts(self, gate_up: Tensor, down: Tensor) -> None:
        c, width, inner = self.config, self.config.hidden_size, self.config.expert_ffn_hidden_size
        block_i = max(1, self._rows_at_once(width) // 2)
        self.one.experts_up_one[(c.moe_topk, _blocks(inner, block_i))](
            self.normed_B, self.chosen, gate_up, self.act, width, NUM_FFN=c.n_routed_experts,
            I=inner,
            BLOCK_I=block_i, BLOCK_K=_power_of_two(width), **self.plain,
        )  # fmt: skip
        block_d = max(1, self._rows_at_once(inner) // 4)
        self.one.experts_down_one[(_blocks(width, block_d),)](
            self.normed_B, self.chosen, self.act, self.weights, down, self.shortcut, width,
            NUM_FFN=c.n_routed_experts, TOP_K=c.moe_topk, I=inner, BLOCK_D=block_d,
            BLOCK_I=_power_of_two(inner), **self.plain,
        )  # fmt: skip

    def _rows_experts(self, gate_up: Tensor, down: Tensor) -> None:
        c, k, rows = self.config, self.experts, self.num_rows
        width, inner, num = c.hidden_size, c.expert_ffn_hidden_size, c.n_routed_experts
        tile, deep = (64, 64) if self.is_wide else (32, 256 if self.block_b <= 16 else 128)
        shared: dict[str, Any] = {
            "I": inner, "IS_EXACT": self.is_exact, "BLOCK_B": self.block_b, "num_stages": 3,
            **self.plain,
        }  # fmt: skip
        k.experts_up[(num, _blocks(inner, tile))](
            self.normed_B, self.weights, gate_up, self.act, rows, width, BLOCK_I=tile,
            BLOCK_K=min(deep, max(16, _power_of_two(width))), num_warps=8 if self.is_wide else 4,
            **shared,
        )  # fmt: skip
        share = _blocks(num, self.expert_splits)
        k.experts_down[(_blocks(width, tile), self.expert_splits)](
            self.normed_B, self.act, self.weights, down, self.shortcut, rows, width,
            NUM_FFN=num, SPLITS=self.expert_splits, BLOCK_E=max(16, _power_of_two(share)),
            BLOCK_D=tile, BLOCK_I=min(deep, max(16, _power_of_two(inner))), num_warps=4, **shared,
        )  # fmt: skip


def _blocks(num: int, size: int) -> int:
    return -(-num // size)


def _power_of_two(num: int) -> int:
    return 1 << (num - 1).bit_length()

"""Where the norms stand around attention and FFN: seven ways, one option (`LongcatConfig.norm`).

With f the attention, g the FFN, and N their norms, each used once:

    pre     y = x + f(N x)           out = y + g(N y)         final norm     (released models)
    post    y = N(x + f(x))          out = N(y + g(y))
    deep    y = N(a x + f(x))        out = N(a y + g(y))      a = (2 L)^(1/4), small weights first
    span    y = N(x + f(x))          out = N(x + g(y))        the skip spans both; f(N x) first
    mix     post in the first quarter of the blocks, pre after
    hybrid  z = N(x + f(x))          out = z + g(z)           final norm
    peri    y = x + N f(N x)         out = y + N g(N y)       final norm

- A block is one attention with one dense FFN; a layer has two, and L blocks are twice the layers.
  What the shortcut MoE says joins the second block's FFN, and the MoE reads what the first FFN
  reads.
- `hybrid` normalises queries, keys and values inside attention; latent attention does so already.
- At first, weights that write into the skip are drawn smaller for `span`, by 1 / sqrt(L): our
  choice, from (1 + 1/L)^(-L/2) > 0.6 for every depth; the paper's own rule was not found. `deep`
  draws values, outputs and FFNs smaller by (8 L)^(-1/4).

Source: SpanNorm, arXiv 2601.22580 (equations as read from a third-party implementation); PreNorm
and PostNorm; DeepNorm, 2203.00555; Mix-LN, 2412.13795; HybridNorm, 2503.04598; Peri-LN, 2502.02732.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ._config import LongcatConfig
from ._layers import RMSNorm

Part = Callable[[Tensor], Tensor]
_MIX_POST = 0.25
"""Share of the blocks that are `post` in `mix`."""


class Wiring(nn.Module):
    """The norms of one block that the released models do not have, and the way through it."""

    def __init__(self, config: LongcatConfig, block: int) -> None:
        super().__init__()
        width, eps, num = config.hidden_size, config.rms_norm_eps, 2 * config.num_layers
        self.kind = config.norm
        if self.kind == "mix":
            self.kind = "post" if block < _MIX_POST * num else "pre"
        self.skip = (2 * num) ** 0.25 if self.kind == "deep" else 1.0
        if self.kind == "peri":
            self.attention_output_layernorm = RMSNorm(width, eps)
            self.ffn_output_layernorm = RMSNorm(width, eps)
        self.first_layernorm = (
            RMSNorm(width, eps) if self.kind == "span" and block == 0 else nn.Identity()
        )

    def attend(self, x: Tensor, norm: Part, attention: Part) -> Tensor:
        """Return the state after attention; `norm` is `input_layernorm`."""
        if self.kind == "pre":
            return x + attention(norm(x))
        if self.kind == "peri":
            return x + self.attention_output_layernorm(attention(norm(x)))
        return norm(self.skip * x + attention(self.first_layernorm(x)))

    def read(self, y: Tensor, norm: Part) -> Tensor:
        """Return what the FFN reads; `norm` is `post_attention_layernorm`."""
        return norm(y) if self.kind in ("pre", "peri") else y

    def join(self, x: Tensor, y: Tensor, said: Tensor, norm: Part) -> Tensor:
        """Return the state after the FFN, which `said` something of `read(y)`."""
        if self.kind in ("pre", "hybrid"):
            return y + said
        if self.kind == "peri":
            return y + self.ffn_output_layernorm(said)
        return norm((x if self.kind == "span" else self.skip * y) + said)


def has_final_norm(config: LongcatConfig) -> bool:
    """Whether a norm follows the last block."""
    return config.norm not in ("post", "deep", "span")


def has_second_norm(config: LongcatConfig) -> bool:
    """Whether a block uses `post_attention_layernorm`."""
    return config.norm != "hybrid"


@torch.no_grad()
def scale_at_first(model: nn.Module, config: LongcatConfig) -> None:
    """Draw what writes into the skip smaller, where a wiring asks for it."""
    num = 2 * config.num_layers
    if config.norm == "span":
        scales = {"o_proj.weight": num**-0.5, "down_proj": num**-0.5}
    elif config.norm == "deep":
        gain = (8 * num) ** -0.25
        scales = {"o_proj.weight": gain, "down_proj": gain, "gate_proj.weight": gain}
        scales |= {"up_proj": gain, "kv_b_proj.weight": gain}
    else:
        return
    for name, weight in model.named_parameters():
        for part, scale in scales.items():
            if name.removesuffix(".weight").endswith(part.removesuffix(".weight")):
                if part == "kv_b_proj.weight":  # the values alone
                    per_head = weight.unflatten(0, (config.num_attention_heads, -1))
                    per_head[:, config.qk_nope_head_dim :] *= scale
                else:
                    weight *= scale
                break

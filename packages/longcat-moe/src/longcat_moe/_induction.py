"""Start a small model with one induction circuit, every weight of which stays trainable.

Large models grow circuits that copy from their context in the first billions of tokens. A model
that is to learn from a million cannot pay for that, and without it never copies an id. This draws
the first layer's two attentions so that they already do it:

    attention 0, head 0       looks one token back and writes what it saw into a free subspace
    attention 1, heads 0, 1   find the place whose *previous* token is the present one, and copy
                              the token there

Heads, layers and experts not named above keep their random draw. The subspaces are orthogonal:
`look` (what is compared), `note` (what head 0 writes; embeddings are kept out of it) and `copy`.

Source: ours; the circuit is that of Olsson et al., "In-context learning and induction heads".
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ._attention import LatentAttention
from ._config import LongcatConfig
from ._model import DecoderLayer, LongcatForCausalLM

_EMBEDDING_STD = 0.4  # well above what random sub-layers add, so that tokens stay readable
_ALIKE = 0.9  # correlation of twins
_SHIFT_GAIN, _KEY_GAIN, _COPY_GAIN = 8.0, 4.0, 3.0


def check_induction(config: LongcatConfig) -> None:
    """Look whether a model of this config has room for the circuit.

    Raises:
        ValueError: It is too narrow for three subspaces of `kv_lora_rank / 2`.
    """
    width, half = config.hidden_size, config.kv_lora_rank // 2
    if width < 3 * half + 1 or config.v_head_dim < half or config.num_attention_heads < 2:
        raise ValueError(
            f"induction needs hidden_size >= 3 * kv_lora_rank / 2 + 1, v_head_dim >= "
            f"kv_lora_rank / 2 and 2 heads; got {width}, {config.v_head_dim}, "
            f"{config.num_attention_heads} with kv_lora_rank={config.kv_lora_rank}"
        )


@torch.no_grad()
def init_induction(
    model: LongcatForCausalLM,
    *,
    twins: Sequence[tuple[int, int]] = (),
    generator: torch.Generator | None = None,
) -> None:
    """Redraw the embeddings, the output head and parts of layer 0 as described above.

    Args:
        model: Changed in place.
        twins: Pairs of tokens that start out almost alike, so that one can be found and copied by
            the other: see `space_twins`.
        generator: For the random parts.

    Raises:
        ValueError: See `check_induction`.
    """
    config = model.config
    check_induction(config)
    width, half = config.hidden_size, config.kv_lora_rank // 2
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator))[0].T
    constant = basis[0]
    look, note, copy = basis[1 : 1 + 3 * half].split(half)
    _embed(model, constant, note, twins)
    first, second = cast("DecoderLayer", model.model.layers[0]).self_attn
    _look_back(cast("LatentAttention", first), config.rope_theta, constant, look, note)
    _match_and_copy(cast("LatentAttention", second), look, note, copy, generator)


def _embed(
    model: LongcatForCausalLM,
    constant_D: Tensor,
    note_WD: Tensor,
    twins: Sequence[tuple[int, int]],
) -> None:
    """Give every token a common component, keep `note` free, start the head as the embedding."""
    embedding = model.model.embed_tokens.weight
    std = model.config.initializer_range
    if twins:
        spaced, plain = torch.tensor(twins, device=embedding.device).T
        embedding[spaced] = _ALIKE * embedding[plain] + (1 - _ALIKE**2) ** 0.5 * embedding[spaced]
    embedding.mul_(_EMBEDDING_STD / std)
    embedding.sub_(embedding @ note_WD.T @ note_WD)
    embedding.sub_((embedding @ constant_D)[:, None] * constant_D)
    embedding.add_(constant_D * _EMBEDDING_STD * 0.5 * len(constant_D) ** 0.5)
    model.lm_head.weight.copy_(embedding * (0.05 / _EMBEDDING_STD))


def _look_back(
    attention: LatentAttention, theta: float, constant_D: Tensor, look_WD: Tensor, note_WD: Tensor
) -> None:
    """Head 0 scores by position alone, highest one token back."""
    width, half, nope = len(constant_D), len(look_WD), attention.nope
    angles = theta ** (-torch.arange(0, attention.rope, 2) / attention.rope)
    level = 0.45 * width**0.5  # the common component after the norm
    attention.q_a_proj.weight[0] = constant_D * 0.6 / level
    key = torch.zeros(attention.rope)
    key[0::2] = 1.0
    attention.kv_a_proj_with_mqa.weight[attention.latent :] = (
        key[:, None] * constant_D * _KEY_GAIN / level
    )
    back = torch.zeros(attention.rope)
    back[0::2], back[1::2] = angles.cos(), -angles.sin()
    query = attention.q_b_proj.weight.unflatten(0, (attention.heads, -1))
    query[0] = 0
    query[0, nope:, 0] = back * _SHIFT_GAIN
    attention.kv_a_proj_with_mqa.weight[:half] = look_WD
    attention.kv_a_proj_with_mqa.weight[half : attention.latent] *= 0.3
    up = attention.kv_b_proj.weight.unflatten(0, (attention.heads, -1))
    up[0, nope:] = 0
    up[0, nope : nope + half, :half] = torch.eye(half)
    out = attention.o_proj.weight.unflatten(1, (attention.heads, -1))
    out[:, 0] = 0
    out[:, 0, :half] = note_WD.T * _EMBEDDING_STD * 0.7


def _match_and_copy(
    attention: LatentAttention,
    look_WD: Tensor,
    note_WD: Tensor,
    copy_WD: Tensor,
    generator: torch.Generator | None,
) -> None:
    """Heads 0 and 1 compare the present token with the noted one and copy what stands there."""
    half, nope = len(look_WD), attention.nope
    attention.kv_a_proj_with_mqa.weight[:half] = note_WD
    attention.kv_a_proj_with_mqa.weight[half : 2 * half] = copy_WD
    attention.q_a_proj.weight[:half] = look_WD
    attention.q_a_proj.weight[half:] *= 0.3
    query = attention.q_b_proj.weight.unflatten(0, (attention.heads, -1))
    up = attention.kv_b_proj.weight.unflatten(0, (attention.heads, -1))
    out = attention.o_proj.weight.unflatten(1, (attention.heads, -1))
    for head in (0, 1):
        compare = torch.randn(nope, half, generator=generator) / nope**0.5
        if nope == half:
            compare = torch.eye(half)
        query[head], up[head] = 0, 0
        query[head, :nope, :half] = compare
        up[head, :nope, :half] = compare
        up[head, nope : nope + half, half : 2 * half] = torch.eye(half)
        out[:, head] = 0
        out[:, head, :half] = copy_WD.T * _COPY_GAIN * _EMBEDDING_STD

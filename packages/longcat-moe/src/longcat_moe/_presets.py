"""The family by name, and how large each member is.

What the released files do not say is marked; sizes are checked against the published counts.
"""

from __future__ import annotations

import torch

from ._config import LongcatConfig
from ._meta import on_meta
from ._model import DecoderLayer, LongcatForCausalLM
from ._rotary import YarnScaling
from ._sparse import SparseAttention

PRESETS: dict[str, LongcatConfig] = {
    # 560B, 18.6B to 31.3B active. LongCat-Flash-Chat and -Thinking.
    "flash": LongcatConfig(),
    # The same weights' shape with a context of 256K; its own config.json was not seen.
    "thinking-2601": LongcatConfig(max_position_embeddings=262_144),
    # Half of the attentions sparse, 1M tokens by YaRN. Which half, the released string, was not
    # seen: here it is the second attention of each layer. The original length is `thinking-2601`'s.
    "zigzag": LongcatConfig(
        rope_scaling=YarnScaling(factor=4, original_max_position_embeddings=262_144),
        max_position_embeddings=1_048_576,
        sparse_attention=SparseAttention(layer_type="01" * 28),
    ),
    # 68.5B, of which 31.4B are n-gram tables. Routed scaling and rope theta are those of `flash`:
    # the released values were not seen.
    "lite": LongcatConfig(
        hidden_size=3072,
        num_layers=14,
        num_attention_heads=32,
        ffn_hidden_size=6144,
        expert_ffn_hidden_size=1024,
        n_routed_experts=256,
        zero_expert_num=128,
        rope_scaling=YarnScaling(factor=10, original_max_position_embeddings=32_768),
        max_position_embeddings=327_680,
        ngram_vocab_size_ratio=78,
    ),
    # 153M: large enough to time, small enough for two cores.
    "mini": LongcatConfig(
        vocab_size=32_000,
        hidden_size=512,
        num_layers=4,
        num_attention_heads=8,
        q_lora_rank=256,
        kv_lora_rank=128,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        ffn_hidden_size=1024,
        expert_ffn_hidden_size=256,
        n_routed_experts=64,
        zero_expert_num=32,
        moe_topk=6,
        rope_theta=10_000.0,
        max_position_embeddings=8192,
    ),
    # For tests and examples.
    "tiny": LongcatConfig(
        vocab_size=256,
        hidden_size=64,
        num_layers=1,
        num_attention_heads=2,
        q_lora_rank=32,
        kv_lora_rank=16,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        ffn_hidden_size=128,
        expert_ffn_hidden_size=32,
        n_routed_experts=8,
        zero_expert_num=4,
        moe_topk=3,
        rope_theta=10_000.0,
        max_position_embeddings=1024,
    ),
}
"""Name to config; `dataclasses.replace` changes a part."""


def get_preset(name: str) -> LongcatConfig:
    """Return a member of the family.

    Raises:
        ValueError: There is no such name.
    """
    if name not in PRESETS:
        raise ValueError(f"a preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def count_parameters(config: LongcatConfig | str) -> int:
    """Count all weights of a config or a preset without allocating any (560.66B for `flash`)."""
    return _count(_on_meta(config))


def count_active_parameters(config: LongcatConfig | str, *, num_ffn_experts: float) -> float:
    """Count the weights that one token meets when so many FFN experts answer it in each layer.

    Embedding tables are not counted, the output head is: 18.7B + 1.057B n for `flash`.
    """
    model = _on_meta(config)
    experts = [layer.mlp.experts for layer in model.model.layers if isinstance(layer, DecoderLayer)]
    tables = [model.model.embed_tokens, model.model.ngram_embeddings]
    idle = sum(map(_count, [*experts, *(table for table in tables if table is not None)]))
    one_each = sum(_count(module) / module.num_ffn for module in experts)
    return _count(model) - idle + num_ffn_experts * one_each


def _on_meta(config: LongcatConfig | str) -> LongcatForCausalLM:
    with on_meta():
        return LongcatForCausalLM(get_preset(config) if isinstance(config, str) else config)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

"""The models of the GPU script, and their twins in transformers with the same weights."""

from __future__ import annotations

import os

import torch
from longcat_moe import LongcatConfig, LongcatForCausalLM, get_preset
from longcat_moe._checkpoint import add_identity_rows
from longcat_moe._experts import Router

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ONE_BILLION = LongcatConfig(
    vocab_size=32_000, hidden_size=2048, num_layers=4, num_attention_heads=16, q_lora_rank=768,
    kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
    ffn_hidden_size=4096, expert_ffn_hidden_size=768, n_routed_experts=32, zero_expert_num=16,
    moe_topk=6, max_position_embeddings=8192,
)  # fmt: skip
"""Released widths of latents and heads; FFN of twice the width; a third of all experts identity."""


def config_of(name: str) -> LongcatConfig:
    """`1B`, or a preset."""
    return ONE_BILLION if name == "1B" else get_preset(name)


def ours_of(
    config: LongcatConfig, device: str, dtype: torch.dtype, *, is_drawn: bool = True
) -> LongcatForCausalLM:
    """Build a model where it will live; the router stays in float32, as when loaded."""
    torch.manual_seed(0)
    with torch.device(device if is_drawn else "meta"):
        model = LongcatForCausalLM(config).to(dtype)
    if not is_drawn:
        model.to_empty(device=device)
    for module in model.modules():
        if isinstance(module, Router):
            module.float()
    return model


def theirs_of(model: LongcatForCausalLM, device: str, dtype: torch.dtype):
    """Build transformers' model with the weights of ours."""
    import transformers

    config = transformers.AutoConfig.for_model(**model.config.to_dict())
    with torch.device(device):
        twin = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="sdpa"
        )
    for name, module in twin.named_modules():
        if name.endswith(".router"):
            module.float()
    state = add_identity_rows(model.state_dict(), model.config.zero_expert_num)
    missing, unexpected = twin.load_state_dict(state, strict=False)
    missing = [name for name in missing if "rotary" not in name]
    assert not missing, missing
    assert not unexpected, unexpected
    return twin.to(device).eval()

import os

import pytest
import torch
from longcat_moe import LongcatConfig, LongcatForCausalLM


@pytest.fixture
def config() -> LongcatConfig:
    return LongcatConfig(
        vocab_size=96, hidden_size=48, num_layers=2, num_attention_heads=3, q_lora_rank=24,
        kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12,
        ffn_hidden_size=64, expert_ffn_hidden_size=16, n_routed_experts=8, zero_expert_num=4,
        moe_topk=4, rope_theta=10_000.0, max_position_embeddings=256, initializer_range=0.2,
    )  # fmt: skip


@pytest.fixture
def model(config: LongcatConfig) -> LongcatForCausalLM:
    torch.manual_seed(0)
    model = LongcatForCausalLM(config).eval()
    for module in model.modules():
        if hasattr(module, "e_score_correction_bias"):
            module.e_score_correction_bias.normal_(std=0.05)
    return model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave sweeps out, unless LONGCAT_LONG=1 asks for them."""
    if os.environ.get("LONGCAT_LONG") == "1":
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="a long run: LONGCAT_LONG=1"))

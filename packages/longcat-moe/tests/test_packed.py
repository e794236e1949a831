"""Packed matrices: the same function, and only where they pay."""

import dataclasses

import torch
from longcat_moe import LongcatForCausalLM, get_preset, pack
from longcat_moe._packed import PackedExperts, PackedLinear, can_pack

_WIDE = dataclasses.replace(
    get_preset("tiny"), vocab_size=1024, hidden_size=512, ffn_hidden_size=512,
    expert_ffn_hidden_size=256,
)  # fmt: skip


def test_a_packed_model_is_the_same_function():
    torch.manual_seed(0)
    model = LongcatForCausalLM(_WIDE).eval()
    packed = pack(model)
    kinds = {type(module) for module in packed.modules()}
    if not can_pack(model.lm_head.weight):
        assert packed is model
        return
    assert {PackedLinear, PackedExperts} <= kinds
    assert (
        type(packed.model.layers[0].self_attn[0].q_a_proj) is torch.nn.Linear
    )  # small: left alone
    ids = torch.randint(0, 1024, (3, 17))
    with torch.inference_mode():
        torch.testing.assert_close(packed(ids).logits, model(ids).logits, atol=2e-4, rtol=1e-4)
    assert pack(packed) is packed


def test_a_model_of_small_matrices_is_left_as_it_is():
    model = LongcatForCausalLM(get_preset("tiny"))
    assert pack(model) is model

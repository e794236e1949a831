"""The tokenizer: lossless on anything, short on what it was trained on, and equal where copied."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from longcat_moe import (
    LongcatConfig,
    LongcatForCausalLM,
    init_induction,
    space_twins,
    train_tokenizer,
)
from longcat_moe._tokenizer import EOS, MARKERS

TURN = (
    "lend\n</longcat_think>\n<longcat_tool_call>lend_book\n<longcat_arg_key>name"
    "</longcat_arg_key>\n"
    "<longcat_arg_value>Ada Berg</longcat_arg_value>\n</longcat_tool_call>\n</longcat_s>"
)
TOKENIZER = train_tokenizer(
    [f"<longcat_user>Lend it to Ada Berg. /think_on <longcat_assistant><longcat_think>\n{TURN}"]
    * 3,
    vocab_size=400,
)


def _tokens(text):
    return [TOKENIZER.decode([i], skip_special_tokens=False) for i in TOKENIZER.encode(text).ids]


def test_markers_that_stand_together_are_one_token_and_the_end_of_turn_is_not_among_them():
    assert _tokens(TURN) == [
        "lend", "\n</longcat_think>\n<longcat_tool_call>", "lend_book", "\n<longcat_arg_key>",
        "name", "</longcat_arg_key>\n<longcat_arg_value>", "Ada", " Berg",
        "</longcat_arg_value>\n</longcat_tool_call>\n", EOS,
    ]  # fmt: skip


@given(st.lists(st.one_of(st.text(max_size=8), st.sampled_from([*MARKERS, EOS, " ", "\n", TURN]))))
def test_any_text_comes_back(parts):
    text = "".join(parts)
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_ids_fill_the_vocabulary_without_gaps():
    assert sorted(TOKENIZER.get_vocab().values()) == list(range(TOKENIZER.get_vocab_size()))
    assert TOKENIZER.get_vocab_size() <= 400


def test_twins_differ_by_their_space_and_start_out_alike():
    twins = space_twins(TOKENIZER)
    names = {i: text for text, i in TOKENIZER.get_vocab().items()}
    pairs = {(names[spaced], names[plain]) for spaced, plain in twins}
    assert ("\u0120Ada", "Ada") in pairs
    assert all(spaced[1:] == plain for spaced, plain in pairs)
    config = LongcatConfig(
        vocab_size=400, hidden_size=128, num_layers=1, num_attention_heads=2, q_lora_rank=32,
        kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16,
        ffn_hidden_size=32, expert_ffn_hidden_size=16, n_routed_experts=4, zero_expert_num=2,
        moe_topk=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LongcatForCausalLM(config)
    init_induction(model, twins=twins)
    spaced, plain = torch.tensor(twins).T
    embedding = model.model.embed_tokens.weight.detach()
    embedding = embedding - embedding.mean(0)  # without the component that all share
    alike = torch.cosine_similarity(embedding[spaced], embedding[plain])
    strangers = torch.cosine_similarity(embedding[spaced], embedding[plain.flip(0)])
    assert alike.mean() > 0.8
    assert strangers.mean() < alike.mean() - 0.3

"""Sequences longer than a model can be: one would change what is beside it, or has no position."""

import importlib.util
from pathlib import Path

import pytest
import torch
from longcat_gspo import GspoTrainer, Sample, TrainerConfig
from longcat_gspo._limits import longest

transformers = pytest.importorskip("transformers")
_spec = importlib.util.spec_from_file_location("gspo_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)
llama = models.llama
CONFIG = TrainerConfig(old_log_probs="trainer", learning_rate=1e-2)


def _phi3():
    torch.manual_seed(0)
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, original_max_position_embeddings=16,
        rope_parameters={
            "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
            "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
        },
    ))  # fmt: skip


def _dynamic():
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    return llama(max_position_embeddings=16, rope_parameters=rope)


def _gpt2():
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=24, n_embd=32, n_layer=1, n_head=4, n_positions=16, bos_token_id=None,
        eos_token_id=None,
    ))  # fmt: skip


def _opt():
    torch.manual_seed(0)
    return transformers.OPTForCausalLM(transformers.OPTConfig(
        vocab_size=24, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4,
        word_embed_proj_dim=32, max_position_embeddings=16,
    ))  # fmt: skip


def _batch(*lengths):
    return [
        Sample(token_ids=[3 + (n + k) % 20 for k in range(length)],
               loss_mask=[False, *[True] * (length - 1)], log_probs=None, reward=float(n % 2),
               group="g")
        for n, length in enumerate(lengths)
    ]  # fmt: skip


MAKES = [(_phi3, "'longrope' a longer one"), (_dynamic, "'dynamic' a longer one"),
         (_gpt2, "no more positions"), (_opt, "no more positions")]  # fmt: skip


@pytest.mark.parametrize(("make", "why"), MAKES)
def test_a_sample_longer_than_the_model_can_be_is_refused_and_nothing_changed(make, why):
    model = make()
    before = [p.clone() for p in model.parameters()]
    trainer = GspoTrainer(model, CONFIG)
    batch = _batch(8, 17)
    for step in (trainer.train, trainer.fit, trainer.evaluate):
        said = f"sample 1 must be of at most 16 tokens, got 17: .*{why}"
        with pytest.raises(ValueError, match=said) as error:
            step(batch)
        assert "\n" not in str(error.value)
    assert all(map(torch.equal, before, model.parameters()))
    assert trainer.num_batches == trainer.num_steps == 0
    assert trainer.train(_batch(8, 16))["grad_norm"] > 0


@pytest.mark.parametrize("make", [_phi3, _dynamic])
def test_a_reference_refuses_what_it_would_see_otherwise_in_a_batch(make):
    model = llama(vocab=make().config.vocab_size)
    before = [p.clone() for p in model.parameters()]
    trainer = GspoTrainer(model, CONFIG, reference=make())
    with pytest.raises(ValueError, match="must be of at most 16 tokens, got 17"):
        trainer.train(_batch(8, 17))
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("make", [_phi3, _dynamic])
def test_a_short_sample_is_the_same_whatever_lies_beside_it(make):
    short, beside = _batch(8, 16)
    trainer = GspoTrainer(make(), CONFIG)
    apart = [trainer.evaluate([one]) * one.num_learned for one in (short, beside)]
    both = trainer.evaluate([short, beside]) * (short.num_learned + beside.num_learned)
    assert sum(apart) == pytest.approx(both, rel=1e-5)


def test_models_that_tell_no_length_have_none():
    assert longest(torch.nn.Linear(2, 2)) is None
    assert longest(llama(max_position_embeddings=16)) is None
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
            "original_max_position_embeddings": 16}  # fmt: skip
    assert longest(llama(max_position_embeddings=64, rope_parameters=yarn)) is None


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_rope_is_found_under_its_names_of_before_and_of_each_kind_of_layer(name):
    from types import SimpleNamespace

    rope = {"type": "longrope"}
    for held in (rope, {"full_attention": rope, "sliding_attention": {"rope_type": "default"}}):
        model = torch.nn.Linear(2, 2)
        model.config = SimpleNamespace(
            **{name: held}, max_position_embeddings=64, original_max_position_embeddings=16
        )
        assert longest(model).num_tokens == 16

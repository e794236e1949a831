"""Adapters beside other weights that are trained: what is sent, measured against, and refused."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from longcat_gspo import ClipRange, GspoTrainer, TrainerConfig
from safetensors.torch import load as load_safetensors

pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
_spec = importlib.util.spec_from_file_location("gspo_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)
llama, sampled, with_lora = models.llama, models.sampled, models.with_lora
CONFIG = TrainerConfig(
    learning_rate=1e-2, clip=ClipRange(low=0.5, high=0.5), old_log_probs="trainer"
)
TIES = "ignore:Model has .tie_word_embeddings"


def _logits(model, ids=((1, 2, 3, 4, 5),)):
    with torch.no_grad():
        return model.eval()(torch.tensor(ids)).logits


def _with_norms(model, **options):
    """LoRA, and norms that are trained without PEFT knowing."""
    adapted = with_lora(model, **options)
    for name, parameter in adapted.named_parameters():
        if "norm" in name:
            parameter.requires_grad = True
    return adapted


def _biased():
    return llama(attention_bias=True, mlp_bias=True)


# -- tied layers -------------------------------------------------------------------------------


@pytest.mark.filterwarnings(TIES)
@pytest.mark.parametrize("copied", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_copies_of_tied_layers_that_are_trained_apart_are_refused(copied):
    model = with_lora(llama(), modules_to_save=copied)
    with pytest.raises(ValueError, match="tied embeddings must be trained as one weight") as error:
        GspoTrainer(model, CONFIG)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings(TIES)
def test_an_adapter_alone_takes_its_copy_of_a_tied_layer_along():
    trainer = GspoTrainer(with_lora(llama(), modules_to_save=["lm_head"]), CONFIG, send="adapter")
    trainer.train(sampled(llama()))
    other = with_lora(llama(), modules_to_save=["lm_head"])
    peft.set_peft_model_state_dict(other, load_safetensors(trainer.weights()))
    assert torch.equal(_logits(other), _logits(trainer.model))


@pytest.mark.parametrize("name", ["default", "mine"])
def test_dora_is_sent_under_the_names_of_pefts_own_files(tmp_path, name):
    config = peft.LoraConfig(r=4, target_modules="all-linear", use_dora=True)
    model = peft.get_peft_model(llama(), config, adapter_name=name)
    sent = load_safetensors(GspoTrainer(model, CONFIG, send="adapter").weights())
    model.save_pretrained(tmp_path)
    (file,) = tmp_path.rglob("adapter_model.safetensors")
    saved = load_safetensors(file.read_bytes())
    assert any(key.endswith("lora_magnitude_vector") for key in sent)
    assert sent.keys() == saved.keys()
    assert all(torch.equal(sent[key], saved[key]) for key in sent)


@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed")
def test_biases_of_an_adapter_that_cannot_be_merged_are_refused_at_once():
    model = with_lora(llama(), lora_bias=True)
    with pytest.raises(ValueError, match=r"on layers that have one, to be merged, got \S+proj"):
        GspoTrainer(model, CONFIG)
    assert GspoTrainer(with_lora(_biased(), lora_bias=True), CONFIG).weights()


@pytest.mark.parametrize("options", [
    {"modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    {"trainable_token_indices": [1, 2]},
])  # fmt: skip
def test_copies_that_are_tied_still_are_sent_as_they_are_trained(options):
    trainer = GspoTrainer(with_lora(llama(), **options), CONFIG)
    for step in range(3):
        trainer.train(sampled(llama(), seed=step))
    other = llama(seed=5)
    missing = other.load_state_dict(load_safetensors(trainer.weights()), strict=False)
    assert not missing.unexpected_keys
    torch.testing.assert_close(_logits(other), _logits(trainer.model), atol=1e-5, rtol=1e-4)


# -- adapters without PEFT's wrapper -----------------------------------------------------------


@pytest.mark.parametrize("add", [
    lambda model, config: model.add_adapter(config),
    lambda model, config: peft.inject_adapter_in_model(config, model),
])  # fmt: skip
def test_an_adapter_without_pefts_wrapper_is_refused(add):
    model = llama()
    try:
        add(model, peft.LoraConfig(r=4, target_modules="all-linear"))
    except ValueError as error:  # transformers 5.24 asks for a PEFT that is not out yet
        pytest.skip(f"transformers adds no adapter here: {error}")
    with pytest.raises(ValueError, match=r"peft\.get_peft_model.*got one inside LlamaForCausalLM"):
        GspoTrainer(model, CONFIG)


# -- weights beside the adapter ----------------------------------------------------------------


@pytest.mark.parametrize(("make", "plain"), [
    (lambda: _with_norms(llama()), llama),
    (lambda: with_lora(_biased(), bias="all"), _biased),
    (lambda: with_lora(_biased(), bias="lora_only"), _biased),
    (lambda: with_lora(llama(tie_word_embeddings=False), modules_to_save=["lm_head"]),
     lambda: llama(tie_word_embeddings=False)),
])  # fmt: skip
def test_a_frozen_reference_stays_the_model_before_its_adapter_was_trained(make, plain):
    frozen = GspoTrainer(make(), CONFIG, reference="frozen")
    apart = GspoTrainer(make(), CONFIG, reference=plain())
    for step in range(3):
        batch = sampled(plain(), seed=step)
        told = frozen.train(batch)["reference_kl"], apart.train(batch)["reference_kl"]
        assert told[0] == pytest.approx(told[1], rel=1e-4)
    assert told[0] > 1e-3


def test_an_adapter_that_alone_is_trained_costs_no_copy(monkeypatch):
    adapted = [
        with_lora(llama()),
        with_lora(llama(), use_dora=True),
        with_lora(llama(tie_word_embeddings=False), modules_to_save=["lm_head"]),
        with_lora(llama(), trainable_token_indices=[1, 2]),
    ]
    monkeypatch.setattr(
        "longcat_gspo._trainer.frozen_copy", lambda _: pytest.fail("a copy was made")
    )
    for model in adapted:
        GspoTrainer(model, CONFIG, reference="frozen")


def test_an_adapter_alone_is_refused_where_weights_beside_it_are_trained(tmp_path):
    beside = r"must hold all that is trained, got \S+input_layernorm.weight beside it"
    with pytest.raises(ValueError, match=beside):
        GspoTrainer(_with_norms(llama()), CONFIG, send="adapter")
    trainer = GspoTrainer(_with_norms(llama()), CONFIG)
    trainer.train(sampled(llama()))
    with pytest.raises(ValueError, match=beside):
        trainer.export(tmp_path / "adapter", only_adapter=True)
    assert not (tmp_path / "adapter").exists()
    other = llama(seed=5)
    other.load_state_dict(load_safetensors(trainer.weights()), strict=False)
    torch.testing.assert_close(_logits(other), _logits(trainer.model), atol=1e-5, rtol=1e-4)


def test_biases_that_peft_saves_go_with_the_adapter_alone(tmp_path):
    trainer = GspoTrainer(with_lora(_biased(), bias="all"), CONFIG, send="adapter")
    trainer.train(sampled(_biased()))
    assert any(name.endswith("bias") for name in load_safetensors(trainer.weights()))
    trainer.export(tmp_path, only_adapter=True)
    again = peft.PeftModel.from_pretrained(_biased(), tmp_path)
    assert torch.equal(_logits(again), _logits(trainer.model))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["bias"] == "all"


# -- a reference of its own --------------------------------------------------------------------


def test_a_reference_in_the_same_memory_is_refused():
    model, other = llama(), llama(seed=5)
    other.load_state_dict(model.state_dict(), assign=True)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in other.parameters()}
    with pytest.raises(ValueError, match="shares weights with the model"):
        GspoTrainer(model, CONFIG, reference=other)
    model.requires_grad_(False)
    model.model.norm.weight = torch.nn.Parameter(model.model.norm.weight.clone())
    GspoTrainer(model, CONFIG, reference=other)  # what is frozen may be shared


# -- checkpoints -------------------------------------------------------------------------------


def _kept(trainer):
    return torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])


def _saved(folder):
    trainer = GspoTrainer(llama(), CONFIG)
    trainer.train(sampled(llama()))
    trainer.save(folder)
    return folder / "trainer.pt"


def test_bytes_that_are_missing_at_the_head_or_within_are_one_line(tmp_path):
    path = _saved(tmp_path)
    whole = path.read_bytes()
    half, other = len(whole) // 2, GspoTrainer(llama(), CONFIG)
    before = _kept(other)
    for broken in (whole[50:], whole[:half] + whole[half + 100 :], whole[1:], whole[-300:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"trainer.pt is cut short.*use an earlier one"):
            other.restore(tmp_path)
    assert torch.equal(_kept(other), before)


_ELSE = {"state": {"x": {"exp_avg": torch.zeros(1)}}, "param_groups": [{}]}
_NAMED = {"state": {}, "param_groups": [{"params": ["x"]}]}


@pytest.mark.parametrize(
    "change",
    [
        {"model": 3},
        {"model": {"lm_head.weight": 3}},
        {"model": {1: torch.zeros(1), "a": torch.zeros(1)}},
        {"optimizer": [1]},
        {"optimizer": 3},
        {"optimizer": {"state": 3, "param_groups": []}},
        {"optimizer": {"state": {"x": 3}, "param_groups": []}},
        {"optimizer": {"state": {}}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"optimizer": {"state": {}, "param_groups": [{"params": 3}]}},
        {"optimizer": _ELSE},
        {"optimizer": _NAMED},
        {"num_steps": "3"},
        {"num_steps": -1},
        {"num_batches": 1.5},
    ],
)
def test_a_checkpoint_with_something_else_in_it_is_one_line_and_changes_nothing(tmp_path, change):
    path = _saved(tmp_path)
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    other = GspoTrainer(llama(), CONFIG)
    before = _kept(other)
    with pytest.raises(ValueError, match=r"trainer\.pt must be") as error:
        other.restore(tmp_path)
    assert "\n" not in str(error.value)
    assert torch.equal(_kept(other), before)
    assert (other.num_steps, other.num_batches) == (0, 0)


def test_a_checkpoint_knows_all_that_is_trained_and_may_know_more(tmp_path):
    def trainer(*, frozen):
        model = llama()
        model.get_input_embeddings().requires_grad_(not frozen)
        return GspoTrainer(model, CONFIG)

    part, whole = trainer(frozen=True), trainer(frozen=False)
    before = _kept(whole)
    for folder, one in (("part", part), ("whole", whole)):
        one.train(sampled(llama()))
        one.save(tmp_path / folder)
    other = trainer(frozen=False)
    with pytest.raises(ValueError, match=r"same weights, it has nothing of \S+embed_tokens.weight"):
        other.restore(tmp_path / "part")
    assert torch.equal(_kept(other), before)
    less = trainer(frozen=True)
    less.restore(tmp_path / "whole")
    assert torch.equal(_kept(less), _kept(whole))
    assert less.train(sampled(llama(), seed=1))["grad_norm"] > 0

"""The model as a transformers model, against transformers' own and against `longcat_moe`."""

import copy
import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from longcat_moe import LongcatForCausalLM, SparseAttention, Window, YarnScaling

transformers = pytest.importorskip("transformers")

from longcat_moe import transformers as ours  # noqa: E402


def _hf(model):
    kind = ours.LongcatHfForCausalLM
    if model.config.has_ngrams:
        kind = ours.LongcatHfNgramForCausalLM
    hf = kind(ours.LongcatHfConfig.from_longcat(model.config))
    hf.load_state_dict(model.state_dict())
    return hf.eval()


@pytest.fixture
def hf(model):
    return _hf(model)


@pytest.fixture
def theirs(model, tmp_path):
    model.save_pretrained(tmp_path / "theirs")
    return transformers.LongcatFlashForCausalLM.from_pretrained(
        tmp_path / "theirs", dtype=torch.float32
    ).eval()


def _ids(rows=2, width=11, seed=0):
    return torch.randint(3, 96, (rows, width), generator=torch.Generator().manual_seed(seed))


def test_auto_classes_find_it_once_registered(model, tmp_path):
    """In a process of its own: registering is for good."""
    model.save_pretrained(tmp_path)
    code = (
        "import sys, torch, longcat_moe.transformers as ours\n"
        "from transformers import AutoConfig, AutoModelForCausalLM\n"
        "ours.register(); ours.register()\n"
        "config = AutoConfig.from_pretrained(sys.argv[1])\n"
        "assert type(config) is ours.LongcatHfConfig, type(config)\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)\n"
        "assert type(model) is ours.LongcatHfForCausalLM\n"
        "assert model.dtype == torch.bfloat16 and model.config.hidden_size == 48\n"
        "assert type(AutoModelForCausalLM.from_config(config)) is ours.LongcatHfForCausalLM\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=300)


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_logits_loss_and_states_equal_transformers(hf, theirs, padding):
    ids, mask = _ids(3, 11), torch.ones(3, 11, dtype=torch.long)
    if padding == "right":
        mask[0, 8:] = mask[1, 5:] = 0
    elif padding == "left":
        mask[0, :3] = mask[1, :6] = 0
    options = {"attention_mask": None if padding == "none" else mask, "output_hidden_states": True}
    labels = ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        got, expected = hf(ids, labels=labels, **options), theirs(ids, labels=labels, **options)
        real = mask.bool()
        torch.testing.assert_close(got.logits[real], expected.logits[real], atol=1e-5, rtol=0)
        assert len(got.hidden_states) == len(expected.hidden_states) == 3
        for a, b in zip(got.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(a[real], b[real], atol=1e-5, rtol=0)
        if padding != "left":  # where a label follows padding, theirs asks padding for it
            torch.testing.assert_close(got.loss, expected.loss, atol=1e-5, rtol=0)
        kept = hf(ids, attention_mask=options["attention_mask"], logits_to_keep=2).logits
        torch.testing.assert_close(
            kept, hf(ids, attention_mask=options["attention_mask"]).logits[:, -2:]
        )


def test_positions_that_begin_anew_are_texts_of_their_own_as_in_transformers(model, theirs):
    ids = _ids(2, 12)
    positions = torch.tensor(
        [[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]]
    )
    with torch.no_grad():
        got = model(ids, position_ids=positions).logits
        torch.testing.assert_close(
            got, theirs(ids, position_ids=positions, use_cache=False).logits, atol=1e-5, rtol=0
        )
        alone = model(ids[:1, 7:]).logits
        torch.testing.assert_close(got[:1, 7:], alone, atol=1e-5, rtol=0)
        shifted = model(ids, position_ids=torch.arange(5, 17)[None]).logits
        torch.testing.assert_close(shifted, model(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(2, 10), (2, 12), (1, 11), (2, 1)])
def test_a_mask_of_another_shape_is_refused(model, hf, shape):
    for one in (model, hf):
        with pytest.raises(ValueError, match="attention_mask must have"):
            one(_ids(), attention_mask=torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(11,), (2, 10), (3, 11), (2, 1), (1, 2, 11)])
def test_positions_of_another_shape_are_refused(model, hf, shape):
    for one in (model, hf):
        with pytest.raises(ValueError, match="position_ids must have the shape"):
            one(_ids(), position_ids=torch.zeros(shape, dtype=torch.long))
    row = torch.arange(11)[None]
    torch.testing.assert_close(model(_ids(), position_ids=row).logits, model(_ids()).logits)


def test_attentions_are_refused_as_nobody_keeps_them(hf):
    with pytest.raises(ValueError, match="output_attentions is not done"):
        hf(_ids(), output_attentions=True)
    assert hf(_ids(), output_attentions=False).logits.isfinite().all()


def test_a_cache_of_fixed_size_is_refused(hf):
    with pytest.raises(ValueError, match="StaticCache is not done here"):
        hf.generate(_ids(), max_new_tokens=3, cache_implementation="static")


def test_a_mask_with_holes_is_refused(model):
    mask = torch.tensor([[1, 1, 0, 1, 1]])
    with pytest.raises(ValueError, match="without holes"):
        model(_ids(1, 5), attention_mask=mask)


@pytest.mark.parametrize("beams", [1, 3])
def test_generate_says_what_transformers_says(hf, theirs, beams):
    ids = _ids(3, 9)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = mask[2, :1] = 0
    options = {
        "attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "num_beams": beams,
        "pad_token_id": 0,
        "eos_token_id": 95,
    }  # fmt: skip
    assert torch.equal(hf.generate(ids, **options), theirs.generate(ids, **options))


@pytest.mark.parametrize("name", ["past_key_values", "cache"])  # before transformers 5.24, since
def test_a_cache_is_taken_under_both_names_that_transformers_has_for_it(hf, name):
    ids = _ids(2, 9)
    with torch.no_grad():
        expected = hf(ids).logits[:, 5:]
        *_, cache = hf(ids[:, :5], use_cache=True, return_dict=False)
        torch.testing.assert_close(hf(ids[:, 5:], **{name: cache}).logits, expected)
    with pytest.raises(ValueError, match="at most one of past_key_values and cache"):
        hf(ids[:, 5:], past_key_values=cache, cache=cache)


@pytest.mark.parametrize("kind", ["plain", "sparse", "yarn", "ngram"])
def test_a_cache_changes_nothing(config, kind):
    changes = {
        "sparse": {"sparse_attention": SparseAttention(
            layer_type="0101", window=Window(num_sink=1, num_local=2, block_size=4))},
        "yarn": {"rope_scaling": YarnScaling(factor=4, original_max_position_embeddings=32)},
        "ngram": {"ngram_vocab_size_ratio": 2.3, "emb_neighbor_num": 3, "emb_split_num": 2},
    }.get(kind, {})  # fmt: skip
    torch.manual_seed(0)
    hf = _hf(LongcatForCausalLM(dataclasses.replace(config, **changes)))
    ids = _ids(2, 20)
    options = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "eos_token_id": 95}
    with_cache, without = (hf.generate(ids, use_cache=use, **options) for use in (True, False))
    assert torch.equal(with_cache, without)
    alone = hf.generate(ids[:1], **options).tolist()[
        0
    ]  # which may end earlier, the rest is padding
    assert with_cache.tolist()[0][: len(alone)] == alone


def test_embeddings_may_come_in_place_of_ids(hf):
    ids = _ids()
    with torch.no_grad():
        embeds = hf.get_input_embeddings()(ids)
        torch.testing.assert_close(hf(inputs_embeds=embeds).logits, hf(ids).logits)
        padded = torch.tensor([[0] * 3 + [1] * 8] * 2)
        torch.testing.assert_close(
            hf(inputs_embeds=embeds, attention_mask=padded).logits,
            hf(ids, attention_mask=padded).logits,
        )
    for wrong in ({}, {"input_ids": ids, "inputs_embeds": embeds}):
        with pytest.raises(ValueError, match="exactly one"):
            hf(**wrong)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_base_model_gives_the_states_that_logits_are_made_of(hf, side):
    """TRL's losses call it, and apply the output matrix themselves."""
    ids, mask = _ids(), torch.ones(2, 11, dtype=torch.long)
    mask[0, slice(0, 3) if side == "left" else slice(8, None)] = 0
    with torch.no_grad():
        states = hf.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        logits = hf.get_output_embeddings()(states.last_hidden_state)
        expected = hf(ids, attention_mask=mask).logits
        torch.testing.assert_close(logits[mask.bool()], expected[mask.bool()])
        embeds = hf.get_input_embeddings()(ids)
        again = hf.base_model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(again, states.last_hidden_state)
    assert hf.base_model.layers is hf.model.layers


def test_what_is_saved_loads_here_there_and_in_longcat_moe(hf, model, tmp_path):
    hf.generation_config.max_new_tokens = 7
    hf.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ids = _ids()
    with torch.no_grad():
        expected = model(ids).logits
        again = ours.LongcatHfForCausalLM.from_pretrained(tmp_path)
        assert again.generation_config.max_new_tokens == 7
        assert not again.training
        core = LongcatForCausalLM.from_pretrained(tmp_path)
        peer = transformers.LongcatFlashForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        for logits in (again(ids).logits, core(ids).logits, peer(ids).logits):
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert core.config == model.config


@pytest.mark.parametrize("changes", [
    {}, {"rope_scaling": YarnScaling(factor=4, original_max_position_embeddings=32)},
    {"ngram_vocab_size_ratio": 2.3, "emb_neighbor_num": 3, "emb_split_num": 2},
    {"num_nextn_predict_layers": 1}, {"norm": "span"},
    {"sparse_attention": SparseAttention(layer_type="0110")},
])  # fmt: skip
def test_configs_go_there_and_come_back(config, changes, tmp_path):
    config = dataclasses.replace(config, **changes)
    hf = ours.LongcatHfConfig.from_longcat(config)
    assert hf.to_longcat() == config
    hf.save_pretrained(tmp_path)
    assert type(hf).from_pretrained(tmp_path).to_longcat() == config
    assert copy.deepcopy(hf).to_longcat() == config


def test_the_default_of_saving_loads_in_transformers_and_the_released_form_is_there(
    model, tmp_path
):
    model.save_pretrained(tmp_path / "a")
    ids = _ids()
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(peer(ids).logits, model(ids).logits, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / "b", for_transformers=False)
    sizes = [sum(p.stat().st_size for p in (tmp_path / n).glob("*.safetensors")) for n in "ab"]
    assert sizes[1] < sizes[0]


def test_the_vocabulary_can_grow(hf):
    hf.resize_token_embeddings(100)
    assert hf(_ids()).logits.shape[-1] == 100
    assert hf.config.to_longcat().vocab_size == 100


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_on_attention_and_experts_train_and_are_heard_when_generating(
    hf, tmp_path, checkpointing
):
    peft = pytest.importorskip("peft")
    if checkpointing:
        hf.gradient_checkpointing_enable()
        hf.enable_input_require_grads()
    options = {
        "target_modules": ["q_b_proj", "kv_b_proj", "o_proj"],
        "r": 4,
        "init_lora_weights": False,
    }
    options["target_parameters"] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    torch.manual_seed(0)
    model = peft.get_peft_model(
        hf, peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **options)
    )
    ids = _ids()
    loss = model(ids, labels=ids).loss
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert any("experts" in name for name in grads)
    assert any("kv_b_proj" in name for name in grads)
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
    model.eval()
    generate = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 95}
    with_cache, without = (
        model.generate(input_ids=ids, use_cache=use, **generate) for use in (True, False)
    )
    assert torch.equal(with_cache, without)
    merged = copy.deepcopy(model).merge_and_unload()
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_trainer_trains_ten_steps_and_saves_what_loads(hf, tmp_path):
    pytest.importorskip("accelerate")
    texts = [{"input_ids": row, "labels": row} for row in _ids(20, 12)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=10, per_device_train_batch_size=4, learning_rate=5e-3,
        report_to=[], use_cpu=True, save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model=hf, args=arguments, train_dataset=texts)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.3
    trainer.save_model(str(tmp_path / "saved"))
    again = LongcatForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(
            again(_ids()).logits, hf.eval()(_ids()).logits, atol=1e-5, rtol=0
        )


def test_dtypes_are_named_as_transformers_names_them(model, tmp_path):
    model.bfloat16().save_pretrained(tmp_path)
    load = ours.LongcatHfForCausalLM.from_pretrained
    assert load(tmp_path).dtype == load(tmp_path, dtype="auto").dtype == torch.bfloat16
    assert load(tmp_path, dtype="float32").dtype == load(tmp_path, torch_dtype=torch.float32).dtype
    with pytest.raises(ValueError, match="dtype must be"):
        load(tmp_path, dtype="float99")
    with pytest.raises(ValueError, match="one device"):
        load(tmp_path, device_map={"": 0})
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        "LongcatFlashForCausalLM"
    ]

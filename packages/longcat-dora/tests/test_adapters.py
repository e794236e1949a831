"""Adapters beside one base: each version runs as PEFT itself runs it, or is refused."""

import asyncio
import json
import warnings

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from longcat_dora import LongcatDoraError  # noqa: E402
from longcat_dora.transformers import TransformersEngine  # noqa: E402
from safetensors.torch import save  # noqa: E402


def _llama(seed=0, *, tied=False):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, eos_token_id=2,
        pad_token_id=0, bos_token_id=1, tie_word_embeddings=tied, attention_bias=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def _adapted(seed, *, tied=False, **options):
    """A model whose adapter was trained, and what a trainer sends of it."""
    base = _llama(tied=tied)
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on tied embeddings
        model = peft.get_peft_model(base, peft.LoraConfig(**options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    config = json.dumps(
        model.peft_config["default"].to_dict(),
        default=lambda x: sorted(x) if isinstance(x, set) else str(x),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that embeddings are saved, too
        state = peft.get_peft_model_state_dict(model)
    # Clones, since tied ones would share memory in the file.
    return model.eval(), save({k: v.clone() for k, v in state.items()}, {"peft_config": config})


async def _say(engine, version, *, seed=0):
    one = await engine.open(version, seed=seed)
    part = await engine.generate(one, [5, 7, 9], max_tokens=12, temperature=1.0)
    await engine.close(one)
    return part


def _gap(part, model):
    """How far log-probs are from those of one pass without a cache."""
    ids = [5, 7, 9, *part.token_ids]
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    exact = [logs[2 + n, token].item() for n, token in enumerate(part.token_ids)]
    return max(abs(a - b) for a, b in zip(exact, part.log_probs, strict=True))


async def _gaps(engine, models):
    """Of all versions, sampled at once; the newest first, so that none leans on being first."""
    try:
        order = sorted(models, reverse=True)
        parts = await asyncio.gather(*(_say(engine, n) for n in order))
        return [_gap(part, models[n]) for n, part in zip(order, parts, strict=True)]
    finally:
        await engine.stop()


@pytest.mark.parametrize(("changes", "said"), [
    ({"lora_alpha": 32}, "first one's lora_alpha=8, got 32"),
    ({"r": 2}, "first one's r=4, got 2"),
    ({"use_rslora": True}, "first one's use_rslora=False, got True"),
    ({"use_dora": True}, "first one's use_dora=False, got True"),
    ({"alpha_pattern": {"q_proj": 1}}, "first one's alpha_pattern="),
    ({"rank_pattern": {"q_proj": 2}}, "first one's rank_pattern="),
    ({"init_lora_weights": "pissa"}, "first one's init_lora_weights=True, got pissa"),
    ({"target_modules": ["q_proj"]}, "of the same layers, they differ at"),
])  # fmt: skip
def test_an_adapter_of_another_configuration_is_refused_by_its_setting(changes, said):
    async def go():
        engine = TransformersEngine(_llama(), num_rows=4, max_length=32)
        engine.load_weights(1, _adapted(1)[1])
        await _say(engine, 1)
        engine.load_weights(2, _adapted(2, **changes)[1])
        try:
            await _say(engine, 2)
        finally:
            await engine.stop()

    with pytest.raises(LongcatDoraError, match=said):
        asyncio.run(go())


def test_what_changes_no_pass_may_differ_between_adapters():
    engine, models = TransformersEngine(_llama(), num_rows=4, max_length=32), {}
    for version, options in enumerate(
        ({}, {"lora_dropout": 0.5, "init_lora_weights": "gaussian"}, {"init_lora_weights": False})
    ):
        models[version], sent = _adapted(version, **options)
        engine.load_weights(version, sent)
    assert max(asyncio.run(_gaps(engine, models))) < 5e-5


def test_shapes_are_told_where_they_are_not_those_of_the_config():
    config = json.dumps(_adapted(1)[0].peft_config["default"].to_dict(), default=sorted)
    model = _adapted(1, r=2)[0]
    state = {k: v.clone() for k, v in peft.get_peft_model_state_dict(model).items()}
    right, sent = _adapted(2, lora_alpha=16)

    async def go():
        engine = TransformersEngine(_llama(), num_rows=4, max_length=32)
        engine.load_weights(1, save(state, {"peft_config": config}))
        with pytest.raises(LongcatDoraError, match=r"lora_.* must be \[.*4.*\], got \[.*2.*\]"):
            await _say(engine, 1)
        engine.load_weights(2, sent)  # what was refused is no first one
        return await _gaps(engine, {2: right})

    assert max(asyncio.run(go())) < 5e-5


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("options", "tied"), [
    ({"use_dora": True}, False),
    ({"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]}, False),
    ({"use_rslora": True, "alpha_pattern": {"q_proj": 3}, "rank_pattern": {"up_proj": 2}}, False),
    ({"modules_to_save": ["lm_head"]}, False),
    ({"modules_to_save": ["lm_head"]}, True),
    ({"target_modules": ["q_proj", "embed_tokens"]}, False),
    ({"target_modules": ["q_proj", "embed_tokens"]}, True),
    ({"bias": "lora_only"}, False),
    ({"trainable_token_indices": [5, 7, 50]}, False),
    ({"trainable_token_indices": [5, 7, 50]}, True),
    ({"init_lora_weights": "pissa"}, False),
])  # fmt: skip
def test_whatever_peft_saves_runs_beside_the_base_and_another(options, tied, static):
    base = _llama(tied=tied)
    engine, models = TransformersEngine(base, num_rows=4, max_length=32, static=static), {}
    for version in (1, 2):
        models[version], sent = _adapted(version, tied=tied, **options)
        engine.load_weights(version, sent)
    engine.load_weights(0, b"")
    models[0] = _llama(tied=tied)
    assert max(asyncio.run(_gaps(engine, models))) < 5e-5


def test_adapters_that_are_not_the_same_for_every_token_are_refused():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, token_dim=32)
    said = {"peft_config": json.dumps(config.to_dict())}

    async def go():
        engine = TransformersEngine(_llama(), num_rows=4, max_length=32)
        engine.load_weights(1, save({"prompt_embeddings": torch.zeros(2, 32)}, said))
        try:
            await _say(engine, 1)
        finally:
            await engine.stop()

    with pytest.raises(LongcatDoraError, match="got PromptTuningConfig with tokens of its own"):
        asyncio.run(go())


def test_the_base_and_full_weights_stay_what_they_were_beside_an_adapter():
    engine = TransformersEngine(_llama(), num_rows=4, max_length=32)
    models = {0: _llama(), 2: _llama(2), 3: _llama(3)}
    models[1], sent = _adapted(1, init_lora_weights=False)
    engine.load_weights(1, sent)

    async def go():
        await _say(engine, 1)
        engine.load_weights(0, b"")
        engine.load_weights(2, save(dict(models[2].state_dict())))
        engine.load_weights(3, dict(models[3].state_dict()))
        return await _gaps(engine, models)

    assert max(asyncio.run(go())) < 5e-5


def test_an_adapter_holds_no_second_copy_of_the_weights():
    engine = TransformersEngine(_llama(), num_rows=4, max_length=32)
    engine.load_weights(1, _adapted(1)[1])
    asyncio.run(_gaps(engine, {1: _adapted(1)[0]}))
    own = {p.data_ptr() for p in engine.model.parameters()}
    theirs = {
        p.data_ptr() for n, p in engine._adapters.model.named_parameters() if "lora_" not in n
    }
    assert own == theirs

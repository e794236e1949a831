"""The engine against the plain forward pass."""

import asyncio

import pytest
import torch
from longcat_moe import Engine, LongcatForCausalLM
from safetensors.torch import save


async def _one(engine, prompt, *, version=0, **options):
    conversation = await engine.open(version)
    try:
        return await engine.generate(conversation, prompt, **options)
    finally:
        await engine.close(conversation)


def _log_probs(model, prompt, tokens):
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
    return [logits[len(prompt) - 1 + i, t].item() for i, t in enumerate(tokens)]


async def test_log_probs_equal_the_forward_pass_over_turns_and_neighbours(model, config):
    engine = Engine(config, num_slots=4, max_length=128)
    engine.add_model(0, model)

    async def talk(first, second):
        c = await engine.open(0)
        a = await engine.generate(c, first, max_tokens=9, stop_ids=())
        b = await engine.generate(c, second, max_tokens=7, stop_ids=())
        await engine.close(c)
        return first + a.token_ids + second, a, b

    prompts = [([5, 6, 7, 8], [9, 10]), (list(range(3, 40)), [11]), ([1, 2], list(range(50, 60)))]
    for context, a, b in await asyncio.gather(*(talk(*p) for p in prompts * 2)):
        expected = _log_probs(model, context, b.token_ids)
        assert b.log_probs == pytest.approx(expected, abs=1e-4)
        assert len(a.token_ids) == 9
        assert len(b.token_ids) == 7
    assert engine.stats.num_reused > 0


async def test_greedy_is_the_argmax_of_the_forward_pass(model, config):
    engine = Engine(config, num_slots=2, max_length=64)
    engine.add_model(0, model)
    got = await _one(engine, [4, 5, 6], max_tokens=12, temperature=0, stop_ids=())
    ids = [4, 5, 6]
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert got.token_ids == ids[3:]


async def test_a_shared_prefix_is_copied_not_computed(model, config):
    engine = Engine(config, num_slots=2, max_length=128)
    engine.add_model(0, model)
    prompt = list(range(3, 63))
    first = await engine.open(0)
    await engine.generate(first, prompt, max_tokens=1, stop_ids=())
    before = engine.stats.num_prefilled
    got = await _one(engine, [*prompt, 70], max_tokens=5, temperature=0, stop_ids=())
    assert engine.stats.num_prefilled == before
    assert engine.stats.num_reused == 60
    expected = _log_probs(model, [*prompt, 70], got.token_ids)
    assert got.log_probs == pytest.approx(expected, abs=1e-4)


async def test_two_versions_answer_side_by_side_and_a_retired_one_is_freed(config):
    engine = Engine(config, num_slots=4, max_length=64)
    models = {}
    for version in (0, 1):
        torch.manual_seed(version)
        models[version] = LongcatForCausalLM(config).eval()
        engine.load_weights(version, save(models[version].state_dict()))
    held = await engine.open(0)
    engine.retire(0)
    assert engine.versions == [0, 1]
    old, new = await asyncio.gather(
        engine.generate(held, [7, 8], max_tokens=6, temperature=0, stop_ids=()),
        _one(engine, [7, 8], version=1, max_tokens=6, temperature=0, stop_ids=()),
    )
    for version, got in ((0, old), (1, new)):
        expected = _log_probs(models[version], [7, 8], got.token_ids)
        assert got.log_probs == pytest.approx(expected, abs=1e-4)
    await engine.close(held)
    assert engine.versions == [1]
    with pytest.raises(KeyError, match="live are"):
        await engine.open(0)


async def test_sampling_follows_the_models_distribution(model, config):
    engine = Engine(config, num_slots=64, max_length=8, seed=3)
    engine.add_model(0, model)
    draws = await asyncio.gather(
        *(_one(engine, [4, 5], max_tokens=1, stop_ids=()) for _ in range(3000))
    )
    counts = torch.bincount(torch.tensor([d.token_ids[0] for d in draws]), minlength=96)
    with torch.no_grad():
        probs = model(torch.tensor([[4, 5]])).logits[0, -1].softmax(-1)
    keep = probs * 3000 > 5
    chi2 = ((counts - probs * 3000) ** 2 / (probs * 3000))[keep].sum()
    df = int(keep.sum())
    assert chi2 < df + 5 * (2 * df) ** 0.5


async def test_a_full_conversation_ends_with_length(model, config):
    engine = Engine(config, num_slots=1, max_length=16)
    engine.add_model(0, model)
    c = await engine.open(0)
    got = await engine.generate(c, [3] * 10, max_tokens=50, stop_ids=())
    assert (got.finish_reason, len(got.token_ids)) == ("length", 5)
    assert (await engine.generate(c, [3], max_tokens=5)).token_ids == []


async def test_more_conversations_than_slots_wait_their_turn(model, config):
    engine = Engine(config, num_slots=2, max_length=32)
    engine.add_model(0, model)
    answers = await asyncio.gather(
        *(_one(engine, [3, 4, n], max_tokens=4, stop_ids=()) for n in range(9))
    )
    assert [len(answer.token_ids) for answer in answers] == [4] * 9


def test_an_engine_outlives_an_event_loop(model, config):
    engine = Engine(config, num_slots=1, max_length=32)
    engine.add_model(0, model)
    first, second = (
        asyncio.run(_one(engine, [3, 4], max_tokens=4, temperature=0, stop_ids=()))
        for _ in range(2)
    )
    assert first.token_ids == second.token_ids

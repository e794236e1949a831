"""Decoding in fixed shapes, without capture, against the ordinary step: the same tokens."""

import asyncio
import dataclasses

import pytest
import torch
from longcat_moe import Engine, EngineConfig
from longcat_moe.engine._graphs import is_simple
from longcat_moe.engine._sampling import SamplingParams

PROMPTS = [[5, 6, 7, 8], list(range(3, 40)), [1, 2], list(range(50, 66)), [9]]


def _engine(model, config, **options):
    engine = Engine(config, **{"num_slots": 8, "max_length": 96, "pack": False, **options})
    engine.add_model(0, model)
    return engine


async def _talks(engine, asked):
    async def one(place, prompt):
        c = await engine.open(0)
        found = []
        for turn, options in enumerate(asked[place % len(asked)]):
            found.append(await engine.generate(c, [*prompt, turn + 3], **options))
        await engine.close(c)
        return found

    return await asyncio.gather(*(one(*pair) for pair in enumerate(PROMPTS)))


ASKED = {
    "greedy": [[{"max_tokens": 9, "temperature": 0, "stop_ids": ()}] * 2],
    "drawn": [[{"max_tokens": 13, "temperature": 0.8, "stop_ids": ()}] * 3],
    "mixed": [
        [{"max_tokens": 12, "temperature": 0, "stop_ids": ()}, {"max_tokens": 5}],
        [{"max_tokens": 3, "temperature": 1.3, "stop_ids": ()}, {"max_tokens": 7, "stop_ids": ()}],
        [{"max_tokens": 10, "top_p": 0.7, "stop_ids": ()}, {"max_tokens": 4, "top_k": 3}],
    ],
    "stopped": [[{"max_tokens": 20, "stop_ids": tuple(range(0, 96, 3))}] * 3],
    "steered": [
        [{"max_tokens": 9, "presence_penalty": 1.5, "logit_bias": {7: 4.0}, "stop_ids": ()}],
        [{"max_tokens": 9, "repetition_penalty": 1.4, "min_p": 0.02, "stop_ids": ()}],
        [{"max_tokens": 9, "num_top_log_probs": 3, "temperature": 0, "stop_ids": ()}],
    ],
    "to the last place": [[{"max_tokens": 500, "stop_ids": ()}, {"max_tokens": 5}]],
}


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
async def test_decoder_gives_what_the_ordinary_step_gives(model, config, asked, steps):
    plain, fast = _engine(model, config), _engine(model, config, decode_steps=steps)
    expected, got = await _talks(plain, asked), await _talks(fast, asked)
    for left, right in zip(expected, got, strict=True):
        for a, b in zip(left, right, strict=True):
            assert a.token_ids == b.token_ids
            assert a.finish_reason == b.finish_reason
            assert b.log_probs == pytest.approx(a.log_probs, abs=1e-5)
            for left_top, right_top in zip(a.top_log_probs, b.top_log_probs, strict=True):
                assert [token for token, _ in left_top] == [token for token, _ in right_top]
    assert fast._versions.decoders[0]._steps, "the decoder did not run"
    assert plain.stats.num_sampled == fast.stats.num_sampled
    is_ahead = all(is_simple(SamplingParams(**turn)) for talk in asked for turn in talk)
    assert fast.stats.num_steps < plain.stats.num_steps or steps == 1 or not is_ahead
    assert fast._scheduler.pool.num_used == 0


async def test_a_small_cache_with_moves_to_the_host_changes_nothing(model, config):
    options = {"cache_tokens": 96, "watermark": 1.0}
    asked = ASKED["drawn"]
    expected = await _talks(_engine(model, config), asked)
    fast = _engine(model, config, decode_steps=8, **options)
    got = await _talks(fast, asked)
    assert [[g.token_ids for g in talk] for talk in expected] == [
        [g.token_ids for g in talk] for talk in got
    ]
    assert fast.stats.num_swapped_out > 0


async def test_the_next_turn_shares_blocks_although_room_was_taken_ahead(model, config):
    engine = _engine(model, config, decode_steps=8)
    first, second = await engine.open(0), await engine.open(0)
    text = list(range(3, 3 + 64))
    await engine.generate(first, text, max_tokens=1, stop_ids=())
    await engine.generate(second, text[:15], max_tokens=1, temperature=0, stop_ids=())
    tokens = engine._conversations[second].tokens
    assert len(tokens) == 16
    before = engine.stats.num_reused
    await engine.generate(second, text, max_tokens=20, stop_ids=())
    assert engine.stats.num_reused - before >= 15


async def test_numbers_that_are_none_fail_alone(model, config):
    engine = _engine(model, config, decode_steps=4)
    with torch.no_grad():
        model.model.embed_tokens.weight[77] = float("nan")
    bad, good = await engine.open(0), await engine.open(0)
    alone = _engine(model, config)
    c = await alone.open(0)
    expected = await alone.generate(c, [4, 5], max_tokens=20, temperature=0, stop_ids=())
    failed, got = await asyncio.gather(
        engine.generate(bad, [4, 77], max_tokens=20, stop_ids=()),
        engine.generate(good, [4, 5], max_tokens=20, temperature=0, stop_ids=()),
        return_exceptions=True,
    )
    assert isinstance(failed, RuntimeError)
    assert got.token_ids == expected.token_ids


def test_only_temperature_and_ends_are_simple():
    """A field that is added to `SamplingParams` must be decided here."""
    simple = {"max_tokens": 7, "temperature": 0.3, "stop_ids": (4,), "timeout_s": 2.0}
    others = {
        "top_p": 0.5, "top_k": 3, "min_p": 0.1, "presence_penalty": 1.0, "frequency_penalty": 1.0,
        "repetition_penalty": 1.2, "logit_bias": {3: 1.0}, "stop": ("a",), "num_top_log_probs": 2,
        "prompt_log_probs": 0, "constraint": object(),
    }  # fmt: skip
    assert {field.name for field in dataclasses.fields(SamplingParams)} == {*simple, *others}
    plain = SamplingParams(max_tokens=5)
    assert is_simple(plain)
    for name, value in simple.items():
        assert is_simple(dataclasses.replace(plain, **{name: value}))
    for name, value in others.items():
        assert not is_simple(dataclasses.replace(plain, **{name: value})), name


async def test_who_ends_earlier_than_the_others_keeps_what_it_has(model, config):
    """Beyond its last token lies no block of its own: it would write into its first."""

    async def talks(engine):
        short, long = await engine.open(0), await engine.open(0)
        first, _ = await asyncio.gather(
            engine.generate(short, list(range(3, 18)), max_tokens=1, temperature=0, stop_ids=()),
            engine.generate(long, list(range(40, 55)), max_tokens=30, temperature=0, stop_ids=()),
        )
        second, _ = await asyncio.gather(
            engine.generate(short, [9], max_tokens=2, temperature=0, stop_ids=()),
            engine.generate(long, [9], max_tokens=30, temperature=0, stop_ids=()),
        )
        third = await engine.generate(short, [8, 7], max_tokens=9, temperature=0, stop_ids=())
        return [*first.log_probs, *second.log_probs, *third.log_probs]

    expected = await talks(_engine(model, config))
    got = await talks(_engine(model, config, decode_steps=32))
    assert got == pytest.approx(expected, abs=1e-5)


def test_one_conversation_alone_may_go_on_for_longer_unless_told_how_long():
    steps = [
        [EngineConfig(device=device, decode_steps=told).num_ahead(num) for num in (1, 2, 64)]
        for device in ("cuda", "cpu")
        for told in (None, 8)
    ]
    assert steps == [[32, 16, 16], [8, 8, 8], [0, 0, 0], [8, 8, 8]]

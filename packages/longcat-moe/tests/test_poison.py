"""What one request brings in hurts that request alone."""

import asyncio
import dataclasses
import itertools
import math

import pytest
import torch
from longcat_moe import (
    Engine,
    EngineConfig,
    EngineDeadError,
    LongcatForCausalLM,
    PrefillProcess,
    RequestFailedError,
    SamplingParams,
)
from longcat_moe.engine import _models

REFUSED = [
    *({"temperature": t} for t in (1e-40, 1e-6, 1e300, -1, -0.001, math.nan, math.inf, "1", None,
    True)),
    *({"top_p": p} for p in (0, -0.1, 1.001, math.nan, "x", None)),
    *({"top_k": k} for k in (-1, 1.5, math.nan, "3", None, True)),
    *({"min_p": p} for p in (-0.1, 1.1, math.nan, None)),
    *({"presence_penalty": p} for p in (-2.1, 2.1, math.nan, None)),
    *({"frequency_penalty": p} for p in (-2.1, 2.1, math.nan, None)),
    *({"repetition_penalty": p} for p in (0, -1, math.inf, math.nan, None)),
    *({"max_tokens": n} for n in (0, -1, 1.0, math.nan, "4", None, True)),
    *({"timeout_s": t} for t in (0, -1, math.nan)),
    *({"stop": s} for s in ("", "text", [""], [5], ["x" * 2000], ["x"] * 100)),
    *({"stop_ids": s} for s in ([1.5], ["x"], [-1])),
    *({"logit_bias": b} for b in ({3: 101}, {3: math.nan}, {-1: 1}, {"3": 1}, {3: None})),
    *({"num_top_log_probs": n} for n in (-1, 1000, 1.5)),
    *({"prompt_log_probs": n} for n in (-1, 1000, 1.5)),
]  # fmt: skip
"""Of `SamplingParams`."""
BAD_IDS = [[-1], [2048], [10**30], [1.5], ["x"], [None], 5, None, [[3]]]


class _Raises:
    """A constraint that raises, or allows what no token is."""

    def __init__(self, kind, after, width=2048):
        self.kind, self.after, self.width = kind, after, width

    def allowed(self, token_ids):
        if len(token_ids) < self.after:
            return torch.ones(self.width, dtype=torch.bool)
        if self.kind == "raises":
            raise OSError("the grammar's file is gone")
        if self.kind == "wrong shape":
            return torch.ones(5, dtype=torch.bool)
        if self.kind == "recursion":
            return self.allowed(token_ids)
        return torch.zeros(self.width, dtype=torch.bool)


FAILING = [
    {"constraint": _Raises(kind, after)}
    for kind, after in itertools.product(("raises", "wrong shape", "recursion", "none"), range(4))
]
ODD = [
    {"temperature": 1e-5}, {"temperature": 1e5}, {"top_p": 1e-320}, {"top_p": 1e-9, "top_k": 3},
    {"top_k": 10**40}, {"min_p": 1.0}, {"max_tokens": 10**40}, {"stop": ["\ud800"]},
    {"logit_bias": {5: 100, 10**9: 3}}, {"repetition_penalty": 100}, {"stop_ids": [10**30]},
    {"presence_penalty": 2, "frequency_penalty": -2, "temperature": 0}, {"timeout_s": 1e-9},
    {"num_top_log_probs": 64}, {"prompt_log_probs": 64}, {"seed": 3},
]  # fmt: skip
"""At the edge of what is allowed; `seed` is none of its parameters."""


async def _innocents(engine, num=16):
    async def talk(n):
        c = await engine.open(0, seed=n)
        said = []
        for turn in range(3):
            got = await engine.generate(
                c, [3 + (5 * n + turn + i) % 90 for i in range(6 + n)], max_tokens=9, stop_ids=()
            )
            said.append(got.token_ids)
        await engine.close(c)
        return said

    return await asyncio.gather(*(talk(n) for n in range(num)))


def _engine_of(model, **more):
    engine = Engine(
        model.config, num_slots=40, max_length=160, cache_tokens=2000, decode=str, chunk_tokens=64,
        **more,
    )  # fmt: skip
    engine.add_model(0, model)
    return engine


@pytest.mark.parametrize("threaded", [False, True])
async def test_two_hundred_poisons_leave_sixteen_others_as_they_are(config, threaded):
    torch.manual_seed(0)
    model = LongcatForCausalLM(dataclasses.replace(config, vocab_size=2048))
    alone = await _innocents(_engine_of(model))
    said = {token for talk in alone for turn in talk for token in turn}
    bad = next(token for token in range(100, 2048) if token not in said)
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = torch.nan  # of a token that nobody else says
    engine = _engine_of(model, threaded=threaded)
    outcomes = []

    async def poison(ids, options):
        c = await engine.open(0, seed=1)
        try:
            await engine.generate(c, ids, **{"max_tokens": 5, **options})
            outcomes.append("answered")
        except (ValueError, TypeError, RequestFailedError) as error:
            outcomes.append(type(error).__name__)
        finally:
            await engine.close(c)

    poisons = [([4, 5, 6], options) for options in (*REFUSED, *FAILING, *ODD)]
    poisons += [(ids, {}) for ids in BAD_IDS]
    poisons += [
        ([7] * n + [bad] + [8] * m, {}) for n, m in itertools.product(range(0, 80, 9), (0, 3, 70))
    ]
    poisons += [([bad, 3], {"temperature": t}) for t in (0, 0.5, 2)]
    poisons += [([4, 5], {"unknown": 1}), ([4, 5], {"max_tokens": None})]
    poisons = (poisons * 2)[:200]

    async def all_poisons():
        for begin in range(0, len(poisons), 8):
            await asyncio.gather(*(poison(*each) for each in poisons[begin : begin + 8]))

    said, _ = await asyncio.wait_for(asyncio.gather(_innocents(engine), all_poisons()), 120)
    assert said == alone
    assert len(outcomes) == 200
    assert outcomes.count("RequestFailedError") > 40
    assert outcomes.count("answered") > 10
    assert engine.num_open == 0
    assert engine._scheduler.pool.num_used == 0
    assert engine.failure is None
    # Nobody finds what a failed step wrote: whoever takes those blocks next hears nothing of it.
    assert await _innocents(engine) == alone


@pytest.mark.parametrize("options", REFUSED)
def test_what_is_out_of_range_is_refused_with_its_name(options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options)).split("_")[0]):
        SamplingParams(**{"max_tokens": 5, **options})


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.mlp.experts.down_proj"])
@pytest.mark.parametrize("pack", [False, True])
async def test_a_diverged_model_is_an_error_that_names_the_weight(config, name, pack, monkeypatch):
    from longcat_moe import _packed

    monkeypatch.setattr(_packed, "_MIN_MATRIX", 1)
    monkeypatch.setattr(_packed, "_MIN_EXPERT", 1)
    torch.manual_seed(0)
    model = LongcatForCausalLM(config)
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[7::11] = torch.nan
    engine = Engine(config, num_slots=2, max_length=64, pack=pack)
    engine.add_model(0, model)
    for options in ({}, {"temperature": 0}, {"top_k": 3}, {"num_top_log_probs": 2}):
        c = await engine.open(0)
        with pytest.raises(RequestFailedError, match="must be finite") as caught:
            await engine.generate(c, [4, 5, 6], max_tokens=4, **options)
        assert name.removesuffix(".weight") in str(caught.value)
        with pytest.raises(RequestFailedError, match="must be finite"):
            _ = [t async for t in engine.stream(c, [4, 5, 6], max_tokens=4, **options)]
        await engine.close(c)
    assert engine._scheduler.pool.num_used == 0
    assert engine.stats.num_failed == 8


async def test_a_conversation_goes_on_as_if_a_failed_request_had_not_been(model):
    engine = _engine_of(model)

    async def talk(poison):
        c = await engine.open(0, seed=7)
        first = await engine.generate(c, [4, 5, 6], max_tokens=6, stop_ids=())
        if poison:
            with pytest.raises(RequestFailedError, match="OSError"):
                await engine.generate(
                    c, [9] * 30, max_tokens=6, constraint=_Raises("raises", 0), stop_ids=()
                )
        second = await engine.generate(c, [8], max_tokens=6, temperature=0, stop_ids=())
        await engine.close(c)
        return first, second

    assert [a.token_ids for a in await talk(True)] == [a.token_ids for a in await talk(False)]


async def test_a_long_poisoned_prompt_gives_its_blocks_back(model):
    engine = Engine(model.config, num_slots=4, max_length=128, chunk_tokens=16)
    engine.add_model(0, model)
    for _ in range(3):
        c = await engine.open(0)
        with pytest.raises(RequestFailedError):
            await engine.generate(c, [4] * 100, max_tokens=4, constraint=_Raises("raises", 0))
        await engine.close(c)
    assert engine._scheduler.pool.num_used == 0
    c = await engine.open(0)
    assert len((await engine.generate(c, [4] * 100, max_tokens=4, stop_ids=())).token_ids) == 4
    await engine.close(c)


@pytest.mark.parametrize("threaded", [False, True])
async def test_when_the_loop_cannot_live_nobody_waits(model, monkeypatch, threaded):
    engine = Engine(model.config, num_slots=2, max_length=64, threaded=threaded)
    engine.add_model(0, model)

    def lost(*_, **__):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(_models, "compute", lost)
    talks = [await engine.open(0), await engine.open(0)]
    waiting = asyncio.create_task(engine.open(0))
    await asyncio.sleep(0)

    async def read():
        return [token async for token in engine.stream(talks[1], [4, 5], max_tokens=4)]

    answers = await asyncio.wait_for(
        asyncio.gather(
            engine.generate(talks[0], [4, 5], max_tokens=4), read(), waiting, return_exceptions=True
        ),
        30,
    )
    assert [type(answer) for answer in answers] == [EngineDeadError] * 3
    assert "device-side assert" in str(engine.failure)
    with pytest.raises(EngineDeadError, match="device-side assert"):
        await engine.open(0)


async def test_a_plan_that_raises_fails_who_asked_and_the_loop_lives(model, monkeypatch):
    engine = _engine_of(model)
    plan, calls = engine._scheduler.plan, itertools.count()

    def sometimes(active):
        if next(calls) == 2:
            raise KeyError("a bug of ours")
        return plan(active)

    monkeypatch.setattr(engine._scheduler, "plan", sometimes)
    c = await engine.open(0)
    with pytest.raises(RequestFailedError, match="a bug of ours"):
        await engine.generate(c, [4, 5], max_tokens=9, stop_ids=())
    assert len((await engine.generate(c, [4, 5], max_tokens=9, stop_ids=())).token_ids) == 9


async def test_text_that_cannot_be_decoded_fails_its_request_alone(model):
    def decode(ids):
        raise UnicodeError("no such text")

    engine = Engine(model.config, num_slots=4, max_length=64, decode=decode)
    engine.add_model(0, model)
    one, other = await engine.open(0), await engine.open(0)
    answers = await asyncio.gather(
        engine.generate(one, [4, 5], max_tokens=5, stop=["x"]),
        engine.generate(other, [4, 5], max_tokens=5, stop_ids=()),
        return_exceptions=True,
    )
    assert isinstance(answers[0], RequestFailedError)
    assert len(answers[1].token_ids) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": torch.bfloat16}, "dtype"),
        ({"hidden_size": 96}, "hidden_size is 96 in the model, 48"),
        ({"num_layers": 1}, "num_layers"),
        ({"routed_scaling_factor": 2.0}, "routed_scaling_factor"),
        ({"device": "meta"}, "on meta"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_when_it_comes(config, change, words):
    engine = Engine(config, num_slots=2, max_length=32)
    moves = {key: change.pop(key) for key in ("dtype", "device") if key in change}
    other = LongcatForCausalLM(dataclasses.replace(config, **change)).to(**moves)
    with pytest.raises(ValueError, match=words):
        engine.add_model(0, other)
    assert engine.versions == []


async def test_a_bfloat16_model_answers_in_a_bfloat16_engine(config):
    engine = Engine(config, EngineConfig(num_slots=2, max_length=32, dtype=torch.bfloat16))
    engine.add_model(0, LongcatForCausalLM(config).bfloat16())
    c = await engine.open(0)
    assert len((await engine.generate(c, [4, 5], max_tokens=5, stop_ids=())).token_ids) == 5


def test_settings_are_a_config_or_its_fields_by_name(config):
    settings = EngineConfig(num_slots=3, max_length=64)
    assert Engine(config, settings).settings == settings
    assert Engine(config, settings, num_slots=5).settings.num_slots == 5
    with pytest.raises(TypeError, match="num_slot"):
        Engine(config, num_slot=3)
    with pytest.raises(ValueError, match="must be whole numbers"):
        EngineConfig(num_slots=2.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache_tokens", 4096.5), ("cache_tokens", "4096"), ("max_waiting", float("nan")),
        ("max_waiting", "2"), ("decode_steps", 2.5), ("decode_steps", True), ("watermark", "x"),
        ("watermark", True), ("watermark", float("nan")), ("speculate", 1), ("pack", None),
        ("threaded", "no"), ("dtype", "float32"), ("dtype", torch.int8),
    ],
)  # fmt: skip
def test_a_setting_of_the_wrong_kind_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        EngineConfig(**{name: value})


def test_a_prompt_that_fails_in_the_prefill_process_fails_here_and_waits_for_nothing(config):
    torch.manual_seed(0)
    model = LongcatForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[95] = torch.nan
    prefill = PrefillProcess(config, max_length=128, min_tokens=8, num_threads=1)
    engine = Engine(config, num_slots=2, max_length=128, prefill=prefill)
    engine.add_model(0, model)

    async def go():
        c = await engine.open(0)
        with pytest.raises(RequestFailedError, match="embed_tokens"):
            await asyncio.wait_for(engine.generate(c, [4] * 30 + [95] * 3, max_tokens=3), 60)
        good = await asyncio.wait_for(engine.generate(c, [4] * 30, max_tokens=3, stop_ids=()), 60)
        await engine.close(c)
        return good

    try:
        assert len(asyncio.run(go()).token_ids) == 3
    finally:
        prefill.close()


def test_a_step_that_an_ending_event_loop_cuts_off_leaves_no_block(model):
    engine = Engine(model.config, num_slots=2, max_length=128, threaded=True)
    engine.add_model(0, model)
    talks = []

    async def leave():
        talks.append(await engine.open(0))
        task = asyncio.create_task(engine.generate(talks[0], [4] * 90, max_tokens=30))
        await asyncio.sleep(0.02)
        del task

    asyncio.run(leave())
    asyncio.run(engine.close(talks[0]))
    assert engine._scheduler.pool.num_used == 0

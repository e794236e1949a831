"""The engine against the plain forward pass."""

import asyncio
import itertools

import pytest
import torch
from longcat_moe import Engine, EngineFullError, LongcatForCausalLM
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
    prompt = list(range(3, 67))
    first = await engine.open(0)
    await engine.generate(first, prompt, max_tokens=1, stop_ids=())
    before = engine.stats.num_prefilled
    got = await _one(engine, [*prompt, 70], max_tokens=5, temperature=0, stop_ids=())
    assert engine.stats.num_prefilled == before
    assert engine.stats.num_reused == 64
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


def _engine(model, **options):
    engine = Engine(model.config, **{"num_slots": 4, "max_length": 64, **options})
    engine.add_model(0, model)
    return engine


async def _talks(engine, num, *, turns=3, width=9):
    """Conversations of several turns, all at once; what each said."""

    async def talk(n):
        c = await engine.open(0)
        said = []
        for turn in range(turns):
            given = [3 + (7 * n + 5 * turn + i) % 90 for i in range(width)]
            said.append((await engine.generate(c, given, max_tokens=6, stop_ids=())).token_ids)
        await engine.close(c)
        return said

    return await asyncio.gather(*(talk(n) for n in range(num)))


async def test_a_cache_three_times_too_small_changes_nothing(model):
    free = _engine(model, num_slots=12, block_size=4)
    tight = _engine(model, num_slots=12, block_size=4, cache_tokens=4 * 64)
    expected = await _talks(free, 12)
    assert await _talks(tight, 12) == expected
    assert free.stats.num_swapped_out == 0
    assert tight.stats.num_swapped_out > 0
    assert tight.stats.num_swapped_in > 0
    # Nothing was computed twice.
    assert tight.stats.num_prefilled == free.stats.num_prefilled
    assert tight._scheduler.pool.num_used == 0


async def test_a_prompt_in_chunks_gives_the_same_tokens_and_stops_nobody(model):
    whole, chunked = _engine(model), _engine(model, chunk_tokens=7)
    assert await _talks(whole, 4, width=11) == await _talks(chunked, 4, width=11)
    # A long prompt comes while another conversation decodes.
    short, long = await chunked.open(0), await chunked.open(0)
    arrivals = []

    async def decode():
        async for _ in chunked.stream(short, [5, 6], max_tokens=20, stop_ids=()):
            arrivals.append(chunked.stats.num_steps)

    await asyncio.gather(decode(), chunked.generate(long, list(range(3, 53)), max_tokens=1))
    gaps = [b - a for a, b in itertools.pairwise(arrivals)]
    assert gaps == [1] * 19  # a token in every step, whatever else is computed


async def test_equal_prompts_at_once_are_computed_once(model):
    engine = _engine(model, num_slots=4)
    prompt = list(range(3, 36))
    answers = await asyncio.gather(
        *(_one(engine, prompt, max_tokens=4, temperature=0, stop_ids=()) for _ in range(4))
    )
    assert len({tuple(a.token_ids) for a in answers}) == 1
    assert engine.stats.num_prefilled == 33  # and one token for each of the others
    assert engine.stats.num_reused == 3 * 32


async def test_a_block_is_shared_after_its_conversation_closed(model):
    engine = _engine(model)
    prompt = list(range(3, 36))
    first = await _one(engine, prompt, max_tokens=4, temperature=0, stop_ids=())
    second = await _one(engine, prompt, max_tokens=4, temperature=0, stop_ids=())
    assert first.token_ids == second.token_ids
    assert engine.stats.num_reused == 32


async def test_a_stream_gives_what_generate_gives(model):
    engine = _engine(model)
    expected = await _one(engine, [4, 5], max_tokens=5, temperature=0, stop_ids=())
    c = await engine.open(0)
    tokens = [t async for t in engine.stream(c, [4, 5], max_tokens=5, temperature=0, stop_ids=())]
    assert [t.token_id for t in tokens] == expected.token_ids
    assert [t.log_prob for t in tokens] == pytest.approx(expected.log_probs)
    assert [t.finish_reason for t in tokens] == [None] * 4 + ["length"]


async def test_a_stop_string_ends_a_request_and_its_tokens_are_kept(model):
    engine = _engine(model, decode=lambda ids: "".join(chr(200 + i) for i in ids))
    free = await _one(engine, [4, 5], max_tokens=8, temperature=0, stop_ids=())
    stop = "".join(chr(200 + i) for i in free.token_ids[2:4])
    got = await _one(engine, [4, 5], max_tokens=8, temperature=0, stop_ids=(), stop=[stop])
    assert got.token_ids == free.token_ids[:4]
    assert got.finish_reason == "stop"
    with pytest.raises(ValueError, match="decode"):
        await _one(_engine(model), [4, 5], max_tokens=8, stop=[stop])


async def test_a_deadline_ends_a_request_with_what_there_is(model):
    times = iter(range(1000))
    engine = _engine(model, clock=lambda: float(next(times)))
    got = await _one(engine, [4, 5], max_tokens=50, stop_ids=(), timeout_s=5)
    assert got.finish_reason == "timeout"
    assert 1 <= len(got.token_ids) <= 6


async def test_a_cancelled_request_leaves_a_conversation_that_goes_on(model):
    engine = _engine(model)
    c = await engine.open(0)
    task = asyncio.create_task(engine.generate(c, [4, 5, 6], max_tokens=50, stop_ids=()))
    while engine.stats.num_sampled < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    kept = list(engine._conversations[c].tokens)
    got = await engine.generate(c, [9], max_tokens=3, stop_ids=())
    assert got.log_probs == pytest.approx(_log_probs(model, [*kept, 9], got.token_ids), abs=1e-4)


async def test_nobody_waits_beyond_the_limit(model):
    engine = _engine(model, num_slots=1, max_waiting=1)
    held = await engine.open(0)
    waiting = asyncio.create_task(engine.open(0))
    await asyncio.sleep(0)
    with pytest.raises(EngineFullError, match="max_waiting=1"):
        await engine.open(0)
    await engine.close(held)
    await engine.close(await waiting)


async def test_top_k_draws_from_the_k_most_probable(model):
    engine = _engine(model, num_slots=64, max_length=8)
    with torch.no_grad():
        best = model(torch.tensor([[4, 5]])).logits[0, -1].topk(3).indices.tolist()
    draws = await asyncio.gather(
        *(_one(engine, [4, 5], max_tokens=1, stop_ids=(), top_k=3) for _ in range(300))
    )
    assert {d.token_ids[0] for d in draws} == set(best)


async def test_a_request_s_seed_decides_its_tokens(model):
    async def said(engine, seed):
        c = await engine.open(0, seed=seed)
        return (await engine.generate(c, [4, 5], max_tokens=8, stop_ids=())).token_ids

    one, other = _engine(model, seed=1), _engine(model, seed=2)
    await other.open(0)  # another order of opening
    assert await said(one, 5) == await said(other, 5) != await said(other, 6)


async def test_a_threaded_engine_says_the_same_and_leaves_the_loop_free(model):
    assert await _talks(_engine(model, threaded=True), 6) == await _talks(_engine(model), 6)


async def test_closing_while_a_step_is_computed_frees_its_blocks(model):
    engine = _engine(model, threaded=True)
    for _ in range(10):
        c = await engine.open(0)
        task = asyncio.create_task(engine.generate(c, [4, 5, 6], max_tokens=40, stop_ids=()))
        await asyncio.sleep(0.002)
        await engine.close(c)
        with pytest.raises(asyncio.CancelledError):
            await task
    await _one(engine, [4], max_tokens=1)
    assert engine._scheduler.pool.num_used == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_tokens": 32}, "cache_tokens must hold"),
        ({"watermark": 0}, "watermark"),
        ({"speculate": True}, "num_nextn_predict_layers"),
        ({"chunk_tokens": 0}, "chunk_tokens"),
    ],
)
def test_wrong_sizes_are_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        Engine(config, max_length=64, **options)


@pytest.mark.parametrize("threaded", [False, True])
async def test_an_interrupted_request_gives_what_it_has_and_its_context_goes_on(model, threaded):
    engine = _engine(model, max_length=256, threaded=threaded)
    c = await engine.open(0)
    task = asyncio.create_task(
        engine.generate(c, [5, 6, 7], max_tokens=200, temperature=0, stop_ids=())
    )
    while engine.stats.num_sampled < 10:  # noqa: ASYNC110 - the engine has no event for it
        await asyncio.sleep(0)
    engine.interrupt(c)
    first = await task
    assert first.finish_reason == "interrupted"
    assert 10 <= len(first.token_ids) < 200
    await engine.close(c)
    other = await engine.open(0)
    rest = await engine.generate(
        other, [5, 6, 7, *first.token_ids], max_tokens=20, temperature=0, stop_ids=()
    )
    whole = await engine.open(0)
    expected = await engine.generate(
        whole, [5, 6, 7], max_tokens=len(first.token_ids) + 20, temperature=0, stop_ids=()
    )
    assert first.token_ids + rest.token_ids == expected.token_ids


async def test_who_gives_up_waiting_for_a_slot_keeps_neither_it_nor_a_version(model, config):
    engine = Engine(config, num_slots=1, max_length=32)
    engine.add_model(0, model)
    first = await engine.open(0)
    waiting = asyncio.ensure_future(engine.open(0))
    await asyncio.sleep(0)
    await engine.close(first)  # gives the slot to who waits ..
    waiting.cancel()  # .. who is gone in the same moment
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert engine.num_open == 0
    second = await asyncio.wait_for(engine.open(0), timeout=20)
    waiting = asyncio.ensure_future(engine.open(0))
    await asyncio.sleep(0)
    engine.retire(0)
    await engine.close(second)
    assert engine.versions == [0]  # for who waits
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert engine.versions == []

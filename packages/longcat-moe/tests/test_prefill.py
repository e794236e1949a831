"""Prompts computed in another process: the same answers, and life after its death."""

import asyncio
import dataclasses
import os
import signal

import pytest
from longcat_moe import Engine, LongcatForCausalLM, PrefillProcess, SparseAttention, Window

PROMPTS = [list(range(3, 3 + n)) for n in (70, 12, 90, 41)]


async def _answers(engine):
    async def talk(n, prompt):
        c = await engine.open(0)
        first = await engine.generate(c, [n + 4, *prompt], max_tokens=5, temperature=0, stop_ids=())
        second = await engine.generate(c, prompt[:30], max_tokens=5, temperature=0, stop_ids=())
        await engine.close(c)
        return first.token_ids, second.token_ids

    return await asyncio.gather(*(talk(n, p) for n, p in enumerate(PROMPTS)))


NEAR = SparseAttention(layer_type="1011", window=Window(num_sink=1, num_local=3, block_size=4))


@pytest.mark.parametrize(("speculate", "sparse"), [
    (True, NEAR), pytest.param(False, None, marks=pytest.mark.long),
    pytest.param(True, None, marks=pytest.mark.long), pytest.param(False, NEAR,
    marks=pytest.mark.long),
])  # fmt: skip
def test_the_same_answers_and_no_prompt_computed_here(model, config, speculate, sparse):
    config = dataclasses.replace(
        config, num_nextn_predict_layers=int(speculate), sparse_attention=sparse
    )
    taught = LongcatForCausalLM(config).eval()
    taught.load_state_dict(model.state_dict(), strict=False)
    options = {"num_slots": 4, "max_length": 256, "speculate": speculate}
    prefill = PrefillProcess(
        config, max_length=256, chunk_tokens=16, num_threads=1, speculate=speculate, min_tokens=20
    )
    try:
        plain, split = Engine(config, **options), Engine(config, prefill=prefill, **options)
        answers = []
        for engine in (plain, split):
            engine.add_model(0, taught)
            answers.append(asyncio.run(_answers(engine)))
        assert answers[0] == answers[1]
        # The short prompt alone was computed here, and one token of each of the others.
        assert split.stats.num_prefilled <= 2 * 13
        assert plain.stats.num_prefilled > 200
        assert split._scheduler.pool.num_used == split._scheduler.near_pool.num_used == 0
    finally:
        prefill.close()
    assert not prefill.process.is_alive()


def test_when_it_dies_the_engine_computes_what_is_left(model, config):
    prefill = PrefillProcess(config, max_length=256, chunk_tokens=8, num_threads=1, min_tokens=20)
    engine = Engine(config, num_slots=4, max_length=256, prefill=prefill)
    engine.add_model(0, model)
    plain = Engine(config, num_slots=4, max_length=256)
    plain.add_model(0, model)

    async def killed():
        await _answers(engine)  # it has loaded the model and read all that was sent
        os.kill(prefill.process.pid, signal.SIGSTOP)  # or it might be through before it is killed
        task = asyncio.create_task(_answers(engine))
        await asyncio.sleep(0.3)
        assert not task.done()
        prefill.process.kill()
        return await asyncio.wait_for(task, 300)

    assert asyncio.run(killed()) == asyncio.run(_answers(plain))
    assert not prefill.is_alive


def test_a_request_given_up_while_it_is_awaited_leaves_nothing(model, config):
    prefill = PrefillProcess(config, max_length=256, chunk_tokens=8, num_threads=1, min_tokens=20)
    engine = Engine(config, num_slots=2, max_length=256, prefill=prefill)
    engine.add_model(0, model)

    async def give_up():
        c = await engine.open(0)
        task = asyncio.create_task(engine.generate(c, PROMPTS[0], max_tokens=5, stop_ids=()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.close(c)
        other = await engine.open(0)
        await engine.generate(other, PROMPTS[2], max_tokens=5, stop_ids=())
        await engine.close(other)

    try:
        asyncio.run(give_up())
        assert engine._scheduler.pool.num_used == 0
    finally:
        prefill.close()

"""What is asked of the transformers engine: one request that cannot be fails alone."""

import asyncio
import math

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from longcat_dora.transformers import TransformersEngine  # noqa: E402


def _engine(**options):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, eos_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    made = TransformersEngine(model, num_rows=4, max_length=64, stop_token_ids=[-1], **options)
    made.load_weights(0, b"")
    return made


async def _beside(changes):
    """What comes of a request, of one that runs beside it, and of its own conversation later."""
    engine = _engine()
    asked = {"token_ids": [5, 6], "max_tokens": 4, "temperature": 1.0, **changes}
    one, two = await engine.open(0, seed=1), await engine.open(0, seed=2)
    running = asyncio.create_task(engine.generate(two, [7], max_tokens=20, temperature=1))
    await asyncio.sleep(0)
    try:
        part = await engine.generate(one, **asked)
    except Exception as error:
        part = error
    other = await running
    after = await engine.generate(one, [8], max_tokens=3, temperature=1)
    await engine.stop()
    return part, other, after


@pytest.mark.parametrize("tokens", [[5, 99], [-1], [5, 6.5], ["5"], [10**30], [None]])
def test_a_token_that_is_none_of_the_models_fails_its_request_alone(tokens):
    part, other, after = asyncio.run(_beside({"token_ids": tokens}))
    assert isinstance(part, ValueError)
    assert "token ids must be from 0 to 98, got" in str(part)
    assert (len(other.token_ids), len(after.token_ids)) == (20, 3)


def test_tokens_may_be_whole_numbers_of_any_library():
    plain, *_ = asyncio.run(_beside({}))
    for ids in (torch.tensor([5, 6]), torch.tensor([5, 6]).numpy()):
        assert asyncio.run(_beside({"token_ids": ids}))[0] == plain


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e-45, 1e-9])
def test_a_temperature_without_a_distribution_is_refused(value):
    part, other, after = asyncio.run(_beside({"temperature": value}))
    assert isinstance(part, ValueError)
    assert f"must be 0 or finite and at least 1e-06, got {value}" in str(part)
    assert (len(other.token_ids), len(after.token_ids)) == (20, 3)


@pytest.mark.parametrize("value", [0, 0.0, 1e-6, 1e30])
def test_other_temperatures_give_log_probs_that_are_numbers(value):
    part, *_ = asyncio.run(_beside({"temperature": value}))
    assert all(math.isfinite(log) for log in part.log_probs)
    assert len(part.token_ids) == 4


@pytest.mark.parametrize("value", [math.nan, 2.5, "4"])
def test_a_length_that_is_no_whole_number_is_refused(value):
    part, other, after = asyncio.run(_beside({"max_tokens": value}))
    assert isinstance(part, ValueError)
    assert "max_tokens must be a whole number, got" in str(part)
    assert (len(other.token_ids), len(after.token_ids)) == (20, 3)


def test_an_interrupt_between_two_turns_cuts_neither():
    async def go():
        engine = _engine()
        one = await engine.open(0, seed=1)
        engine.interrupt(one)
        first = await engine.generate(one, [5], max_tokens=12, temperature=1)
        engine.interrupt(one)
        second = await engine.generate(one, [5], max_tokens=12, temperature=1)
        running = asyncio.create_task(engine.generate(one, [5], max_tokens=20, temperature=1))
        await asyncio.sleep(0)
        engine.interrupt(one)
        cut = await running
        last = await engine.generate(one, [5], max_tokens=5, temperature=1)
        await engine.stop()
        return first, second, cut, last

    first, second, cut, last = asyncio.run(go())
    assert [len(part.token_ids) for part in (first, second, last)] == [12, 12, 5]
    assert {part.finish_reason for part in (first, second, last)} == {"length"}
    assert cut.finish_reason == "interrupted"
    assert 1 <= len(cut.token_ids) < 20

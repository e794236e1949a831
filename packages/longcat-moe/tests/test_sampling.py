"""What a request says of sampling, against the formulas written out."""

import math
import random

import pytest
import torch
from longcat_moe import Engine, SamplingParams
from longcat_moe.engine._request import Draws
from longcat_moe.engine._sampling import Said, distributions, draw, sample, steer


def _params(**options):
    return SamplingParams(max_tokens=4, **options)


def _logits(rows=1, words=12, seed=0):
    return torch.randn(rows, words, generator=torch.Generator().manual_seed(seed)) * 3


def test_bias_and_penalties_are_what_their_documentation_says():
    logits, given, sampled = _logits(), [1, 2, 2, 7], [3, 3, 3, 4]
    p = _params(
        logit_bias={3: 1.5, 5: -100, 11: 2, 9999: 4}, presence_penalty=0.5, frequency_penalty=0.25,
        repetition_penalty=1.7,
    )  # fmt: skip
    expected = []
    for token, logit in enumerate(logits[0].tolist()):
        logit += {3: 1.5, 5: -100, 11: 2}.get(token, 0)
        if token in given or token in sampled:
            logit = logit / 1.7 if logit > 0 else logit * 1.7
        count = sampled.count(token)
        expected.append(logit - 0.25 * count - 0.5 * (count > 0))
    got = steer(logits, [p], [Said(given, sampled)])
    torch.testing.assert_close(got[0], torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert torch.equal(logits, _logits())  # the model's own stay for log-probabilities


def test_who_asks_for_nothing_is_not_steered():
    logits = _logits(2)
    plain, biased = _params(), _params(logit_bias={0: 50})
    got = steer(logits, [plain, biased], [Said([1], []), Said([1], [])])
    assert torch.equal(got[0], logits[0])
    assert got[1].argmax() == 0
    assert steer(logits, [plain, plain], [None, None]) is logits


def test_min_p_keeps_what_is_near_the_best():
    logits = _logits(seed=3)
    probs = logits[0].softmax(-1)
    got = distributions(logits, [_params(min_p=0.2)])[0]
    keep = probs >= 0.2 * probs.max()
    assert 1 < keep.sum() < len(probs)
    torch.testing.assert_close(got, torch.where(keep, probs, 0.0) / probs[keep].sum())


@pytest.mark.parametrize(
    "options", [{"top_p": 1e-320}, {"top_p": 1e-9}, {"min_p": 1.0}, {"top_k": 1}]
)
def test_the_narrowest_choice_is_the_best_token(options):
    logits = _logits(3)
    got = distributions(logits, [_params(**options)] * 3)
    assert torch.equal(got.argmax(-1), logits.argmax(-1))
    torch.testing.assert_close(got.amax(-1), torch.ones(3))


def test_the_least_and_the_greatest_temperature_are_finite():
    logits = _logits() * 30
    for temperature in (1e-5, 1e5):
        got = distributions(logits, [_params(temperature=temperature)])
        assert got.isfinite().all()
        torch.testing.assert_close(got.sum(), torch.tensor(1.0))


def test_numbers_that_are_none_draw_a_token_that_is_one():
    probs = torch.full((2, 5), math.nan)
    assert all(0 <= token < 5 for token in draw(probs, [0.0, 0.99]).tolist())
    tokens, log_probs = sample(probs, [_params(), _params(temperature=0)], [0.5, 0.5])
    assert all(0 <= token < 5 for token in tokens)
    assert all(math.isnan(p) for p in log_probs)


def test_draws_come_again_after_a_rewind():
    reference = random.Random("x")
    expected = [reference.random() for _ in range(6)]
    draws = Draws("x")
    assert [draws.random(), draws.random()] == expected[:2]
    draws.keep()
    assert draws.random() == expected[2]
    draws.rewind()
    assert [draws.random(), draws.random()] == expected[2:4]
    draws.rewind()
    draws.random()
    draws.keep()
    assert [draws.random() for _ in range(3)] == expected[3:]


def test_many_draws_are_those_that_come_one_by_one():
    reference = random.Random("x")
    expected = [reference.random() for _ in range(9)]
    draws = Draws("x")
    assert draws.many(4) == expected[:4]
    draws.unread(3)
    assert draws.many(5) == expected[1:6]
    draws.rewind()
    assert draws.many(2) == expected[:2]
    draws.keep()
    assert [draws.random(), *draws.many(6)] == expected[2:]


class _Only:
    def __init__(self, *tokens):
        self.tokens, self.seen = tokens, []

    def allowed(self, token_ids):
        self.seen.append(list(token_ids))
        allowed = torch.zeros(96, dtype=torch.bool)
        allowed[self.tokens[len(token_ids)]] = True
        return allowed


async def _one(model, ids, **options):
    engine = Engine(model.config, num_slots=2, max_length=64)
    engine.add_model(0, model)
    c = await engine.open(0, seed=1)
    return await engine.generate(c, ids, **{"max_tokens": 6, "stop_ids": (), **options})


@pytest.mark.parametrize("temperature", [0, 1])
async def test_a_constraint_decides_and_log_probs_stay_the_model_s(model, temperature):
    only = _Only([9], [50], [9], [80], [3], [4])
    got = await _one(model, [4, 5], constraint=only, temperature=temperature)
    assert got.token_ids == [9, 50, 9, 80, 3, 4]
    assert only.seen == [got.token_ids[:n] for n in range(6)]
    with torch.no_grad():
        logits = model(torch.tensor([[4, 5, *got.token_ids]])).logits[0].log_softmax(-1)
    expected = [logits[1 + i, t].item() for i, t in enumerate(got.token_ids)]
    assert got.log_probs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("chunk_tokens", [4, 64])
@pytest.mark.parametrize("turns", [1, 2])
async def test_prompts_are_scored_as_the_forward_pass_scores_them(model, chunk_tokens, turns):
    engine = Engine(model.config, num_slots=2, max_length=64, chunk_tokens=chunk_tokens)
    engine.add_model(0, model)
    prompts = [list(range(5, 24)), list(range(40, 47))][:turns]
    for ids in prompts:  # what is shared must be computed all the same
        c = await engine.open(0)
        await engine.generate(c, ids, max_tokens=1, stop_ids=())
        await engine.close(c)
    c, whole = await engine.open(0), []
    for ids in prompts:
        got = await engine.generate(
            c, ids, max_tokens=3, prompt_log_probs=4, num_top_log_probs=2, stop_ids=()
        )
        begin = len(whole)
        whole += [*ids, *got.token_ids]
        with torch.no_grad():
            table = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        assert len(got.prompt) == len(ids)
        for place, scored in enumerate(got.prompt, start=begin):
            if place == 0:
                assert (scored.log_prob, scored.top) == (None, [])
                continue
            assert scored.log_prob == pytest.approx(table[place - 1, whole[place]].item(), abs=1e-4)
            best = table[place - 1].topk(4)
            assert [i for i, _ in scored.top] == best.indices.tolist()
            assert [p for _, p in scored.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        for i, top in enumerate(got.top_log_probs):
            assert [t for t, _ in top] == table[begin + len(ids) - 1 + i].topk(2).indices.tolist()
    await engine.close(c)


async def test_a_prompt_can_be_scored_and_nothing_sampled(model):
    got = await _one(model, [4, 5, 6], max_tokens=0, prompt_log_probs=0)
    assert got.token_ids == []
    assert [scored.top for scored in got.prompt] == [[]] * 3
    with torch.no_grad():
        table = model(torch.tensor([[4, 5, 6]])).logits[0].log_softmax(-1)
    assert [s.log_prob for s in got.prompt[1:]] == pytest.approx(
        [table[0, 5].item(), table[1, 6].item()], abs=1e-4
    )
    assert got.finish_reason == "length"


async def test_who_steers_speculates_not_and_says_the_same(config):
    import dataclasses

    from longcat_moe import LongcatForCausalLM

    torch.manual_seed(0)
    model = LongcatForCausalLM(dataclasses.replace(config, num_nextn_predict_layers=1)).eval()
    answers = []
    for speculate in (False, True):
        engine = Engine(model.config, num_slots=3, max_length=64, speculate=speculate)
        engine.add_model(0, model)

        async def one(engine=engine, **options):
            c = await engine.open(0, seed=2)
            return await engine.generate(
                c, [4, 5], max_tokens=9, stop_ids=(), temperature=0, num_top_log_probs=2, **options
            )

        import asyncio

        answers.append(
            await asyncio.gather(
                one(), one(repetition_penalty=3.0), one(logit_bias={7: 2.0}, frequency_penalty=1.5)
            )
        )
        assert (engine.stats.num_drafted > 0) == speculate
    for plain, guessed in zip(*answers, strict=True):
        assert plain.token_ids == guessed.token_ids
        assert [[t for t, _ in top] for top in plain.top_log_probs] == [
            [t for t, _ in top] for top in guessed.top_log_probs
        ]
    assert answers[0][0].token_ids != answers[0][1].token_ids

"""A budget holds before anything is sent, and the summary keeps its share."""

import asyncio
import math
import time

import pytest
from longcat_heavythink import (
    Budget,
    FailureKind,
    HeavyConfig,
    HeavyThinkError,
    Price,
    Reply,
    Usage,
    think,
)
from longcat_heavythink._budget import Ledger

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 x 7?"}]


class Meter:
    """A model that uses what it is told to and says so."""

    name = "meter"

    def __init__(self, prompt=10, completion=5, delay_s=0.0, limit=20):
        self.used, self.delay_s, self.max_tokens = Usage(prompt, completion), delay_s, limit
        self.in_flight = self.most = self.calls = 0

    async def reply(self, call):
        self.calls += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.in_flight -= 1
        is_summary = "Thinkers" in str(call.messages[-1]["content"])
        return Reply(text="summed" if is_summary else "42", usage=self.used)


@pytest.mark.parametrize("limit", [60, 100, 200, 400, 1000, 3000])
async def test_no_budget_of_tokens_is_ever_exceeded(limit):
    model = Meter(prompt=20, completion=20)
    try:
        got = await think(ASK, model, config=HeavyConfig(width=32), budget=Budget(max_tokens=limit))
        records = got.records
    except RuntimeError as error:
        records = error.records
    sent = [r for r in records if not r.reply.failure]
    assert sum(r.usage.total_tokens for r in sent) <= limit
    assert len(sent) == model.calls
    refused = [r for r in records if r.reply.failure]
    assert all(r.reply.failure.kind is FailureKind.BUDGET for r in refused)
    assert len(records) >= 32


def test_a_budget_may_be_used_up_to_its_last_token_and_coin():
    most = Usage(30, 20)
    price = Price(prompt=1.0, completion=2.0)
    for budget, more in [
        (Budget(max_tokens=50), Usage(1, 0)),
        (Budget(max_cost=price.of(most), price=price), Usage(1, 0)),
    ]:
        assert Ledger(budget).set_aside(most)
        assert not Ledger(budget).set_aside(most, more)


async def test_thinkers_leave_the_summary_its_share():
    got = await think(ASK, Meter(), config=HeavyConfig(width=200), budget=Budget(max_tokens=2500))
    assert (got.answer, got.decided_by) == ("summed", "summary")
    assert 0 < len(got.attempts) < 200
    assert got.usage.total_tokens <= 2500


async def test_what_calls_did_not_use_pays_for_others():
    model = Meter(prompt=30, completion=1, delay_s=0.001, limit=500)
    got = await think(ASK, model, config=HeavyConfig(schedule="sample:20>vote:count,keep=1.0"),
                      budget=Budget(max_tokens=1200))  # fmt: skip
    assert len(got.attempts) > 2  # two at a time fit at most, yet more of them were let through
    assert model.most <= 2


async def test_a_budget_of_money():
    price = Price(prompt=1.0, completion=2.0)
    budget = Budget(max_cost=0.001, price=price)
    got = await think(ASK, Meter(prompt=100, completion=20), config=HeavyConfig(width=50),
                      budget=budget)  # fmt: skip
    assert 0 < got.cost <= 0.001
    assert got.cost == pytest.approx(price.of(got.usage))
    refused = [r.reply.failure.message for r in got.records if r.reply.failure]
    assert refused[0].endswith("of 0.001 is left")
    assert 0 <= float(refused[0].split("and ")[1].split(" of")[0]) < 0.001


async def test_time_ends_the_thinkers_and_leaves_some_for_the_summary():
    async def complete(messages, temperature):
        if "Thinkers" in messages[-1]["content"]:
            return "summed"
        started.append(1)
        await asyncio.sleep(0 if len(started) < 3 else 60)
        return "42"

    started, began = [], time.monotonic()
    got = await think(ASK, complete, config=HeavyConfig(width=5), budget=Budget(max_time_s=1.0))
    assert (got.answer, got.attempts) == ("summed", ["42", "42"])
    assert time.monotonic() - began < 20
    reasons = {r.reply.failure.message for r in got.records if r.reply.failure}
    assert reasons == {"cancelled: the time of this stage is over"}


async def test_a_summary_that_takes_too_long_leaves_the_vote():
    async def complete(messages, temperature):
        await asyncio.sleep(60 if "Thinkers" in messages[-1]["content"] else 0)
        return "42"

    got = await think(ASK, complete, config=HeavyConfig(width=2), budget=Budget(max_time_s=1.0))
    assert (got.answer, got.decided_by) == ("42", "fallback: vote")


async def test_a_budget_of_tokens_needs_to_know_the_most_of_a_call():
    async def complete(messages, temperature):
        return "x"

    with pytest.raises(ValueError, match="needs max_tokens"):
        await think(ASK, complete, budget=Budget(max_tokens=100))
    config = HeavyConfig(width=2, max_tokens=50)
    assert (await think(ASK, complete, config=config, budget=Budget(max_tokens=5000))).answer == "x"


@pytest.mark.parametrize(
    "fields",
    [{"max_tokens": 0}, {"max_time_s": -1}, {"max_time_s": math.nan}, {"max_cost": 1.0},
     {"think_share": 0}, {"max_tokens": math.inf}, {"max_tokens": "9"}, {"think_share": None},
     {"think_share": 1.5}],
)  # fmt: skip
def test_a_budget_is_checked(fields):
    with pytest.raises(ValueError, match=r"must|needs"):
        Budget(**fields)


@pytest.mark.parametrize("value", [None, "1", -1, math.nan])
@pytest.mark.parametrize("field", ["prompt", "completion"])
def test_a_price_is_a_number(field, value):
    with pytest.raises(ValueError, match=f"{field} must be finite and not negative"):
        Price(**{"prompt": 1, "completion": 1, field: value})


def test_the_ledger_learns_how_long_tokens_are():
    ledger = Ledger(Budget(max_tokens=100))
    assert ledger.estimate(100, 7) == Usage(50, 7, True)
    most = ledger.estimate(100, 20)
    assert ledger.set_aside(most)
    assert not ledger.set_aside(most)
    ledger.settle(most, Usage(25, 5), 100)
    assert ledger.estimate(100, 7) == Usage(25, 7, True)
    assert ledger.spent == Usage(25, 5)
    assert ledger.set_aside(ledger.estimate(100, 20))
    assert not ledger.set_aside(ledger.estimate(4, 1), keep=Usage(20, 10))


async def test_a_run_out_of_time_says_what_failed_before():
    async def complete(messages, temperature):
        number.append(1)
        if len(number) == 1:
            await asyncio.sleep(60)
        raise ValueError("kaput")

    number = []
    with pytest.raises(HeavyThinkError, match="all 2 attempts failed: kaput"):
        await think(ASK, complete, config=HeavyConfig(width=2), budget=Budget(max_time_s=0.2))

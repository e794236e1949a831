"""The gate lets as many in as the server admits, in order, and never more than its maximum."""

import asyncio

import pytest
from longcat_heavythink.transport import Gate


async def _settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_wait_come_in_order():
    gate, order = Gate(2), []

    async def visit(number):
        await gate.enter()
        order.append(number)

    tasks = [asyncio.create_task(visit(n)) for n in range(5)]
    await _settle()
    assert (order, gate.in_flight) == ([0, 1], 2)
    gate.leave()
    gate.leave()
    await _settle()
    assert (order, gate.in_flight) == ([0, 1, 2, 3], 2)
    gate.leave()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


async def test_a_refusal_lowers_the_limit_to_what_was_admitted_and_answers_raise_it():
    gate = Gate(8)
    for _ in range(8):
        await gate.enter()
    for _ in range(5):  # the server admits three
        gate.leave()
        gate.refused()
    assert (gate.limit, gate.in_flight) == (3.0, 3)
    for _ in range(3):
        gate.answered()
    assert 3.9 < gate.limit < 4.1
    for _ in range(1000):
        gate.answered()
    assert gate.limit == 8.0
    for _ in range(3):
        gate.leave()
    gate.refused()
    assert gate.limit == 1.0


async def test_a_pause_holds_everybody_and_ends():
    gate = Gate(4)
    gate.refused(0.05)
    loop = asyncio.get_running_loop()
    began = loop.time()
    gate.limit = 4.0
    await asyncio.gather(*(gate.enter() for _ in range(3)))
    assert loop.time() - began >= 0.049
    assert gate.in_flight == 3
    await gate.enter()  # open again


async def test_who_gives_up_takes_no_place():
    gate = Gate(1)
    await gate.enter()
    waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
    await _settle()
    waiting[0].cancel()
    gate.leave()  # the place is given to the second
    waiting[1].cancel()  # in the very moment
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    with pytest.raises(asyncio.CancelledError):
        await waiting[1]
    await waiting[2]
    assert gate.in_flight == 1
    gate.leave()
    assert gate.in_flight == 0

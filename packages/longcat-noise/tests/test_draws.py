"""Rates are as stated; a draw depends on its name and on nothing else."""

import asyncio
import json
import random
import subprocess
import sys
import types
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from longcat_noise import USER_KINDS, Book, Call, Draw, NoiseConfig, NoisyEnvironment, NoisyTools
from longcat_noise._certify import _Counted
from longcat_noise._draw import canonical
from longcat_noise._noise import EpisodeNoise
from longcat_noise._task import _literals
from longcat_noise.testing import CONTRACTS, Clinic

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
BOOK = Book.of(CONTRACTS)


def chi_squared(seen, expected):
    return sum((a - b) ** 2 / b for a, b in zip(seen, expected, strict=True))


@pytest.mark.parametrize("level", LEVELS)
def test_the_measured_rate_of_calls_and_turns_is_the_level(level):
    num = 4000
    for seed in (0, 1):
        config = NoiseConfig(level=level, seed=seed)
        calls = turns = second = 0
        for n in range(num):
            noise = EpisodeNoise(config, f"{n}")
            calls += noise.meet("find", {"id": n}) is not None
            second += noise.meet("find", {"id": n}) is not None
            turns += noise.meet_turn(n % 3) is not None
        for hits in (calls, second, turns):
            expected = (num * level, num * (1 - level))
            assert chi_squared((hits, num - hits), expected) < 10.8  # one degree, p = 0.001


def test_kinds_are_drawn_alike():
    kinds = ("failure", "vanish", "padding", "duplicate", "latency")
    config = NoiseConfig(level=1.0, tool_kinds=kinds, user_kinds=USER_KINDS)
    tools, users = Counter(), Counter()
    for n in range(5000):
        noise = EpisodeNoise(config, f"{n}")
        tools[noise.meet("any", {}).kind.name] += 1
        users[noise.meet_turn(0).name] += 1
    assert chi_squared([tools[k] for k in kinds], [1000] * 5) < 18.5  # four degrees
    assert chi_squared([users[k] for k in USER_KINDS], [500] * 10) < 27.9  # nine degrees


def test_a_call_is_disturbed_at_most_so_often_and_each_has_its_own_count():
    for limit in (1, 2, 3):
        noise = EpisodeNoise(NoiseConfig(level=1.0, max_per_tool=limit), "e")
        for arguments in ({"a": 1}, {"a": 2}, "not JSON", None):
            hits = [noise.meet("t", arguments) is not None for _ in range(6)]
            assert hits == [True] * limit + [False] * (6 - limit)
    noise.restart()
    assert noise.meet("t", {"a": 1}) is not None


def test_started_again_the_noise_of_every_call_is_the_same():
    noise = EpisodeNoise(NoiseConfig(level=0.4, max_per_tool=1), "e")

    def hits():
        return [noise.meet("t", {"n": n // 4}) is not None for n in range(400)]

    first = hits()
    noise.restart()
    assert hits() == first


def test_what_a_tool_says_of_its_arguments_is_added_where_the_contract_says_nothing():
    def schema(*names):
        parameters = {"type": "object", "properties": {name: {} for name in names}}
        return {"type": "function", "function": {"name": "book", "parameters": parameters}}

    silent = Book.of([{"name": "book", "writes": ["visit.day"]}])
    book = silent.with_schemas([schema("day")])
    assert set(book["book"].parameters) == {"day"}
    assert book["book"].writes == silent["book"].writes
    again = book.with_schemas([schema("other")])
    assert set(again["book"].parameters) == {"day"}


def test_a_write_that_no_chain_has_is_one_too_many():
    counted = _Counted(Clinic(), BOOK)
    truth = types.SimpleNamespace(counts=[{("a", "{}"): 1}])
    counted._counts = {("a", "{}"): 1}
    assert counted.repeated(truth) == ""
    counted._counts = {("b", "{}"): 1}
    assert counted.repeated(truth) == "b"


def test_literals_are_what_arguments_say_and_not_that_they_say_nothing():
    arguments = {"a": None, "b": True, "c": " ", "d": ["Ada Low", {"e": 7}]}
    chain = (types.SimpleNamespace(call=Call("t", arguments)),)
    assert _literals([chain]) == ["Ada Low", "Ada", "Low", "7"]


def test_equal_arguments_have_one_name():
    same = [{"a": 1, "b": "x"}, {"b": "x", "a": 1}, '{"b":"x", "a":1}']
    assert len({canonical(a) for a in same}) == 1
    nested = [{"a": [1, {"y": 2, "x": 1}]}, '{"a": [1, {"x": 1, "y": 2}]}']
    assert len({canonical(a) for a in nested}) == 1
    others = [{}, {"a": 1}, {"a": 1.5}, {"a": True}, {"a": "1"}, {"a": None}, {"a": [1]}, [1], "x",
              '"x"', None, {"a": b"\x01"}, {"a": {1, 2}}, {"a": object()}]  # fmt: skip
    assert len({canonical(a) for a in others}) == len(others)
    assert canonical({"a": {"z", "y"}}) == canonical({"a": {"y", "z"}})
    assert canonical({"a": {"x": {1}}}) == canonical({"a": {"x": {1}}})
    assert canonical({"a": object()}) == canonical({"a": object()})


def test_order_begins_with_what_choose_returns():
    for n in range(50):
        draw = Draw(0, f"{n}")
        ordered = draw.order("abcdef", "k", n)
        assert ordered[0] == draw.choose("abcdef", "k", n)
        assert sorted(ordered) == list("abcdef")
    assert len({tuple(Draw(0, f"{n}").order("abc", "k")) for n in range(100)}) == 6


def batch(n):
    """Three calls of one tool at once, one of them twice, and others beside them."""
    tools = ("find_patient", "look_up")
    calls = [("find_patient", {"name": f"name {n} {k}"}) for k in range(3)]
    calls += [
        calls[0],
        ("list_visits", {"patient_id": "P17"}),
        (tools[n % 2], {"name": "Ada Berg"}),
    ]
    return [{"function": {"name": t, "arguments": json.dumps(a)}} for t, a in calls]


async def shown(episode, calls):
    """Return what each call is shown when all are made at once, in order."""
    config = NoiseConfig(level=0.6, tool_kinds=("failure", "partial", "padding", "truncated"))
    environment = NoisyEnvironment(Clinic(), config, episode=episode, contracts=BOOK)
    await environment.reset()
    results = await asyncio.gather(*(environment.call(call) for call in calls))
    return sorted((str(c), r.content, r.is_error) for c, r in zip(calls, results, strict=True))


async def test_the_order_of_parallel_calls_changes_nothing_in_1000_batches():
    rng = random.Random(0)
    differences = noisy = 0
    for n in range(1000):
        calls = batch(n)
        first = await shown(f"{n}", calls)
        rng.shuffle(calls)
        differences += await shown(f"{n}", calls) != first
        noisy += any("try again" in content for _, content, _ in first)
    assert differences == 0
    assert noisy > 500


def answers(tools, keys):
    return [(key, tools.find(key=key)) for key in keys]


def find(key):
    return f"found {key} " * 3


def test_threads_change_nothing():
    keys = [f"{n % 40}" for n in range(200)]
    config = NoiseConfig(level=0.7, tool_kinds=("failure", "padding", "duplicate"))
    seen = []
    for workers in (1, 8):
        tools = NoisyTools({"find": find}, config, episode="e", on_failure="return")
        with ThreadPoolExecutor(workers) as pool:
            seen.append(Counter(pool.map(lambda k, t=tools: (k, t.find(key=k)), keys)))
    assert seen[0] == seen[1]
    assert len(seen[0]) > 80


PROGRAM = """
import sys
from longcat_noise import NoiseConfig, Draw
from longcat_noise._noise import EpisodeNoise
noise = EpisodeNoise(NoiseConfig(level=0.5), "e")
met = [noise.meet("t", {"k": n, "s": {"a": [n]}}) for n in range(40)]
print([m and m.kind.name for m in met], Draw(1, "x")("y"), noise.meet("t", {"k": {"b", "a", "c"}}))
"""


def test_processes_change_nothing():
    runs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout.split("Disturbance")[0]
        for seed in ("0", "1", "77")
    }  # fmt: skip
    assert len(runs) == 1
    assert "failure" in runs.pop()


def test_an_allowance_spares_all_but_the_lowest_draws():
    chain = [Call("get_balance", {"patient_id": f"P{n}"}) for n in range(6)]
    config = NoiseConfig(level=0.8, tool_kinds=("failure", "padding"), user_kinds=("ambiguity",))
    for n in range(30):
        free = EpisodeNoise(config, f"{n}", chains=[chain])
        most = len(free.expected())
        for allowance in range(most + 2):
            noise = EpisodeNoise(config, f"{n}", chains=[chain], allowance=allowance)
            paid = int(noise.meet_turn(0) is not None)
            for call in chain:
                for _ in range(20):
                    met = noise.meet(call.tool, call.arguments)
                    paid += met is not None and met.kind.name == "failure"
            assert paid == min(allowance, most)
    for wrong in ({"allowance": -1, "chains": [chain]}, {"allowance": 1}):
        with pytest.raises(ValueError, match="allowance must be 0 or more and needs a chain"):
            EpisodeNoise(config, "e", **wrong)


def test_the_numbers_themselves_stay_what_they_are():
    assert Draw(1, "demo")("a", 2) == pytest.approx(0.18906368444119792, abs=1e-15)

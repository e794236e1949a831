"""Times of reset, judgement and calls, beside an SQLite copy of the same world, interleaved.

Where `inspect-evals` is installed its port of tau2's airline is timed in the same run: as it is,
and behind our loader.
"""

import argparse
import gc
import importlib.util
import json
import random
import statistics
import time
import tracemalloc
from contextlib import suppress
from functools import partial

from longcat_envs.attacks import golden_acts, play
from longcat_envs.history import Caller, load_setting
from longcat_envs.tasks import TaskMaker, WorldEnvironment
from longcat_envs.world import CallRefused, LiveWorld, Store, export

ROUNDS, CALLS = 5, 2_000
WORLDS, EPISODES = 10_000, 3_000


def microseconds(act, number):
    start = time.process_time_ns()
    for _ in range(number):
        act()
    return (time.process_time_ns() - start) / number / 1_000


def call_times(setting, rng):
    world = LiveWorld(setting.machine, setting.past(0).base)
    caller, tools, times = (
        Caller(world, setting.words, rng),
        list(setting.machine.tools.values()),
        [],
    )
    people = world.store.ids(setting.spec.person)
    while len(times) < CALLS:
        tool = rng.choice(tools)
        if tool.is_writer:
            arguments = caller.draw(tool, rng.choice(people))
        elif tool.kind == "get":
            arguments = {f"{tool.of}_id": rng.choice(world.store.ids(tool.of))}
        else:
            arguments = {} if tool.kind == "search" else None
        if arguments is None:
            continue
        start = time.process_time_ns()
        with suppress(CallRefused):
            world.call(tool.name, arguments)
        times.append((time.process_time_ns() - start) / 1_000)
        if len(times) % 50 == 0:
            world.reset()
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def memory_of_worlds(setting, number):
    """Kilobytes of one live episode, of many in one process, each with a call made."""
    task = next(TaskMaker(setting, seed=0, difficulty="shallow"))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    worlds = []
    for _ in range(number):
        environment = WorldEnvironment(setting, task)
        environment.start()
        step = task.golden[0]
        environment.call_now({"function": {"name": step.tool, "arguments": step.arguments}})
        worlds.append(environment)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / number / 1_000


def leak(setting, number):
    """Kilobytes that are left after so many episodes in one environment."""
    task = next(TaskMaker(setting, seed=0, difficulty="shallow"))
    environment, acts = WorldEnvironment(setting, task), golden_acts(task)
    play(environment, acts)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(number):
        play(environment, acts)
    gc.collect()
    left = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return left / 1_000


def row(name):
    setting, rng = load_setting(name), random.Random(0)
    environment = WorldEnvironment(setting, next(TaskMaker(setting, seed=0)))
    environment.start()
    connection = export(Store(setting.spec, setting.past(0).base))
    image = connection.serialize()
    found = []
    for _ in range(ROUNDS):
        reset = microseconds(environment.start, 500)
        judge = microseconds(environment.score_now, 500)
        copy = microseconds(lambda: connection.deserialize(image), 200)
        found.append((reset, judge, copy, *call_times(setting, rng)))
    middle = [statistics.median(column) for column in zip(*found, strict=True)]
    ratio = sorted(f[2] / f[0] for f in found)
    return [name, setting.past(0).base.num_rows, *(round(m, 1) for m in middle),
            f"{ratio[0]:.1f} to {ratio[-1]:.1f}", round(memory_of_worlds(setting, WORLDS), 1),
            round(leak(setting, EPISODES), 1)]  # fmt: skip


def airline_rows():
    """Reset, judgement and calls of tau2's airline: the port alone, and behind our loader."""
    import inspect_evals.tau2.airline.AirlineAgentTools as port
    from inspect_ai.util import Store as Kept
    from longcat_envs.loaders import ForeignEnvironment, load_foreign

    source = load_foreign("tau2:airline")
    task = max(source.tasks, key=lambda one: len(one.golden[0]))
    environment = ForeignEnvironment(source, task)
    environment.start()

    def fresh():
        tools = port.AirlineAgentTools(store=Kept(), instance="speed")
        tools.initialize()
        return tools

    tools, found = fresh(), []
    calls = [(s.tool, s.arguments) for s in task.golden[0] if hasattr(tools, s.tool)]
    for _ in range(ROUNDS):
        ours, theirs = [], []
        for name, arguments in calls:
            call = {"function": {"name": name, "arguments": arguments}}
            ours.append(microseconds(partial(environment.call_now, call), 1))
            with suppress(Exception):
                theirs.append(microseconds(partial(getattr(tools, name), **arguments), 1))
        judge = microseconds(environment.score_now, 20)
        reset = microseconds(environment.start, 200)
        found.append((reset, judge, statistics.median(ours),
                      microseconds(fresh, 1), microseconds(tools.db.get_hash, 1),
                      statistics.median(theirs)))  # fmt: skip
        tools = fresh()
    middle = [round(statistics.median(column), 1) for column in zip(*found, strict=True)]
    rows = sum(len(getattr(tools.db, name)) for name in ("flights", "users", "reservations"))
    ratios = sorted(f[3] / f[0] for f in found)
    blank = ["-", "-"]
    return [
        ["tau2 airline, our loader", rows, middle[0], middle[1], "-", middle[2], "-", "-", *blank],
        ["tau2 airline, its port", rows, middle[3], middle[4], "-", middle[5], "-",
         f"{ratios[0]:,.0f} to {ratios[-1]:,.0f} of our loader", *blank],
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", nargs="+", default=["bank", "hotel", "hr"])
    given = parser.parse_args()
    columns = ["domain", "rows", "reset us", "judge us", "SQLite image us", "call median us",
               "call 99th us", "SQLite image over reset", f"kB a world of {WORLDS:,}",
               f"kB left after {EPISODES:,} episodes"]  # fmt: skip
    rows = [row(name) for name in given.domains]
    if importlib.util.find_spec("inspect_evals") is not None:
        rows += airline_rows()
    for line in (columns, *rows):
        print(*(f"{cell!s:>16}" for cell in line))
    print(json.dumps({
        "title": "Reset, judge, call", "columns": columns, "rows": rows, "seeds": [0],
        "claim": "Reset and judgement of an episode, a restored SQLite image of the same rows, and "
        "the time of a call, in processor time.",
        "spread": f"median of {ROUNDS} interleaved rounds; the last column is min to max",
        "notes": ["processor time",
                  "tau2 airline: the task with most calls; judge of the port is one hash, it needs two",
                ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()

"""Worlds: guards, invariants, hostile calls, history, contracts, and the same seed everywhere."""

import json
import os
import random
import subprocess
import sys

import pytest
from longcat_envs.history import Caller, load_setting
from longcat_envs.lang import read_spec
from longcat_envs.world import (
    CallRefused,
    LiveWorld,
    Machine,
    argument_names,
    empty_base,
    export,
    violations_by_sql,
)  # fmt: skip

CORE = ("bank", "hotel", "hr")


@pytest.fixture(params=CORE)
def setting(request):
    return load_setting(request.param)


def live(setting, past=0):
    return LiveWorld(setting.machine, setting.past(past).base)


def test_each_domain_has_the_tools_readers_and_parts_that_it_must(setting):
    tools = setting.machine.tools
    readers = [tool for tool in tools.values() if not tool.is_writer]
    assert len(tools) >= 60
    assert len(readers) <= 0.45 * len(tools)
    assert len(setting.spec.parts) >= 6
    assert setting.spec.lines <= 200


def test_a_past_breaks_no_rule_and_has_used_nearly_every_tool(setting):
    for seed in (0, 1):
        past = setting.past(seed)
        store = live(setting, seed).store
        assert setting.machine.violations(store) == []
        assert violations_by_sql(setting.spec, export(store)) == []
        assert len(past.dead) <= 4, past.dead
        assert past.base.num_rows >= 300


def random_call(caller, rng, tools):
    tool = rng.choice(tools)
    person = rng.choice(caller.world.store.ids(caller.spec.person))
    return tool, caller.draw(tool, person if rng.random() < 0.7 else None)


def test_random_legal_calls_keep_every_rule_and_refused_ones_change_nothing(setting):
    world, rng = live(setting), random.Random(3)
    caller = Caller(world, setting.words, rng)
    writers = [tool for tool in setting.machine.tools.values() if tool.is_writer]
    done = refused = 0
    while done < 150:
        tool, arguments = random_call(caller, rng, writers)
        if arguments is None:
            continue
        before, events = world.store.difference(), list(world.events)
        try:
            world.call(tool.name, arguments)
        except CallRefused:
            refused += 1
            assert world.store.difference() == before
            assert world.events == events
        else:
            done += 1
            assert written(before, world.store.difference()) <= tool.writes, tool.name
    assert refused > 50
    assert setting.machine.violations(world.store) == []
    assert violations_by_sql(setting.spec, export(world.store)) == []
    world.reset()
    assert world.store.difference() == {}
    assert world.store.freeze() == world.store.base


def written(before, after):
    """The fields that differ between two differences, as `class.field`."""
    found = set()
    for (of, identifier), (_, row) in after.items():
        old = before.get((of, identifier), (None, None))[1]
        if old is None and after[of, identifier][0] is not None:
            old = after[of, identifier][0]
        found |= {f"{of}.{n}" for n, v in row.items() if old is None or old[n] != v}
    return found


HOSTILE = [
    None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "", " ", "x", "-1", "1e9", "NaN",
    "\ud800", "\0", "😀" * 50, "a" * 10_000, "'; DROP TABLE account; --", [], {}, [[]], {"a": 1},
    "2026-02-30", "9999-12-31", "0001-01-01", "12.345", "1_000", "١٢", "AC00000", b"x", object(),
]  # fmt: skip


def hostile_arguments(world, tool, rng):
    arguments = {}
    for name in argument_names(tool):
        draw = rng.random()
        if draw < 0.6:
            arguments[name] = rng.choice(HOSTILE)
        elif draw < 0.85:
            of = rng.choice(list(world.machine.spec.classes))
            arguments[name] = rng.choice(world.store.ids(of) or ["x"])
    if rng.random() < 0.1:
        arguments[rng.choice(["self", "id", "", "state", "__class__"])] = rng.choice(HOSTILE)
    return arguments


def attack(setting, number):
    world, rng = live(setting), random.Random(5)
    tools, messages = list(setting.machine.tools.values()), []
    for _ in range(number):
        tool = rng.choice(tools)
        try:
            json.dumps(world.call(tool.name, hostile_arguments(world, tool, rng)))
        except CallRefused as error:
            messages.append(str(error))
    assert all(messages)
    assert len(messages) > number / 2
    assert setting.machine.violations(world.store) == []
    assert violations_by_sql(setting.spec, export(world.store)) == []


def test_hostile_calls_are_refused_and_corrupt_nothing(setting):
    attack(setting, 1_500)


@pytest.mark.long
def test_a_hundred_thousand_hostile_calls(setting):
    attack(setting, 100_000)


@pytest.mark.long
def test_a_hundred_worlds_after_a_thousand_legal_calls(setting):
    for past in range(100):
        world, rng = live(setting, past % 16), random.Random(past)
        caller = Caller(world, setting.words, rng)
        writers = [tool for tool in setting.machine.tools.values() if tool.is_writer]
        done = tries = 0
        while done < 1_000 and tries < 20_000:
            tries += 1
            tool, arguments = random_call(caller, rng, writers)
            if arguments is None:
                continue
            try:
                world.call(tool.name, arguments)
            except CallRefused:
                continue
            done += 1
        assert setting.machine.violations(world.store) == []


def test_money_is_neither_made_nor_lost_by_a_transfer():
    setting = load_setting("bank")
    world, rng = live(setting), random.Random(1)
    caller, tool = Caller(world, setting.words, rng), setting.machine.tools["transfer_account"]
    store = world.store

    def total():
        return sum(store.row("account", i)["balance"] for i in store.ids("account"))

    before, done = total(), 0
    for _ in range(400):
        person = rng.choice(store.ids("customer"))
        arguments = caller.draw(tool, person)
        if arguments is None:
            continue
        try:
            world.call(tool.name, arguments)
        except CallRefused:
            continue
        done += 1
        assert total() == before
    assert done >= 3
    moved = [int(event.what) for event in world.events if event.kind == "money"]
    assert len(moved) == 2 * done
    assert sum(moved) == 0


UNIQUE = """
class member(person):
    name: unique(text)

    def rename(to: text):
        assert to != name, "that is the name already"
        name = to
"""


def test_what_is_unique_stays_so_when_it_is_changed():
    spec = read_spec(UNIQUE, name="club", parts={})
    world = LiveWorld(Machine(spec), empty_base(spec, 739_621))
    ada, eva = (world.call("create_member", {"name": n})["member_id"] for n in ("Ada", "Eva"))
    with pytest.raises(CallRefused, match="there is a member with this name already"):
        world.call("rename_member", {"member_id": eva, "to": "Ada"})
    assert world.call("rename_member", {"member_id": eva, "to": "Ida"})["name"] == "Ida"
    world.call("rename_member", {"member_id": ada, "to": "Eva"})
    assert violations_by_sql(spec, export(world.store)) == []


def test_a_record_that_has_ended_refuses_plain_changes(setting):
    world = live(setting)
    found = 0
    for of, one in setting.spec.classes.items():
        for name in one.fields:
            tool = setting.machine.tools.get(f"set_{of}_{name}")
            if tool is None or (not tool.action.sources and not one.ends):
                continue
            for identifier in [
                i for i in world.store.ids(of) if world.store.row(of, i)["state"] in one.ends
            ]:
                value = {"text": "A new text", "int": 1, "money": 1, "date": "2026-04-01"}.get(
                    one.fields[name].type.kind
                )
                if value is None or tool.parameters[-1].name != "value":
                    continue
                with pytest.raises(CallRefused, match="what has ended"):
                    world.call(tool.name, {f"{of}_id": identifier, "value": value})
                found += 1
    assert found > 0


DIGEST = """
import hashlib, json
from longcat_envs.history import load_setting
from longcat_envs.tasks import TaskMaker
setting = load_setting("hr")
base = setting.past(0).base
maker = TaskMaker(setting, seed=4, pasts=[0])
text = json.dumps([base.rows, base.order]) + next(maker).to_json() + next(maker).to_json()
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_the_same_seed_is_the_same_world_whatever_the_hash_seed_and_the_process():
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DIGEST], env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE, text=True,
        )
        for seed in ("1", "77")
    ]  # fmt: skip
    digests = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64

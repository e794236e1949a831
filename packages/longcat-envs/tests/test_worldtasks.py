"""Tasks in worlds with a past: goals, words, people, and attacks on all of them."""

import dataclasses
import json
import random
from itertools import pairwise

import pytest
from longcat_envs import Environment, Invalid, Reward, run_episode
from longcat_envs.attacks import (
    CAREFUL,
    CARELESS,
    Say,
    audit_task,
    golden_acts,
    play,
    run_agents,
    word_faults,
)  # fmt: skip
from longcat_envs.attacks._chains import wrong_chains
from longcat_envs.graph import Graph, contracts
from longcat_envs.history import load_setting
from longcat_envs.tasks import REFUSE, Step, TaskMaker, WorldEnvironment, WorldTask, goal_of
from longcat_envs.world import LiveWorld

CORE = ("bank", "hotel", "hr")
NUM_TASKS = 5


@pytest.fixture(scope="module", params=CORE)
def setting(request):
    return load_setting(request.param)


@pytest.fixture(scope="module")
def tasks(setting):
    maker = TaskMaker(setting, seed=11)
    return [next(maker) for _ in range(NUM_TASKS)]


def test_the_audit_finds_nothing_in_what_is_made(setting, tasks):
    for task in tasks:
        found = audit_task(setting, task)
        assert found.faults == []
        assert found.num_chains > 15
        assert found.num_mutants > 5
    shallow = TaskMaker(setting, seed=11, difficulty="shallow")
    for _ in range(3):
        assert audit_task(setting, next(shallow)).faults == []


def test_careless_agents_fail_and_careful_ones_pass(setting, tasks):
    for task in tasks:
        assert [name for name, played in run_agents(setting, task, CARELESS) if played.passed] == []
        assert [n for n, played in run_agents(setting, task, CAREFUL) if not played.passed] == []


def test_tasks_survive_json_and_depend_on_seed_and_number_only(setting, tasks):
    assert [WorldTask.from_json(task.to_json()) for task in tasks] == tasks
    again = TaskMaker(setting, seed=11)
    assert [next(again) for _ in range(2)] == tasks[:2]
    assert next(TaskMaker(setting, seed=12)).golden != tasks[0].golden


def test_deep_tasks_are_deep(setting, tasks):
    writes = sorted(len(task.writes) for task in tasks)
    assert writes[len(writes) // 2] >= 4
    assert sum("exchange" in task.tags for task in tasks) >= len(tasks) / 2


def test_the_goal_is_not_the_start(setting, tasks):
    for task in tasks:
        environment = WorldEnvironment(setting, task)
        assert not play(environment, [Say("All of that is done.")]).passed
        assert task.goal.changed or task.goal.made or task.goal.refused or task.goal.told


def test_damaged_words_are_noticed(setting, tasks):
    num = 0
    for task in tasks:
        environment = WorldEnvironment(setting, task)
        name = task.profile["name"]
        damaged = [
            dataclasses.replace(task, opening=task.opening.replace(name, "Xaver Nobody")),
            dataclasses.replace(task, opening=task.opening + " {amount}"),
            dataclasses.replace(task, opening=task.opening + " Take 77123.45 as well."),
        ]
        if task.withheld:
            damaged.append(dataclasses.replace(task, withheld="The amount is 99123."))
        if task.change:
            damaged.append(dataclasses.replace(task, change="One change: the amount is 99123."))
        for one in damaged:
            assert list(word_faults(setting, one, environment_of(setting, one))), one.opening
            num += 1
        assert list(word_faults(setting, task, environment)) == []
    assert num >= 3 * len(tasks)


def environment_of(setting, task):
    return WorldEnvironment(setting, task)


async def test_the_environment_keeps_the_protocol(setting, tasks):
    task = tasks[0]
    environment: Environment = WorldEnvironment(setting, task)
    assert isinstance(await environment.score(), Invalid)
    observation = await environment.reset()
    assert [m["role"] for m in observation.messages] == ["system", "user"]
    assert {t["function"]["name"] for t in observation.tools} == set(task.tools)
    for call in ({}, None, {"function": None}, {"function": {"name": "x", "arguments": "[" * 99_999}},
                 {"function": {"name": task.tools[0], "arguments": "9" * 5_000}},
                 {"function": {"name": REFUSE, "arguments": {"rule": ["R1"]}}}):  # fmt: skip
        result = await environment.call(call)
        assert result.is_error
        json.loads(result.content)
    assert isinstance(await environment.score(), Reward)
    assert await environment.reply({"role": "assistant", "content": "Good bye."}) is None
    step = task.golden[0]
    late = await environment.call({"function": {"name": step.tool, "arguments": step.arguments}})
    assert "the conversation is over" in late.content
    await environment.close()
    assert isinstance(await environment.score(), Invalid)


async def test_a_policy_runs_in_it(setting, tasks):
    task = tasks[0]
    acts = golden_acts(task)

    class Scripted:
        async def chat(self, messages, *, tools):
            act = acts.pop(0)
            if isinstance(act, Say):
                return {"role": "assistant", "content": act.text}
            function = {"name": act.tool, "arguments": json.dumps(act.arguments)}
            return {"role": "assistant", "tool_calls": [{"id": "c", "function": function}]}

    episode = await run_episode(WorldEnvironment(setting, task), Scripted(), max_turns=60)
    assert (episode.reward.total, episode.status) == (1.0, "done")


def test_a_guess_is_not_told_by_looking_afterwards(setting, tasks):
    task = next(task for task in tasks if task.goal.told)
    acts, guess = golden_acts(task), Say(task.answer + " One moment, please.")
    asked = [act for act in acts[:-1] if isinstance(act, Say)]
    assert not play(
        environment_of(setting, task), [*asked, guess, *task.golden, Say("Done.")]
    ).passed
    assert play(environment_of(setting, task), [*asked, guess, *task.golden, acts[-1]]).passed


async def test_a_fault_of_the_world_is_invalid(setting, tasks, monkeypatch):
    environment = WorldEnvironment(setting, tasks[0])
    await environment.reset()
    monkeypatch.setattr(environment.world, "call", lambda *_: 1 / 0)
    step = tasks[0].golden[0]
    result = await environment.call({"function": {"name": step.tool, "arguments": step.arguments}})
    assert "out of order" in result.content
    assert (await environment.score()).reason.startswith("ZeroDivisionError")


def test_the_goal_is_the_one_outcome_and_each_part_is_looked_at(setting, tasks):
    """Two tasks of one world: neither golden chain reaches the goal of the other."""
    for one, other in pairwise(tasks):
        mixed = dataclasses.replace(one, golden=other.golden, past=other.past)
        assert not play(WorldEnvironment(setting, mixed), golden_acts(mixed)).passed
    reached = play(WorldEnvironment(setting, tasks[0]), golden_acts(tasks[0])).outcome
    goal = goal_of(reached, tasks[0].goal.told)
    assert dataclasses.replace(goal, told=()) == dataclasses.replace(tasks[0].goal, told=())


def test_an_edit_of_a_bystander_that_is_put_back_is_seen():
    setting = load_setting("bank")
    task = next(t for t in TaskMaker(setting, seed=2) if "set_customer_phone" in t.tools)
    environment = WorldEnvironment(setting, task)
    rows = setting.past(task.past).base.rows["customer"]
    other = next(i for i in rows if i != task.person)
    there = Step(tool="set_customer_phone", arguments={"customer_id": other, "value": "012 345"})
    back = dataclasses.replace(there, arguments={**there.arguments, "value": rows[other]["phone"]})
    *golden, closing = golden_acts(task)
    assert play(environment, [*golden, closing]).passed
    assert not play(environment, [*golden, there, back, closing]).passed


def test_grown_environments_differ_and_are_near_their_goal(setting):
    graph = Graph(setting.machine.tools)
    rng = random.Random(1)
    goals = [f"search_{setting.spec.person}", *rng.sample(sorted(setting.words.asks), 3)]
    toolsets = [graph.grow(goals, rng) for _ in range(200)]
    assert len(set(toolsets)) >= 190
    sizes = [len(tools) for tools in toolsets]
    assert min(sizes) >= 20
    assert max(sizes) < len(graph.tools)
    assert len(set(sizes)) >= 8
    for tools in toolsets[:20]:
        assert set(goals) <= set(tools)
        assert all(graph.is_satisfied(name, tools) for name in tools)
    filled = [rng.sample(sorted(graph.tools), size) for size in sizes]
    near = sum(graph.share_near(goals, tools, 1) for tools in toolsets)
    assert near > 1.15 * sum(graph.share_near(goals, tools, 1) for tools in filled)


def test_contracts_are_plain_lines(setting):
    lines = [json.loads(line) for line in contracts(setting.machine.tools)]
    assert {line["tool"] for line in lines} == set(setting.machine.tools)
    for line in lines:
        assert set(line) == {"tool", "kind", "class", "part", "needs", "yields", "reads", "writes"}
        assert bool(line["writes"]) == (line["kind"] == "write")


async def test_a_number_that_the_agent_gave_itself_is_not_found(setting, tasks):
    task = tasks[0]
    search = next(name for name in task.tools if name.startswith("search_"))
    environment = WorldEnvironment(setting, task)
    await environment.reset()
    for page, is_error in ((98_765, False), (0, True), (-1, True)):
        call = {"function": {"name": search, "arguments": json.dumps({"page": page})}}
        assert (await environment.call(call)).is_error == is_error
    assert not environment.outcome().seen_numbers & {"98765", "98765.00"}
    assert "98765" not in environment.outcome().seen


def test_attacks_put_back_what_they_did_and_careful_agents_stumble(setting, tasks):
    twice = stumbled = 0
    for task in tasks:
        for name, script in wrong_chains(setting, task, random.Random(0)):
            more = len(script) - len(golden_acts(task))
            twice += name == "one act too much" and more == 2
        played = dict(run_agents(setting, task, {"stumble": CAREFUL["stumble"]}))["stumble"]
        tools = {step.tool for step in task.golden}
        stumbled += sum(error.split(":")[0] in tools for error in played.errors)
    assert twice > 0
    assert stumbled > len(tasks)


def test_a_difficulty_is_one_of_two(setting):
    with pytest.raises(ValueError, match="must be shallow or deep"):
        TaskMaker(setting, seed=0, difficulty="middling")


def test_making_a_shallow_task_costs_few_calls(setting, monkeypatch):
    calls, run = [], LiveWorld.call

    def counted(*given):
        calls.append(given[1])
        return run(*given)

    monkeypatch.setattr(LiveWorld, "call", counted)
    maker = TaskMaker(setting, seed=4, difficulty="shallow", pasts=[0])
    setting.past(0)
    calls.clear()
    made = [next(maker) for _ in range(40)]
    assert len(calls) < 40 * len(made)
    assert maker.num_failed < len(made)
    assert len({task.opening for task in made}) >= len(made) - 1
    assert {task.past for task in made} == {0}

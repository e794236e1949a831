"""Noise in training leaves every task within reach of the recipe's turns, or is not there."""

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest
from longcat_cli import noise
from longcat_cli.agent import act
from longcat_cli.folder import RunFolder
from longcat_cli.noise import contracts_of, in_noise, noise_task, protected_literals
from longcat_cli.recipe import Recipe
from longcat_cli.stages.experts import TaskSource
from longcat_dora import Trajectory
from longcat_envs import Grower, TaskEnvironment, World, run_episode
from longcat_noise import NoiseConfig, NoisyEnvironment, Refusal, certify_async

DOMAINS = ("clinic", "library", "shop")
MAX_TURNS = Recipe().rl.max_turns
WORLDS = {name: World.load(name) for name in DOMAINS}


class Patient:
    """Knows the golden chain, sees what agents see, and asks again for what was not answered."""

    def __init__(self, task):
        self.steps = noise_task(task).chains[0]
        self.place = -1

    async def chat(self, messages, *, tools):
        last = messages[-1]
        if last["role"] != "tool" or _is_answer(last["content"]):
            self.place += 1
        step = self.steps[self.place]
        if step.call is None:
            return {"role": "assistant", "content": step.say}
        function = {"name": step.call.tool, "arguments": json.dumps(step.call.arguments)}
        call = {"id": "1", "type": "function", "function": function}
        return {"role": "assistant", "content": "", "tool_calls": [call]}


def _is_answer(content):
    return '"error"' not in content and '"..."' not in content


def _tasks(domain, count, seed=11):
    grower = Grower(WORLDS[domain].domain, seed=seed)
    return [next(grower) for _ in range(count)]


async def _attempts(tasks, level, max_turns=MAX_TURNS):
    return [
        await act(WORLDS, task, Patient(task), level=level, episode=f"e:{task.id}",
                  max_turns=max_turns)
        for task in tasks
    ]  # fmt: skip


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("level", [0.3, 1.0])
def test_a_patient_agent_passes_every_noisy_task_in_the_turns_of_the_recipe(domain, level):
    attempts = asyncio.run(_attempts(_tasks(domain, 25), level))
    assert [a.episode.reward.total for a in attempts] == [1.0] * 25
    assert {a.level for a in attempts} == {level}
    assert sum(a.episode.num_errors for a in attempts) > 0  # there was noise to survive


def test_without_the_certificate_the_same_agent_runs_out_of_turns():
    async def passed(task):
        plain = TaskEnvironment(WORLDS["shop"], task)
        noisy = NoisyEnvironment(plain, NoiseConfig(level=1.0), episode=f"e:{task.id}",
                                 protected=protected_literals(task),
                                 contracts=contracts_of(WORLDS["shop"]))  # fmt: skip
        episode = await run_episode(noisy, Patient(task), max_turns=MAX_TURNS)
        await noisy.close()
        return episode.reward.total

    async def every():
        return [await passed(task) for task in _tasks("shop", 25)]

    assert sum(asyncio.run(every())) < 25


def test_an_episode_has_the_same_noise_whenever_it_is_derived():
    tasks = _tasks("library", 6)
    first, second = (asyncio.run(_attempts(tasks, 1.0)) for _ in range(2))
    assert [a.episode.messages for a in first] == [a.episode.messages for a in second]
    other = asyncio.run(
        act(WORLDS, tasks[0], Patient(tasks[0]), level=1.0, episode="other", max_turns=MAX_TURNS)
    )
    assert other.episode.messages != first[0].episode.messages


def test_a_draw_that_is_refused_is_drawn_again_under_a_name_of_its_own(monkeypatch):
    (task,) = _tasks("library", 1)
    asked = []

    async def refuse_two(known, config, *, episode, **rest):
        asked.append(episode)
        if len(asked) < 3:
            return Refusal(task=known.id, episode=episode, reason="for the test")
        return await certify_async(known, config, episode=episode, **rest)

    monkeypatch.setattr(noise, "certify_async", refuse_two)
    drawn = asyncio.run(noise.in_noise(WORLDS["library"], task, level=1.0, episode="e",
                                       max_turns=MAX_TURNS))  # fmt: skip
    assert (drawn.level, drawn.num_refused) == (1.0, 2)
    assert asked == ["e", "e~1", "e~2"]


def test_where_no_draw_can_be_certified_the_world_is_perfect_and_that_is_said():
    (task,) = _tasks("shop", 1)
    drawn = asyncio.run(in_noise(WORLDS["shop"], task, level=1.0, episode="e", max_turns=1))
    assert (drawn.level, drawn.num_refused) == (0.0, 3)
    assert isinstance(drawn.environment, TaskEnvironment)


def test_the_attempts_of_a_group_share_one_certificate(monkeypatch):
    """And no other episode, task, level or number of turns does."""
    first, second = _tasks("shop", 2)
    of_same_id = dataclasses.replace(second, id=first.id)
    asked = []

    async def noted(known, config, *, episode, **rest):
        asked.append(episode)
        return await certify_async(known, config, episode=episode, **rest)

    monkeypatch.setattr(noise, "certify_async", noted)
    monkeypatch.setattr(noise, "_KEPT", noise._Draws(size=2))
    world = WORLDS["shop"]

    def draws(*wanted):
        asked.clear()
        for task, level, episode, turns, at in wanted:
            asyncio.run(in_noise(at, task, level=level, episode=episode, max_turns=turns))
        return len(asked)

    same = (first, 0.3, "e", MAX_TURNS, world)
    assert draws(*[same] * 8) == 1
    for other in ((first, 0.4, "e", MAX_TURNS, world), (first, 0.3, "f", MAX_TURNS, world),
                  (first, 0.3, "e", MAX_TURNS + 1, world), (second, 0.3, "e", MAX_TURNS, world),
                  (of_same_id, 0.3, "e", MAX_TURNS, world),
                  (first, 0.3, "e", MAX_TURNS, World.load("shop"))):  # fmt: skip
        noise._KEPT._newest.clear()
        assert draws(same, other) == 2, other[:4]
    far = [(first, 0.3, str(number), MAX_TURNS, world) for number in range(3)]
    assert draws(*far, *far[1:]) == 3
    assert draws(far[0]) == 1  # the oldest is forgotten
    assert len(noise._KEPT._newest) == 2


def test_contracts_name_columns_so_that_readers_and_writers_meet():
    book = contracts_of(WORLDS["library"])
    assert book["get_loan"].role == "reader"
    assert book["reinstate_member"].role == "writer"
    assert book["reinstate_member"].writes <= book["get_member"].reads
    names = [name for contract in book.contracts.values()
             for name in contract.reads | contract.writes]  # fmt: skip
    assert not [name for name in names if "*" in name]


def test_the_question_for_what_is_withheld_is_part_of_the_chain():
    task = next(t for t in _tasks("shop", 200) if t.withheld)
    chain = noise_task(task).chains[0]
    assert chain[0].say.startswith("Which ")
    assert len(chain) == 2 + len(task.golden)


def test_groups_in_want_of_a_certificate_are_counted(tmp_path):
    folder = _folder(tmp_path)
    source = TaskSource(folder, "shop")
    job = next(iter(source))
    for refused, level in ((0, 0.0), (0, 0.15), (3, 0.0), (1, 0.15)):
        info = {"key": job.payload["key"], "level": level, "refused": refused, "transcript": []}
        source.record([_trajectory(info)])
    assert source.num_without == 1
    assert source.noise.state() != TaskSource(_folder(tmp_path / "fresh"), "shop").noise.state()
    assert source.noise.state() == TaskSource(folder, "shop").noise.state()  # when it goes on


def _folder(path: Path) -> RunFolder:
    folder = RunFolder.create(path, Recipe(groups={"shop": ["shop"]}))
    folder.tasks("shop", "train").parent.mkdir(parents=True)
    folder.tasks("shop", "train").write_text("".join(t.to_json() + "\n" for t in _tasks("shop", 4)))
    return folder


def _trajectory(info):
    return Trajectory(
        id="t", group="g", task="t", domain="shop", version=0, segments=[], reward=1.0, info=info
    )

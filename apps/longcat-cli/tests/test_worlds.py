"""Worlds with a past in the app: grown, demonstrated, put in noise, tried and derived again."""

import asyncio
import dataclasses
import re
from importlib import resources
from random import Random

import pytest
from longcat_cli.agent import act
from longcat_cli.audit import _grow as audit_grow
from longcat_cli.audit._again import said_again
from longcat_cli.checks import broken_rules
from longcat_cli.display import Display
from longcat_cli.folder import RunFolder
from longcat_cli.noise import contracts_of, in_noise, noise_task
from longcat_cli.recipe_file import changed, load_recipe
from longcat_cli.stages import grow
from longcat_cli.worlds import (
    demonstrate,
    environment_of,
    load_world,
    load_worlds,
    read_task,
    read_tasks,
)
from longcat_envs.attacks import golden_acts

CHANGES = ["groups={'bank': ['bank.world']}", "grow.train_tasks=24", "grow.eval_tasks=6",
           "evaluate.tasks=6", "grow.pasts=2", "grow.id_digits=3"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `grow` leaves for a world with a past."""
    found = RunFolder.create(
        tmp_path_factory.mktemp("worlds") / "run", changed(load_recipe("smoke"), CHANGES)
    )
    grow.run(found, Display(["grow"]))
    return found


@pytest.fixture(scope="module")
def world():
    return load_world("bank.world")


@pytest.fixture(scope="module")
def tasks(folder):
    return read_tasks(folder.tasks("bank.world", "train"))


def test_who_lives_in_held_out_tasks_was_never_met(folder, tasks):
    held_out = read_tasks(folder.tasks("bank.world", "eval"))
    assert [len(tasks), len(held_out)] == [24, 6]
    assert {task.past for task in tasks} == {0, 1}
    assert {task.past for task in held_out} == {1000}
    assert len({task.opening for task in tasks}) == 24
    assert all(20 <= len(task.tools) - 1 < 100 for task in tasks)
    assert all(re.fullmatch(r"[A-Z]+\d{3}", task.person) for task in [*tasks, *held_out])
    assert audit_grow.complaints(folder, 3) == []


def test_people_say_days_as_results_write_them(tasks):
    said = " ".join(task.opening for task in tasks)
    assert re.search(r"\b20\d\d-\d\d-\d\d\b", said)
    assert not re.search(r"\b\d{1,2} (?:January|February|March|April|May|June|July)\b", said)


def test_a_world_of_ones_own_lies_in_a_file(tmp_path):
    shipped = resources.files("longcat_envs") / "domains"
    for ending in (".world", ".words.en"):
        text = (shipped / f"bank{ending}").read_text("utf-8")
        (tmp_path / f"mine{ending}").write_text(text.replace("of a retail bank", "of my bank"))
    worlds = load_worlds([str(tmp_path / "mine.world"), "hotel.world", "shop"])
    assert list(worlds) == ["mine", "hotel", "shop"]
    assert worlds["mine"].words.you == "You serve the customers of my bank at its counter."


def test_a_task_survives_its_file(tasks):
    assert [read_task(task.to_json()) for task in tasks] == tasks


def test_deep_tasks_are_grown_if_asked_for():
    recipe = changed(load_recipe("smoke"), [*CHANGES, "grow.difficulty=deep", "grow.pasts=1"])
    deep = grow.grow_tasks("bank.world", "train", 8, 3, recipe)
    assert all(task.difficulty == "deep" and len(task.golden) > 3 for task in deep)
    asked = [task for task in deep if task.withheld or task.change]
    assert asked
    for task in asked:  # what must be asked is part of the chain that noise is certified with
        said = [step.say for step in noise_task(task).chains[0] if step.call is None]
        assert said == [act.text for act in golden_acts(task) if hasattr(act, "text")]
        assert len(said) > len(task.wishes)


def shown(world, task, share=0.0):
    environment = environment_of(world, task)
    return asyncio.run(demonstrate(environment, rng=Random(0), share_alternative=share))


def test_a_demonstration_passes_when_it_is_said_again(world, tasks):
    for task in tasks[:6]:
        demo = shown(world, task)
        said = [m for m in demo.messages if m["role"] == "assistant"]
        assert said_again({"bank": world}, task, said).episode.reward.total == 1
        assert said_again({"bank": world}, task, said[:-1]).episode.reward.total == 0
        assert "Rules: " not in demo.messages[0]["content"]


def test_its_tools_have_contracts_and_its_chains_are_certified_in_noise(world, tasks):
    book = contracts_of(world)
    assert book["search_customer"].role == "reader"
    writes = {step.tool for task in tasks for step in task.writes}
    assert writes
    assert {book[name].role for name in writes} == {"writer"}
    assert "name" in book["search_customer"].parameters
    levels = []
    for task in tasks[:12]:
        drawn = asyncio.run(in_noise(world, task, level=0.5, episode="e", max_turns=24))
        levels.append(drawn.level)
        chain = noise_task(task).chains[0]
        assert [step.call.tool for step in chain if step.call] == [s.tool for s in task.golden]
        assert chain[-1].say == task.answer
    assert levels.count(0.5) >= 8


class Patient:
    """Calls the golden chain, each call again until it succeeds."""

    def __init__(self, task):
        self.steps, self.task = list(task.golden), task

    async def chat(self, messages, *, tools):
        has_failed = messages[-1]["role"] == "tool" and "error" in str(messages[-1]["content"])
        if not has_failed and messages[-1]["role"] == "tool":
            self.steps.pop(0)
        if not self.steps:
            return {"role": "assistant", "content": self.task.answer}
        step = self.steps[0]
        function = {"name": step.tool, "arguments": dict(step.arguments)}
        call = {"id": "1", "type": "function", "function": function}
        return {"role": "assistant", "content": "", "tool_calls": [call]}


def test_noise_is_felt_and_patience_pays(world, tasks):
    changed_turns, passed = 0, 0
    for task in tasks[:12]:
        attempt = asyncio.run(
            act({"bank": world}, task, Patient(task), level=0.5, episode="e", max_turns=40)
        )
        plain = asyncio.run(
            act({"bank": world}, task, Patient(task), level=0.0, episode="e", max_turns=40)
        )
        assert plain.episode.reward.total == 1
        changed_turns += attempt.episode.messages != plain.episode.messages
        passed += attempt.episode.reward.total == 1
    assert changed_turns >= 6
    assert passed >= 6


def test_a_world_that_is_not_there_is_said_before_anything_runs():
    recipe = load_recipe("smoke")
    wrong = dataclasses.replace(recipe, groups={"one": ["libary.world"]})
    (line,) = broken_rules(wrong)
    assert line.startswith("groups: a domain must be one of airline, bank")
    assert "libary.world" in line or "'libary'" in line
    twice = dataclasses.replace(recipe, groups={"one": ["bank"], "two": ["bank.world"]})
    assert any("bank" in line for line in broken_rules(twice))

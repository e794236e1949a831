"""What is demonstrated in worlds with a past: verified, with detours, without imitated mistakes."""

import asyncio
from random import Random

import pytest
from longcat_envs import run_episode
from longcat_envs._follow import _Script, call_turn
from longcat_envs.attacks import golden_acts, play
from longcat_envs.history import load_setting
from longcat_envs.tasks import (
    Goal,
    TaskMaker,
    Tell,
    WorldEnvironment,
    _make,
    brief_prompt,
    system_prompt,
)
from longcat_envs.tasks._goal import tells
from longcat_envs.teaching import demonstrate


@pytest.fixture(scope="module")
def setting():
    return load_setting("bank")


@pytest.fixture(scope="module")
def tasks(setting):
    kinds = (("shallow", 12), ("deep", 3))
    makers = [(TaskMaker(setting, seed=3, difficulty=kind, pasts=[1, 2]), n) for kind, n in kinds]
    return [next(maker) for maker, number in makers for _ in range(number)]


def shown(setting, task, share, seed=0):
    environment = WorldEnvironment(setting, task)
    return asyncio.run(demonstrate(environment, rng=Random(seed), share_alternative=share))


def calls(demo):
    return [call["function"]["name"] for m in demo.messages for call in m.get("tool_calls", ())]


def test_a_golden_trajectory_is_the_golden_chain_and_all_of_it_is_imitated(setting, tasks):
    for task in tasks:
        demo = shown(setting, task, 0)
        assert demo.is_golden
        assert calls(demo) == [step.tool for step in task.golden]
        assert demo.imitate == [m["role"] == "assistant" for m in demo.messages]
        assert demo.messages[-1]["content"] == task.answer


def test_alternatives_recover_from_mistakes_that_are_not_imitated(setting, tasks):
    masked, looks = 0, 0
    for seed, task in enumerate(tasks * 6):
        demo = shown(setting, task, 1, seed)
        assert not demo.is_golden
        own = [place for place, m in enumerate(demo.messages) if m["role"] == "assistant"]
        mistakes = [place for place in own if not demo.imitate[place]]
        assert all('"?"' in str(demo.messages[place]["tool_calls"]) for place in mistakes)
        masked += len(mistakes)
        looks += sum(str(m.get("reasoning_content")).startswith("see the ")
                     for m in demo.messages) - sum("see the " in s.thought for s in task.golden)  # fmt: skip
    assert masked > 5
    assert looks > 0


def test_what_does_not_earn_the_reward_is_not_shown(setting, tasks):
    class Deaf(WorldEnvironment):
        def _judge(self):
            reward = super()._judge()
            return type(reward)(0.5, reward.parts)

    assert asyncio.run(demonstrate(Deaf(setting, tasks[0]), rng=Random(0))) is None


def test_the_brief_prompt_says_who_and_when_and_no_rule(setting, tasks):
    task = tasks[0]
    whole, brief = system_prompt(setting, task), brief_prompt(setting, task)
    assert "Rules: " in whole
    assert brief == whole.partition(", a ")[0] + "."
    environment = WorldEnvironment(setting, task, prompt=brief_prompt)
    script = _Script([call_turn("search_nothing", {}, "")])
    episode = asyncio.run(run_episode(environment, script, max_turns=1))
    assert episode.messages[0] == {"role": "system", "content": brief}


def test_tasks_start_from_the_pasts_that_are_named(setting, tasks):
    assert {task.past for task in tasks} == {1, 2}
    again = TaskMaker(setting, seed=3, difficulty="shallow", pasts=[1, 2])
    assert next(again) == tasks[0]
    with pytest.raises(ValueError, match="pasts must hold one seed"):
        TaskMaker(setting, seed=3, pasts=[])


def test_no_task_is_made_whose_own_answer_does_not_tell():
    tell = Tell(what="left of fine", kind="money", value="20.00")
    goal = Goal(changed={}, made=(), events=(), touched=(), told=(tell,))
    for between, is_told in (("of", True), ("over", False)):
        fine = f"fine {between} 20.00"
        heard = f"Tell me what is left of my {fine}."
        assert tells(goal, f"What is left of your {fine}: 20.00.", heard) is is_told
    answer = "The price of your ticket for The Inventor: 20.00."
    assert not tells(goal, answer, "Tell me the price.")
    assert tells(goal, answer, "Tell me the price.", ["The Inventor"])
    setting = load_setting("library")
    maker = TaskMaker(setting, seed=11, difficulty="shallow", pasts=[0])
    for task in (next(maker) for _ in range(60)):
        assert play(WorldEnvironment(setting, task), golden_acts(task)).passed, task.answer


def test_a_draft_whose_answer_does_not_tell_is_thrown_away(setting, monkeypatch):
    maker = TaskMaker(setting, seed=3, difficulty="shallow", pasts=[1])
    monkeypatch.setattr(_make, "tells", lambda goal, answer, heard, names: not goal.told)
    assert not any(next(maker).goal.told for _ in range(20))
    assert maker.num_failed > 0

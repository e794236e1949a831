"""A person with several wishes says one after the other; who does not hear all of them fails."""

import asyncio
import dataclasses
import re
from random import Random

import pytest
from longcat_envs._person import MAX_IDLE, Person
from longcat_envs.attacks import CARELESS, Say, golden_acts, play, run_agents
from longcat_envs.attacks._chains import wrong_chains
from longcat_envs.attacks._script import hearing_acts, lines_of, part_acts
from longcat_envs.history import load_setting
from longcat_envs.tasks import REFUSE, TaskMaker, WorldEnvironment, WorldTask
from longcat_envs.tasks._goal import HEARD
from longcat_envs.teaching import demonstrate

FIRST, SECOND, THIRD = "I am Ann. Cancel my stay.", "Next, move my visit.", "And change my number."


def ann(**more):
    return Person(FIRST, "The day is Friday.", topics=("day",), later=(SECOND, THIRD), **more)


@pytest.fixture(scope="module", params=["bank", "hotel:zh"])
def setting(request):
    name, _, code = request.param.partition(":")
    return load_setting(name, code or "en")


@pytest.fixture(scope="module")
def tasks(setting):
    maker = TaskMaker(setting, seed=51, pasts=range(2))
    return [next(maker) for _ in range(6)]


@pytest.mark.parametrize(
    "said",
    ["Your stay is cancelled.", "That is done. Is there anything else?", "I cannot do that.",
     "What would you like me to do next?", "Done. Your next request, please?", "办好了。还有什么要办的吗？",
     "It is cancelled. Have a nice day!"],
)  # fmt: skip
def test_the_next_wish_is_brought_up_when_the_last_is_settled(said):
    person = ann()
    assert [person.answer(said) for _ in range(3)] == [SECOND, THIRD, None]
    assert person.num_unsaid == 0


@pytest.mark.parametrize("said", ["Done. Goodbye!", "I close this chat now.", "办好了，再见！"])
def test_a_person_to_whom_one_says_goodbye_is_gone(said):
    person = ann()
    assert person.answer(said) is None
    assert person.num_unsaid == 2
    assert ann().answer(said + " Or is there anything else?") == SECOND


def test_what_is_repeated_is_the_last_wish_and_questions_bring_up_no_other():
    person = ann(open_wish=1, change="Wait, the day is Monday.")
    assert person.answer("What is the weather like?") == f"As I said: {FIRST}"
    assert person.answer("Shall I go on?") == "Yes, please."  # no change of what was not asked for
    assert person.answer("Which day do you mean?") == f"As I said: {FIRST}"
    assert not person.was_asked
    assert person.answer("It is cancelled.") == SECOND
    assert person.answer("What is the weather like?") == f"As I said: {SECOND}"
    assert person.answer("Which day do you mean, and shall I go on?") == "The day is Friday."
    assert person.answer("One moment, please.") == "All right."
    assert person.answer("Shall I go on, then?") == "Wait, the day is Monday."
    assert person.num_unsaid == 1


def test_a_person_gives_up_on_who_brings_nothing_forward():
    person = ann()
    said = [person.answer("What is the weather like?") for _ in range(MAX_IDLE + 1)]
    assert said == [f"As I said: {FIRST}"] * MAX_IDLE + [None]


def test_who_repeats_what_is_wished_for_is_not_taken_to_ask():
    assert Person("I am Ann.", "", later=("Could you cancel it?",)).answer(
        "I am Ann."
    ) == "Could you cancel it?"  # fmt: skip
    person = Person("I am Ann.", "", later=("Could you cancel it?",))
    person.answer("Done.")
    assert person.answer("You asked: Could you cancel it? That is done.") is None


def test_deep_tasks_are_said_one_by_one_and_shallow_ones_at_once(setting, tasks):
    for task in tasks:
        assert task.later
        assert len(task.parts) == len(task.wishes)
        assert all(task.parts)
        assert sum(task.parts, ()) == task.golden
        assert 0 <= task.open_wish < len(task.wishes)
    shallow = TaskMaker(setting, seed=51, difficulty="shallow", pasts=range(2))
    for task in (next(shallow) for _ in range(10)):
        assert not task.later
        assert task.parts == (task.golden,)
        assert HEARD not in play(WorldEnvironment(setting, task), golden_acts(task)).parts
        assert not hearing_acts(task)


def test_wishes_are_brought_up_in_their_order_and_all_of_them(setting, tasks):
    for task in tasks:
        environment = WorldEnvironment(setting, task)
        environment.start()
        heard = [task.opening]
        for act in golden_acts(task):
            if isinstance(act, Say):
                heard.append(environment.hear(act.text))
            else:
                call = {"function": {"name": act.tool, "arguments": act.arguments}}
                assert not environment.call_now(call).is_error
        extra = {task.withheld, task.change, None}
        assert tuple(text for text in heard if text not in extra) == task.wishes
        assert heard[-1] is None
        score = environment.score_now()
        assert (score.total, score.parts[HEARD]) == (1.0, 1.0)


def test_no_wish_is_asked_for_before_it_is_brought_up(setting, tasks):
    """The golden steps for a wish use nothing that the person says later."""
    for task in tasks:
        for number, wish in enumerate(task.wishes):
            later = " ".join(task.wishes[number + 1 :])
            texts = {str(v) for step in task.parts[number] for v in step.arguments.values()
                     if isinstance(v, str) and "@" in v}  # fmt: skip
            said = f"{wish} {task.withheld} {task.change} {' '.join(task.wishes[:number])}"
            assert all(text in said for text in texts if text in later)


def test_who_leaves_early_fails_even_if_all_is_done(setting, tasks):
    for task in tasks:
        environment = WorldEnvironment(setting, task)
        bye = Say(task.answer + lines_of(task).bye)
        assert not play(environment, [*part_acts(task, 0)[:-1], bye]).passed
        done = play(environment, [*task.golden, bye])
        assert not done.passed
        assert done.outcome.num_unsaid == len(task.later)
        assert done.parts[HEARD] == 0.0
        names = [name for name, _ in wrong_chains(setting, task, Random(0))]
        assert names.count("left early") == len(task.later)
        assert "all done, not all heard" in names
        tried = dict(run_agents(setting, task, {"leave": CARELESS["leave"]}))
        assert not tried["leave"].passed


def test_one_may_hear_everything_first(setting, tasks):
    for task in tasks:
        environment = WorldEnvironment(setting, task)
        environment.start()
        said = tuple(environment.hear(act.text) for act in hearing_acts(task))
        assert (task.opening, *said) == task.wishes


def test_a_number_said_before_it_was_asked_for_is_no_answer_and_hides_none(setting):
    maker = TaskMaker(setting, seed=52, pasts=range(2))
    task = next(t for t in maker if t.goal.told and t.goal.told[0].kind == "money")
    environment = WorldEnvironment(setting, task)
    acts = golden_acts(task)
    place = next(n for n, act in enumerate(acts) if isinstance(act, Say) and act.text not in
                 (lines_of(task).ask, lines_of(task).confirm))  # fmt: skip
    numbered = Say(acts[place].text + " 43210.55")
    assert play(environment, [*acts[:place], numbered, *acts[place + 1 :]]).passed
    assert not play(environment, [*acts[:-1], Say(lines_of(task).done)]).passed
    closing = Say(f"{acts[-1].text} 43210.55")
    assert not play(environment, [*acts[:-1], closing]).passed


def test_the_same_seed_gives_the_same_talk(setting, tasks):
    again = TaskMaker(setting, seed=51, pasts=range(2))
    assert [next(again) for _ in range(2)] == tasks[:2]
    for task in tasks[:2]:
        assert WorldTask.from_json(task.to_json()) == task
        demos = [asyncio.run(demonstrate(WorldEnvironment(setting, task), rng=Random(3)))
                 for _ in range(2)]  # fmt: skip
        assert demos[0].messages == demos[1].messages
        said = [m["content"] for m in demos[0].messages if m["role"] == "user"]
        assert [text for text in said if text in task.wishes] == list(task.wishes)


def test_a_refused_wish_does_not_keep_the_next_from_being_said(setting):
    maker = TaskMaker(setting, seed=58, pasts=range(2))
    task = next(t for t in maker if "refusal" in t.tags and "question" in t.tags)
    refused = next(n for n, part in enumerate(task.parts) if part[-1].tool == REFUSE)
    assert refused == len(task.wishes) - 2
    assert lines_of(task).cannot in part_acts(task, refused)[-1].text
    assert play(WorldEnvironment(setting, task), golden_acts(task)).passed
    earlier = dataclasses.replace(task, later=task.later[:-1])
    assert not play(WorldEnvironment(setting, earlier), golden_acts(task)).passed


def test_a_statement_is_no_order_after_a_rule():
    """Not `so first I cannot find the book any more, so note it as lost`."""
    maker = TaskMaker(load_setting("library"), seed=2601, pasts=range(2))
    texts = [
        text for task in (next(maker) for _ in range(40))
        for text in (task.opening, *(one.text for one in task.later))
    ]  # fmt: skip
    assert not [
        text for text in texts if re.search(r"so (?:first|before that) I (?!would|need)", text)
    ]
    assert any(re.search(r"(?:think|know|guess) [^.]*\. I ", text) for text in texts)
    assert any(re.search(r"so (?:first|before that) ", text) for text in texts)

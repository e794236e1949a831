"""Ids of records: how many digits they have, and that a task is played in a world of its own."""

import re
from dataclasses import replace

import pytest
from longcat_envs.attacks import audit_task, word_faults
from longcat_envs.history import load_setting
from longcat_envs.tasks import TaskMaker, WorldEnvironment, WorldTask
from longcat_envs.world import Store, empty_base


@pytest.mark.parametrize("digits", [2, 3, 5])
def test_ids_have_so_many_digits_until_there_are_no_more_numbers(digits):
    setting = load_setting("bank")
    store = Store(setting.spec, empty_base(setting.spec, 739_621, digits))
    store.begin()
    ids = [store.insert("branch", {"name": str(n)} | dict.fromkeys(
        [*setting.spec.classes["branch"].fields, "state"])) for n in range(1_000)]  # fmt: skip
    assert len(set(ids)) == len(ids)
    lengths = [len(re.sub(r"\D", "", one)) for one in ids]
    first = 9 * 10 ** (digits - 1)
    assert set(lengths[:first]) == {digits}
    assert set(lengths[first:]) <= {digits + 1, digits + 2}


def test_short_ids_change_no_world_and_no_check():
    plain, short = load_setting("library"), load_setting("library", id_digits=3)
    assert plain != short
    one, other = plain.past(0).base, short.past(0).base
    assert one is not other
    assert all(re.fullmatch(r"[A-Z]{2,6}\d{3}", i) for ids in other.order.values() for i in ids)
    assert {of: len(ids) for of, ids in other.order.items()} == {
        of: len(ids) for of, ids in one.order.items()
    }
    for difficulty in ("shallow", "deep"):
        maker = TaskMaker(short, seed=5, difficulty=difficulty, pasts=[0])
        for _ in range(2):
            assert audit_task(short, next(maker)).faults == []


def test_nobody_is_heard_to_say_an_id():
    setting = load_setting("library", id_digits=3)
    task = next(TaskMaker(setting, seed=5, difficulty="shallow", pasts=[0]))
    identifier = setting.past(0).base.order["copy"][0]
    told = replace(
        task, opening=f"{task.opening} It is {identifier}.",
        golden=(replace(task.golden[0], tool="get_copy", arguments={"copy_id": identifier}), *task.golden),
    )  # fmt: skip
    assert f"nobody says or yields copy_id {identifier!r} of get_copy" in list(
        word_faults(setting, told, WorldEnvironment(setting, told))
    )


async def test_a_task_is_played_in_a_world_that_has_its_person():
    setting = load_setting("library")
    task = next(TaskMaker(setting, seed=5, difficulty="shallow", pasts=[0]))
    with pytest.raises(ValueError, match="must be of a person of its world, is of 'RDR1'"):
        await WorldEnvironment(setting, replace(task, person="RDR1")).reset()


@pytest.mark.parametrize("digits", [1, 9, True])
def test_digits_are_two_to_eight(digits):
    with pytest.raises(ValueError, match="id_digits must be 2 to 8"):
        load_setting("library", id_digits=digits)


def test_a_task_is_not_played_where_ids_have_other_digits():
    short = load_setting("bank", id_digits=3)
    task = next(TaskMaker(short, seed=1, difficulty="shallow", pasts=[0]))
    assert task.id_digits == 3
    assert WorldTask.from_json(task.to_json()) == task
    with pytest.raises(ValueError, match="must have ids of 5 digits as its world has, its own"):
        WorldEnvironment(load_setting("bank"), task)

"""Every domain that ships: what it must have, and a sample of its tasks under attack."""

import re
from itertools import permutations
from random import Random

import pytest
from longcat_envs._told import numbers, told
from longcat_envs.attacks import audit_task
from longcat_envs.figures import check_figures, held_out
from longcat_envs.history import Caller, languages, load_setting
from longcat_envs.tasks import TaskMaker
from longcat_envs.world import CallRefused, LiveWorld, builtin_worlds

FIRST = ("bank", "hotel", "hr")
"""The three that other tests look at closely."""

OTHERS = tuple(name for name in builtin_worlds() if name not in FIRST)


@pytest.mark.parametrize("name", builtin_worlds())
def test_a_domain_is_large_alive_and_true(name):
    figures = check_figures(load_setting(name))
    assert figures["tools"] >= 60
    assert figures["reader_share"] <= 0.45
    assert len(figures["parts"]) >= 6
    assert figures["dead_tools"] == []
    assert figures["violations"] == figures["violations_by_sql"] == 0
    assert figures["tools_people_ask_for"] >= 20
    assert figures["texts_without_words"] == []


@pytest.mark.parametrize("name", OTHERS)
def test_a_tenth_of_random_wishes_is_refused(name):
    setting = load_setting(name)
    base, rng = setting.past(0).base, Random(1)
    world = LiveWorld(setting.machine, base)
    caller, people = Caller(world, setting.words, rng), base.order[setting.spec.person]
    done = refused = 0
    for _ in range(200):
        world.reset()
        tool = setting.machine.tools[rng.choice(sorted(setting.words.asks))]
        arguments = caller.draw(tool, rng.choice(people))
        if arguments is None:
            continue
        try:
            world.call(tool.name, arguments)
            done += 1
        except CallRefused:
            refused += 1
    assert done > 20
    assert refused >= 0.1 * (done + refused)


@pytest.mark.parametrize("name", OTHERS)
def test_the_audit_finds_nothing_in_a_task(name):
    _audit(name, seed=21, deep=1, shallow=1, pasts=[0])


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERS)
def test_the_audit_finds_nothing_in_many_tasks(name):
    _audit(name, seed=22, deep=20, shallow=10, pasts=None)


def _audit(name, *, seed, deep, shallow, pasts):
    for difficulty, number in (("deep", deep), ("shallow", shallow)):
        maker = TaskMaker(load_setting(name), seed=seed, difficulty=difficulty, pasts=pasts)
        for _ in range(number):
            task = next(maker)
            assert audit_task(load_setting(name), task).faults == [], task.opening


def test_no_two_domains_share_more_than_six_tenths_of_their_shapes():
    shapes = {
        name: [t.action.shape for t in load_setting(name).machine.tools.values() if t.is_writer]
        for name in builtin_worlds()
    }
    for one, other in permutations(shapes, 2):
        known = set(shapes[other])
        assert sum(shape in known for shape in shapes[one]) <= 0.6 * len(shapes[one]), (one, other)


def test_every_figure_of_every_domain_can_be_told():
    for name in builtin_worlds():
        for language in languages(name):
            figures = load_setting(name, language).words.figures.values()
            for figure in [one for options in figures for one in options]:
                said = f"{re.sub(r'[{][^}]*[}]', 'this one', figure)}: 12.00."
                assert told(said, {"12.00"}, numbers(places=2), {"12.00"})["12.00"], said


def test_held_out_domains_are_domains():
    assert 0 < len(held_out() & set(builtin_worlds())) <= 5

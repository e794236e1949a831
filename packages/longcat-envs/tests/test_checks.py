"""Generated tests of tools, and the damages that they notice."""

import ast
import json
import random

import pytest
from longcat_envs.checks import (
    Finder,
    Reference,
    check_tools,
    damage_figures,
    damages,
    fault,
    noticed,
    written,
)  # fmt: skip
from longcat_envs.checks._damage import Damage
from longcat_envs.commands import main
from longcat_envs.history import Caller, load_setting
from longcat_envs.lang import read_spec
from longcat_envs.world import CallRefused, LiveWorld, Machine, builtin_worlds
from longcat_envs.world.parts import PARTS


@pytest.fixture(scope="module")
def hotel():
    return load_setting("hotel")


@pytest.mark.parametrize("name", builtin_worlds())
def test_tools_do_what_a_second_reading_says(name):
    """A sample of each domain's tools; the whole of them is a `long` test."""
    setting = load_setting(name)
    names = random.Random(name).sample(sorted(setting.machine.tools), 4)
    reports = check_tools(setting, names=names, num_pasts=1)
    assert [(r.tool, r.faults) for r in reports if r.faults] == []
    assert sum(r.num_tests for r in reports) > 10
    assert sum(r.is_done for r in reports) >= 3


@pytest.mark.long
@pytest.mark.parametrize("name", builtin_worlds())
def test_every_tool_does_what_a_second_reading_says(name):
    reports = check_tools(load_setting(name))
    assert [(r.tool, r.faults) for r in reports if r.faults] == []
    assert sum(r.is_done for r in reports) >= len(reports) - 3
    assert sum(r.refused for r in reports) >= 0.8 * sum(r.guards for r in reports)


def test_the_second_reading_agrees_on_random_calls(hotel):
    """Sensible calls one after the other, so that worlds far from the start are read too."""
    world, rng, num_done = LiveWorld(hotel.machine, hotel.past(0).base), random.Random(2), 0
    caller, reference = Caller(world, hotel.words, rng), Reference(hotel.spec)
    writers = [tool for tool in hotel.machine.tools.values() if tool.is_writer]
    for _ in range(60):
        tool = rng.choice(writers)
        arguments = caller.draw(tool, rng.choice(world.store.ids("guest")))
        if arguments is None:
            continue
        expected = reference.call(world.store, tool, world.arguments(tool, arguments))
        reasons = {""}
        try:
            world.call(tool.name, arguments)
        except CallRefused as refused:
            reasons = {str(refused)}
        else:
            num_done += 1
            assert len({(c.of, c.id) for c in world.changes}) == len(expected.rows)
        assert reasons <= (expected.reasons or {""}), (tool.name, arguments)
    assert num_done > 5


DAMAGES = [
    ("reference", "booking.folio.pay(amount)", "booking.folio.charge(amount)", "compensate_complaint"),
    ("reference", "to.rate <= rate", "room.rate <= rate", "change_room_booking"),
    ("guard", 'assert folio.guest == guest, "a stay goes on the guest\'s own folio"', "pass",
     "create_booking"),
    ("guard", 'assert to.state != out_of_order, "a room out of order is not given away"', "pass",
     "change_room_booking"),
    ("effect", "discount = amount", "discount = amount + amount", "set_booking_discount"),
    ("effect", "first(stay) <= today", "first(stay) >= today", "check_in_booking"),
    ("effect", "_vacate = occupied > dirty", "_vacate = occupied > clean", "check_out_booking"),
    ("effect", "folio.charge(total)", "pass", "place_room_order"),
    ("effect", "handler = who", "handler = none", "take_up_complaint"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "old", "new", "tool"), DAMAGES)
def test_a_damage_of_each_kind_is_noticed_by_what_calls_do(hotel, kind, old, new, tool):
    text = hotel.spec.source
    if old not in text:  # written by a part: put the damage into the part's text
        parts = {**PARTS, "approval": lambda *a: PARTS["approval"](*a).replace(old, new)}
        spec = read_spec(text, name="hotel", parts=parts)
    else:
        spec = read_spec(text.replace(old, new, 1), name="hotel", parts=PARTS)
    tests = list(written(hotel, tools=[hotel.machine.tools[tool]]))
    assert [f for test in tests if (f := fault(hotel, hotel.machine, test))] == []
    assert [f for test in tests if (f := fault(hotel, Machine(spec), test))]


def test_damages_are_many_kinds_and_a_sound_text_is_not_noticed(hotel):
    found = damages(hotel.spec.source, 30)
    assert len({damage.text for damage in found}) == 30
    assert {damage.kind for damage in found} == {"reference", "guard", "effect"}
    tests = list(written(hotel, tools=[hotel.machine.tools["cancel_booking"]]))
    same = Damage("effect", "nothing", ast.unparse(ast.parse(hotel.spec.source)))
    assert noticed(hotel, same, tests) == ""
    mistyped = Damage("effect", "a word", hotel.spec.source.replace("folio.charge", "folio.chrge"))
    assert noticed(hotel, mistyped, tests) == "reading"


def test_cases_are_the_same_for_the_same_seed(hotel):
    tool = hotel.machine.tools["cancel_booking"]
    assert Finder(hotel).cases(tool) == Finder(hotel).cases(tool)
    outcomes = {case.outcome for case in Finder(hotel).cases(tool)}
    assert "" in outcomes
    assert "the booking must be held or confirmed" in outcomes


@pytest.mark.long
@pytest.mark.parametrize("name", ["bank", "hotel", "hr"])
def test_most_damages_are_noticed(name):
    found = damage_figures(load_setting(name), number=60)
    assert found["summary"]["share_noticed"] >= 0.85


CLUB = """
class member(person):
    name: unique(text)
    owed: money = 0
    fixed(owed)
    states(active, gone)
    leave = active > gone
    come_back = gone > active

    def charge(amount: money):
        assert state == active, "a member who has gone is not charged"
        assert amount > 0, "an amount is above zero"
        owed = owed + amount

    def forgive():
        assert owed > 0, "there is something to be forgiven"
        owed = 0
"""


def test_the_command_prints_tests_and_damages(capsys, tmp_path):
    path = tmp_path / "club.world"
    path.write_text(CLUB)
    assert main(["check", str(path), "--tools", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert (summary["faults"], summary["tools"]) == (0, 7)
    assert summary["tools_that_acted"] == summary["tools"]
    assert summary["guards_that_refused"] == summary["guards"] > 3
    assert main(["check", str(path), "--damage", "9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["damages"] == 9
    assert found["summary"]["noticed"] + len(found["rows"]) == 9
    assert found["summary"]["share_noticed"] > 0.6

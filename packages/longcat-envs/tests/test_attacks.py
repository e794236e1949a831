"""Small parts of the attacks and of what judges them, without a world."""

from types import SimpleNamespace

import pytest
from longcat_envs._person import own_words, without_own_words
from longcat_envs.attacks._words import _says, _stray
from longcat_envs.lang import Type, read_spec
from longcat_envs.tasks import Goal, Outcome, judge, other_values
from longcat_envs.tasks._goal import Tell, _Labels


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("money", ["0.00", "0.01", "0.50", "0.51", "12.00"]),
        ("int", [0, 1, 7]),
        ("text", ["x", ""]),
        ("flag", [True, False]),
    ],
)
def test_another_value_is_never_the_same_one(kind, values):
    for value in values:
        others = other_values(Type(kind), value)
        assert others
        assert value not in others
        assert all(float(other) >= 0 for other in others if kind in ("money", "int"))


def test_a_withheld_text_may_hold_the_words_around_it():
    form = "The {} is {}."
    line = "The wording is The garden is shared."
    for value, is_said in (("The garden is shared", True), ("shared", True), ("The garden", False)):
        assert _says(form, value, line) is is_said
    assert not _says(form, "a+b", "The sum is aab.") or _says(form, r"a\+b", "The sum is a+b.")
    assert not _says(form, ".+", "It is known.")
    assert _says("{}是{}。", "425元", "金额是425元。")


@pytest.mark.parametrize(
    ("mistaken", "heard", "stray"),
    [
        ("425.50", "Take 425.50 from me.", []),
        ("take 425 of it", "Take 425 from me.", []),
        ("", "Take 425 from me.", ["425.00"]),
        ("425.50", "Take 425.51 from me.", ["425.51"]),
        ("2026-03-05", "Move it to 2026-03-05.", []),
        ("2026-03-06", "Move it to 5 March.", ["2026-03-05"]),
    ],
)
def test_numbers_that_are_said_are_of_use_or_changed_later(mistaken, heard, stray):
    task = SimpleNamespace(golden=(), forbidden=(), mistaken=mistaken)
    found = list(_stray(task, heard, "2026"))
    assert found == ([f"numbers are said that nothing needs: {stray}"] if stray else [])


def told(said, heard, value="21.00"):
    goal = Goal(changed={}, made=(), events=(), touched=(), told=(
        Tell(what="due", kind="money", value=value),
    ))  # fmt: skip
    reached = Outcome(
        {}, (), (), frozenset(), said=said, seen_numbers=frozenset({value}), heard=heard
    )
    return judge(goal, reached, withholds=False)[f"tells due: {value}"] == 1.0


OPENING = "Hi. It would be great if you could query my invoice of 21.00! What do I owe?"


@pytest.mark.parametrize(
    ("said", "is_told"),
    [
        ("You owe 21.00.", True),
        (f"You asked: {OPENING} You owe 21.00.", True),
        (f"{OPENING}\n- Owed: 21.00", True),
        (f"You asked: {OPENING.replace('?', '.').replace('!', '.')} You owe 21.00.", True),
        (OPENING, False),  # the person's own words tell nothing
        (f"You asked: {OPENING} You do not owe 21.00.", False),
        ("It would be great if you owed 21.00! You owe 21.00.", False),
        (f"These are wrong:\n- {OPENING}\n- You owe 21.00.", False),
    ],
)
def test_what_the_person_said_is_no_claim_of_the_agent_that_repeats_it(said, is_told):
    assert told(said, OPENING) is is_told


@pytest.mark.parametrize(
    ("kind", "value", "other", "heard"),
    [
        ("money", "21.00", "30.00", "I have paid 30.00 so far."),
        ("int", "4", "7", "I booked 7 nights."),
        ("date", "2026-03-05", "2026-03-09", "I come on 9 March."),
    ],
)
def test_a_value_of_which_the_person_spoke_is_no_other_answer(kind, value, other, heard):
    goal = Goal(changed={}, made=(), events=(), touched=(), told=(
        Tell(what="it", kind=kind, value=value),
    ))  # fmt: skip
    for words, is_told in ((heard, True), ("Tell me.", False)):
        seen = frozenset({value})
        reached = Outcome({}, (), (), frozenset(), said=f"After {other} it is {value}.",
                          seen=seen, seen_numbers=seen, heard=words)  # fmt: skip
        assert (judge(goal, reached, withholds=False)[f"tells it: {value}"] == 1.0) is is_told


def test_own_words_leave_the_rest_of_a_message_as_it_is():
    own = own_words("I am Ann. Cancel it!")
    text = "You said: I am Ann.  Well:\n- done.\n\nCancel it. Cancel it now."
    assert without_own_words(text, own) == "You said:   Well:\n- done.\n\nCancel it now."
    assert (
        without_own_words("我是王芳。余额是3元。", own_words("我是王芳。取消。")) == "余额是3元。"
    )
    assert without_own_words("", own) == ""
    own = own_words("Could you draft terms: all is covered? Pay.")
    said = "Could you draft terms: all is covered."
    assert without_own_words(f"You asked: {said} Pay. So.", own) == "You asked:  So."
    assert without_own_words(f"{said} So.", own) == "So."
    assert without_own_words("All is covered. Wrong: all is covered. So.", own) == "Wrong:  So."


INN = """
class guest(person):
    name: unique(text)

class bill:
    owner(guest)
    guest: guest
    kind: enum(a, b)

class stay:
    owner(guest)
    guest: guest
    bill: optional(bill)
"""


def test_new_records_are_compared_by_what_they_hold_and_refer_to():
    spec = read_spec(INN, name="inn", parts={})

    def digest(bill, stay, kind, other=None):
        new = {
            bill: ("bill", {"guest": "GS1", "kind": kind}),
            stay: ("stay", {"guest": "GS1", "bill": other or bill}),
        }
        return _Labels(spec, new).of(stay)

    assert digest("BL1", "ST2", "a") == digest("BL9", "ST1", "a")  # made in another order
    assert digest("BL1", "ST2", "a") != digest("BL1", "ST2", "b")  # on another bill
    assert digest("BL1", "ST2", "a", "BL7") == digest("BL3", "ST2", "b", "BL7")
    assert digest("BL1", "ST2", "a", "BL7") != digest("BL1", "ST2", "a", "BL8")
    assert _Labels(spec, {"ST1": ("stay", {"guest": "GS1", "bill": None})}).of("ST1") != "ST1"

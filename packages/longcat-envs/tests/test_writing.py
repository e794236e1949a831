"""Domains written by a model: what is told to it, when it is accepted, and when rejected."""

import json

import pytest
from longcat_envs.checks import Damage
from longcat_envs.commands import main
from longcat_envs.testing import FakeServer
from longcat_envs.writing import Bar, problems, repair_domain, repair_figures, write_domain

WORLD = '''"""A club with rooms."""


class member(person):
    name: unique(text)
    phone: text
    states(active, gone)
    leave = active > gone
    come_back = gone > active
    inside(leave, come_back)


class room:
    number: unique(int)
    rate: money


class stay:
    owner(member)
    member: member
    room: room
    beds: int
    rate: money = agreed(room.rate)
    states(held, begun, cancelled)
    begin = held > begun
    inside(begin)

    def create():
        assert member.state == active, "a member who has gone books nothing"
        assert beds >= 1 and beds <= 4, "a room has one to four beds"

    def cancel():
        held > cancelled

    def move(to: room):
        assert state == held, "only what is held is moved"
        assert to != room, "that is the room already"
        room = to
'''
WORDS = """title: the desk of a club
number member: 12
number room: 12
number stay: 30
value member.name: person
value member.phone: phone
value room.number: 1..60
value room.rate: 20..90 by 10
value stay.beds: 1..4
noun member: me
noun room: room {number}
noun stay: my stay in {room}
ask set_member_phone: change my phone number to {value} | my new phone number is {value}
ask create_stay: book {room} for me with {beds} beds
ask cancel_stay: cancel {self} | call off {self}
ask move_stay: move {self} to {to}
figure stay.rate: the rate of {self}
"""
LOW = Bar(min_tools=12, min_parts=2, min_asks=4, max_dead=0, num_tasks=1)


def blocks(world, words=WORDS):
    return f"Here it is.\n```world\n{world}```\nand\n```words\n{words}```\n"


class Model:
    """Gives its answers one after the other, and keeps what it was told."""

    def __init__(self, *answers):
        self.answers, self.told = list(answers), []

    def __call__(self, messages):
        self.told.append(messages[-1]["content"])
        return {"role": "assistant", "content": self.answers.pop(0)}


def test_a_sound_domain_has_no_problems():
    assert problems("club", WORLD, WORDS, LOW) == []


def place(text):
    """Where a text stands in the world, as errors say it."""
    start = WORLD.index(text)
    return f"club.world:{WORLD.count(chr(10), 0, start) + 1}:"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("held > cancelled", "held > canceled", place("held > cancelled")),
        ("beds <= 4", "beds <= 0", "the tool create_stay hardly ever succeeds: 0 times"),
        ("to != room", "to == room", "move_stay: it succeeds, and was never seen to change"),
    ],
)
def test_problems_say_what_to_mend(old, new, words):
    found = problems("club", WORLD.replace(old, new), WORDS, LOW)
    assert any(line.startswith(words) for line in found), found


def test_words_that_do_not_fit_are_a_problem():
    (found,) = problems("club", WORLD, WORDS.replace("{to}", "{too}"), LOW)
    line = WORDS[: WORDS.index("{to}")].count("\n") + 1
    assert found.startswith(f"club.words.en:{line}:1: ask move_stay: a slot must be among")


def test_what_is_too_small_is_a_problem():
    found = problems("club", WORLD, WORDS, Bar(min_tools=500, max_reader_share=0.01, min_asks=90))
    assert [line.split(" ")[0] for line in found] == ["there", "at", "at", "there"]
    with pytest.raises(ValueError, match="max_reader_share"):
        Bar(max_reader_share=0)
    with pytest.raises(ValueError, match="below zero"):
        Bar(min_tools=-1)


def test_a_domain_is_written_told_what_is_wrong_and_accepted():
    model = Model("I can do that.", blocks(WORLD.replace("to != room", "to != rom")), blocks(WORLD))
    found = write_domain(model, "club", "a club with rooms", bar=LOW)
    assert (found.is_accepted, found.rounds, found.text, found.words) == (True, 3, WORLD, WORDS)
    assert "a club with rooms" in model.told[0]
    assert "ledger" in model.told[0]
    assert "an answer holds two blocks" in model.told[1]
    assert f"{place('to != room')}22: a name must be among" in model.told[2]
    assert "did you mean 'room'?" in model.told[2]


def test_what_never_passes_is_rejected_with_what_is_wrong():
    bad = blocks(WORLD.replace("to != room", "to != rom"))
    model = Model(bad, bad, bad)
    found = write_domain(model, "club", "a club", bar=LOW, max_rounds=3)
    assert not found.is_accepted
    assert found.rounds == 3
    assert found.problems[0].startswith(place("to != room"))
    with pytest.raises(ValueError, match="max_rounds must be at least 1"):
        write_domain(model, "club", "a club", max_rounds=0)


def test_an_answer_may_mend_one_block_alone():
    wrong = WORDS.replace("{to}", "{too}")
    model = Model(blocks(WORLD, wrong), f"```words\n{WORDS}```")
    assert write_domain(model, "club", "a club", bar=LOW).is_accepted


def test_repairs_are_counted_and_a_sound_domain_is_left_alone():
    silent = Model()
    assert repair_domain(silent, "club", WORLD, WORDS, bar=LOW).rounds == 0
    assert silent.told == []
    broken = [Damage("reference", "a word", WORLD.replace("to != room", word))
              for word in ("to != rom", "to != beds")]  # fmt: skip
    found = repair_figures(lambda _: {"content": blocks(WORLD)}, "club", WORDS,
                           [broken[0], Damage("guard", "none", WORLD)], bar=LOW)  # fmt: skip
    assert found == {"damages": 2, "noticed": 1, "repaired": 1, "rejected": 0, "repair_rate": 1.0}
    found = repair_figures(lambda _: {"content": "no"}, "club", WORDS, broken, bar=LOW)
    assert (found["repaired"], found["rejected"], found["repair_rate"]) == (0, 2, 0.0)


def test_the_command_writes_what_passes_and_nothing_else(capsys, tmp_path):
    answers = [blocks(WORLD.replace("to != room", "to != rom")), blocks(WORLD, "title: x\n")]
    arguments = ["write", "club", "--description", "a club", "--rounds", "1", "--min-tools", "5",
                 "--out", str(tmp_path), "--json", "--tries", "1"]  # fmt: skip
    with FakeServer(lambda body: (200, {"content": answers.pop(0)})) as server:
        for words in (place("to != room"), "parts must be used"):
            assert main([*arguments, "--model", server.url]) == 1
            found = json.loads(capsys.readouterr().out)
            assert not found["summary"]["accepted"]
            assert any(words in row["problem"] for row in found["rows"])
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments, "--model", "http://127.0.0.1:9"]) == 2
    assert "no answer in 1 tries" in capsys.readouterr().err
    (tmp_path / "club.world").write_text("x")
    assert main([*arguments, "--model", "http://127.0.0.1:9"]) == 2
    assert "exists already" in capsys.readouterr().err

"""The language of domains: errors with places, types, and two derivations that agree."""

import random
import re
import warnings
from importlib import resources

import pytest
from longcat_envs import DomainError
from longcat_envs.history import load_setting
from longcat_envs.lang import LangError, read_spec
from longcat_envs.world import (
    Machine,
    Store,
    empty_base,
    export,
    violations_by_sql,
)  # fmt: skip
from longcat_envs.world._words import read_words
from longcat_envs.world.parts import PARTS

CORE = ("bank", "hotel", "hr")


SMALL = '''"""A club."""


class member(person):
    name: unique(text)
    level: enum(basic, gold) = basic
    states(active, gone)
    boss: optional(member) = none
    leave = active > gone


class room:
    number: unique(int)
    rate: money


class stay:
    owner(member)
    member: member
    room: room
    time: days
    price: money = agreed(room.rate)
    states(held, over)
    cost = price * nights(time)
    end = held > over
    never(nights(time) > 30, "a stay has thirty days at most")

    def move(to: room):
        assert state == held, "only a stay that is held moves"
        assert to.rate <= price, "a dearer room is not given"
        room = to


def cheap(most: money):
    return [r for r in room if r.rate <= most]
'''


def read(text):
    return read_spec(text, name="club", parts=PARTS, file="club.world")


def test_a_small_domain_reads_as_it_is_written():
    spec = read(SMALL)
    assert list(spec.classes) == ["member", "room", "stay"]
    assert spec.classes["stay"].owner == ("member",)
    assert spec.classes["stay"].ends == {"over"}
    assert {"leave_member", "create_stay", "move_stay", "set_room_rate", "end_stay"} <= set(
        spec.actions
    )
    move = spec.actions["move_stay"]
    assert move.contract.writes == {"stay.room"}
    assert move.contract.reads == {"stay.state", "room.rate", "stay.price"}
    assert [g.reason for g in move.guards] == [
        "only a stay that is held moves",
        "a dearer room is not given",
    ]
    assert spec.actions["end_stay"].sources == ("held",)
    assert "price" not in [name for name, _ in spec.actions["create_stay"].parameters]


BREAKS = [
    ("leave = active > gone", "leave = activ > gone", 9, "state of member", "active"),
    ("leave = active > gone", "leave = active | activ > gone", 9, "state of member", "active"),
    ("room: room\n", "room: rooom\n", 20, "a type or class", "room"),
    ("to.rate <= price", "to.rat <= price", 30, "a field of room", "rate"),
    ("to.rate <= price", "to.rate <= 1 + price + time", 30, "has no meaning", ""),
    ("to.rate <= price", "to.rate <= nights(time)", 30, "never the same", ""),
    ("to.rate <= price", "to.rate <= pric", 30, "a name", "price"),
    ("to.rate <= price", "[1][0] == 2", 30, "not part of the language", ""),
    ("to.rate <= price", "__import__('os')", 30, "a function", ""),
    ("to.rate <= price", "(lambda: 1)()", 30, "only the functions of the language", ""),
    ("to.rate <= price", "1 < 2 < 3", 30, "two sides", ""),
    ("to.rate <= price", "level == gold", 30, "a name", ""),
    ("to.rate <= price", "price / 0 == price", 30, "a divisor", ""),
    ("        room = to", "        room = member", 31, "expected room, got member", ""),
    ("        room = to", "        rooom = to", 31, "a stored field of stay", "room"),
    ("        room = to", "        while True: pass", 31, "not a statement", ""),
    ("        room = to", "        import os", 31, "not a statement", ""),
    ("        room = to", "        pass", 28, "changes nothing", ""),
    ('"a dearer room is not given"', "None", 30, "a guard has a reason", ""),
    ('"a stay has thirty days at most"', "3", 26, "never(condition", ""),
    ("nights(time) > 30", "first(time) > today", 26, "does not depend on today", ""),
    ("nights(time) > 30", "exists(r for r in room if r.rate == price)", 26, "cannot tell which", ""),
    ("nights(time) > 30", "room", 26, "expected flag, got room", ""),
    ("owner(member)", "owner(room)", 18, "the owner of a record is a person", ""),
    ("owner(member)", "owner(membr)", 18, "a name", "member"),
    ("class member(person):", "class member:", 18, "the owner of a record is a person", ""),
    ("class member(person):", "class member(persn):", 4, "in parentheses", "person"),
    ("class room:", "class member:", 12, "twice", ""),
    ("    rate: money", "    rate: money\n    rate: int", 15, "twice", ""),
    ("    rate: money", "    state: money", 14, "not a name for a field", ""),
    ("    rate: money", "    rate: monney", 14, "a type or class", "money"),
    ("    rate: money", "    rate: enum(one)", 14, "a type is", ""),
    ("    rate: money", "    rate: optional(optional(int))", 14, "not a type", ""),
    ("    rate: money", "    rate: money = 1 / 3", 14, "", ""),
    ("    rate: money", "    rate: money\n    lodger(rate)", 15, "a part or statement", "ledger"),
    ("    rate: money", "    rate: money\n    ledger(into=3 +)", 15, "syntax", ""),
    ("    rate: money", "    rate: money\n    ledger(nothing=3)", 15, "ledger: takes", ""),
    ("    rate: money", "    rate: money\n    calendar(a)", 15, "calendar: needs", ""),
    ("    rate: money", "    rate: money\n    a = b\n    b = a", 16, "derived from itself", ""),
    ("states(held, over)", "states(held, over, lost)", 17, "nothing leads to the state 'lost'", ""),
    ("states(held, over)", "states(held, held)", 23, "twice", ""),
    ("    end = held > over", "    end = held > over\n    end = held > over", 26, "twice", ""),
    ("return [r for r in room if r.rate <= most]", "return most", 34, "a reader returns", ""),
    ("for r in room if", "for r in roooom if", 35, "a class", "room"),
    ("def cheap(most: money):", "def cheap(most):", 34, "has a type", ""),
    ("def cheap(most: money):", "def cheap(*most):", 34, "without defaults and stars", ""),
    ("def cheap(most: money):", "x = 3\n\n\ndef cheap(most: money):", 34, "classes and readers", ""),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["error", "default", "ignore"])
@pytest.mark.parametrize(
    "new", ["to.rate <= 3days", "to.rate <= 1if true else 2", "to.rate == '\\d'"]
)
def test_what_python_only_warns_of_is_an_error_with_a_place(new, mode, recwarn):
    with warnings.catch_warnings():
        warnings.simplefilter(mode)
        with pytest.raises(LangError) as caught:
            read(SMALL.replace("to.rate <= price", new))
    assert caught.value.line >= 30
    assert list(recwarn) == []


@pytest.mark.parametrize(("old", "new", "line", "words", "nearest"), BREAKS)
def test_an_error_says_where_which_rule_and_the_nearest_name(old, new, line, words, nearest):
    assert SMALL.count(old) >= 1
    with pytest.raises(LangError) as caught:
        read(SMALL.replace(old, new, 1))
    error = caught.value
    assert re.match(r"club\.world:\d+:\d+: .", str(error))
    assert words in error.rule
    assert error.line == line, str(error)
    assert error.nearest == nearest


def test_deep_nesting_and_long_files_are_errors_and_no_crash():
    for text in ("(" * 5_000, "x" * 200_000, "\0", "class a:\n" + " x = " + "-" * 20_000 + "1",
                 SMALL.replace("to.rate <= price", "not " * 3_000 + "true"),
                 SMALL.replace("to.rate <= price", "+".join(["price"] * 3_000) + " == price")):  # fmt: skip
        with pytest.raises(LangError):
            read(text)


def damaged(text, rng):
    """Damage a text in one place: a word changed, dropped or doubled, a line lost or moved."""
    words = list(re.finditer(r"\w+|[^\w\s]", text))
    word, kind = rng.choice(words), rng.randrange(5)
    other = rng.choice(words)[0]
    if kind == 4:
        lines = text.splitlines(keepends=True)
        lines.insert(rng.randrange(len(lines)), lines.pop(rng.randrange(len(lines))))
        return "".join(lines)
    new = {0: "", 1: other, 2: word[0] * 2, 3: word[0][:-1] + "q"}[kind]
    return text[: word.start()] + new + text[word.end() :]


@pytest.mark.parametrize("name", CORE)
def test_damaged_files_are_read_or_refused_with_a_place_and_nothing_else(name):
    text, rng = load_setting(name).spec.source, random.Random(name)
    refused = []
    for _ in range(40):
        try:
            Machine(read_spec(damaged(text, rng), name=name, parts=PARTS, file="x.world"))
        except LangError as error:
            refused.append(str(error))
    assert len(refused) > 12
    assert all(re.match(r"x\.world:\d+:\d+: .", message) for message in refused)


def damage_world(store, rng):
    """Write one field past all guards, with a value that another record has."""
    spec = store.spec
    read = sorted((r.of, r.name) for rule in spec.rules for r in rule.bad.reads if r.name)
    of, name = rng.choice(read)
    ids = store.ids(of)
    target, value = rng.choice(ids), store.row(of, rng.choice(ids))[name]
    if isinstance(value, int) and not isinstance(value, bool):
        value += rng.choice([-5_000, 0, 0, 300_000])
    if store.row(of, target)[name] == value:
        return False
    store.begin()
    store.write(of, target, name, value)
    return True


@pytest.mark.parametrize("name", CORE)
def test_closures_sql_and_the_look_backwards_agree_on_damaged_worlds(name):
    """Three derivations of every invariant: all rows, SQL, and the rows that a change reaches."""
    setting = load_setting(name)
    machine, rng = setting.machine, random.Random(7)
    store, broken = Store(setting.spec, setting.past(0).base), 0
    for _ in range(40):
        store.reset()
        if not damage_world(store, rng):
            continue
        found = [(rule.reason, i) for rule, i in machine.violations(store)]
        assert sorted(found) == sorted(violations_by_sql(setting.spec, export(store)))
        reached = machine.broken(store, store.journal)
        assert (reached is not None) == bool(found), (store.journal, found)
        broken += bool(found)
    assert broken >= 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "a line is"),
        ("noun acount: my account", "a class must be among"),
        ("noun account: my {kindd} account", "a slot must be among"),
        ("ask close_acount: close", "a writing tool"),
        ("ask deposit_account: put it into {self}", "does not say {amount}"),
        ("figure account.blance: x", "a value must be among"),
        ("number account: many", "invalid literal"),
        ("number account: -5", "must be from 0 to 100000, got -5"),
        ("number account: 99999999999", "must be from 0 to 100000"),
        ("value acount.overdraft: 0 | 200", "a class or a tool must be among"),
        ("value account.overdaft: 0 | 200", "a value must be among"),
        ("value account.overdraft: 5..1", "a range must rise"),
        ("value account.overdraft: 1..5 by 0", "a range must rise"),
        ("value account.overdraft: lots", "a range is such as"),
        ("noun account: my {kind account", "a slot is {name}"),
    ],
)
def test_words_that_do_not_fit_the_domain_are_errors_with_a_line(line, words):
    with pytest.raises(DomainError, match=r"bank\.words\.en:2:1: ") as caught:
        read_words(f"title: x\n{line}\n", load_setting("bank").spec, "bank.words.en")
    assert words in str(caught.value)


def test_division_of_a_negative_amount_is_the_one_of_sql():
    text = SMALL.replace("nights(time) > 30", "price / 3 == 0 - 0.33")
    spec = read(text)
    store = Store(spec, empty_base(spec, 739_621))
    store.begin()
    who = store.insert("member", {"name": "A", "level": "gold", "boss": None, "state": "active"})
    room = store.insert("room", {"number": 1, "rate": 5})
    stay = {"member": who, "room": room, "time": (1, 3), "price": -100, "state": "held"}
    identifier = store.insert("stay", stay)
    store.commit()
    assert [i for _, i in Machine(spec).violations(store)] == [identifier]
    assert [i for _, i in violations_by_sql(spec, export(store))] == [identifier]


def test_a_domain_that_was_changed_is_read_anew(tmp_path):
    folder = resources.files("longcat_envs") / "domains"
    path = tmp_path / "inn.world"
    path.write_bytes((folder / "template.world.txt").read_bytes())
    words = (folder / "template.words.en.txt").read_text("utf-8")
    (tmp_path / "inn.words.en").write_text("\ufeff" + words, "utf-8")
    first = load_setting(path)
    assert load_setting(path) is first
    (tmp_path / "inn.words.en").write_text(words + "title: another inn\n", "utf-8")
    assert load_setting(path).words.title == "another inn"
    (tmp_path / "inn.words.en").write_bytes(b"\xff\xfe")
    with pytest.raises(DomainError, match=r"inn\.words\.en:1:1: must be UTF-8"):
        load_setting(path)

"""How wishes are put into words."""

import functools
import re
from random import Random

import pytest
from longcat_envs.figures import check_figures
from longcat_envs.history import languages, load_setting
from longcat_envs.tasks import REFUSE, TaskMaker, skeletons
from longcat_envs.tasks._call import Call, Figure
from longcat_envs.tasks._chain import Chains
from longcat_envs.tasks._describe import fill
from longcat_envs.tasks._language import ENGLISH
from longcat_envs.tasks._say import Sentence, Speaker
from longcat_envs.world import builtin_worlds


@pytest.mark.parametrize(
    ("template", "value", "text"),
    [
        ("for {value} guests", "1", "for 1 guest"),
        ("for {value} guests", "11", "for 11 guests"),
        ("{value} people", "1", "1 person"),
        ("{value} copies of it", "1", "1 copy of it"),
        ("in {value} boxes.", "1", "in 1 box."),
        ("{value} lunches", "1", "1 lunch"),
        ("by {value} this time", "1", "by 1 this time"),
        ("{value} is due", "1", "1 is due"),
        ("{value} press", "1", "1 press"),
        ("{value} of us", "1", "1 of us"),
        ("by {value}", "1", "by 1"),
        ("every {value} days", "1", "every 1 day"),
        ("{value}: days", "1", "1: days"),
    ],
)
def test_of_one_thing_people_speak_in_the_singular(template, value, text):
    assert fill(template, {"{value}": value}) == text


def test_a_day_of_an_interval_is_a_slot_of_its_own():
    texts = {"{time.first}": "1", "{time.last}": "2"}
    assert fill("from {time.first} days until {time.last} days", texts) == "from 1 day until 2 days"


@pytest.fixture(scope="module")
def bank():
    return load_setting("bank")


def speaker_of(setting, seed=0):
    person = next(TaskMaker(setting, seed=seed, difficulty="shallow")).person
    return Speaker(setting, Chains(setting, 0, person, Random(seed)), Random(seed))


def test_a_record_is_named_once_in_a_sentence_and_then_is_it(bank):
    speaker = speaker_of(bank)
    store, owner = speaker.chains.world.store, speaker.chains.person
    (held_by,) = bank.spec.classes["account"].owner
    account = next(
        i
        for i in store.ids("account")
        if store.row("account", i)[held_by] == owner and speaker.describer.record("account", i)
    )
    figure = Figure(of="account", id=account, name="balance")
    named = speaker.describer.record("account", account).text
    alone = speaker.figure(figure)
    assert named.split()[0] in alone.text
    known = speaker.figure(figure, {("account", account): "my account"})
    assert known.text.endswith(" it") or " it " in known.text
    assert known.steps == alone.steps[-1:]  # it has been found already
    for words in ("me", "my hours of 2026-03-01"):
        again = speaker.figure(figure, {("account", account): words})
        assert " it" not in again.text
    for text, num_it in (
        ("pay {amount} into {account_id}", 0),  # need not be named again
        ("for {account_id}, pay {amount}", 1),
    ):
        tool = next(
            t
            for t in bank.machine.tools.values()
            if [p.name for p in t.parameters] == ["account_id", "amount"] and t.is_writer
        )
        asks = bank.words.asks[tool.name]
        bank.words.asks[tool.name] = [text.replace("account_id", "self")]
        try:
            said = speaker.wish(
                Call(
                    tool=tool.name,
                    arguments={"account_id": account, "amount": "5.00"},
                    computed={"amount": figure},
                )
            )
        finally:
            bank.words.asks[tool.name] = asks
        assert said.text.count(" it") == num_it
        looked = [step.tool for step in said.steps].count("search_account")
        assert looked == 1  # by the words that were said, and no others
        assert said.text.count(named) <= 1


def test_what_tells_nobody_to_do_something_is_not_framed_as_a_request(bank):
    speaker = speaker_of(bank)
    for _ in range(30):
        said = speaker.frame(Sentence("my order should run", (), is_order=False))
        assert said == "My order should run."


def test_a_sentence_that_begins_with_a_record_tells_nobody_to_do_something(bank):
    speaker = speaker_of(bank)
    name = f"set_{bank.spec.person}_phone"
    asks = bank.words.asks[name]
    call = Call(
        tool=name, arguments={f"{bank.spec.person}_id": speaker.chains.person, "value": "1 2"}
    )
    try:
        bank.words.asks[name] = ["{value} is my number"]
        assert not speaker.wish(call).is_order
        bank.words.asks[name] = ["note {value} as my number"]
        assert speaker.wish(call).is_order
    finally:
        bank.words.asks[name] = asks


def test_two_sentences_after_one_another_begin_differently(bank):
    speaker = speaker_of(bank)
    sentence = Sentence("close my account", ())
    begins = tuple(one.removesuffix("{}") for one in ENGLISH.next if one != "{}")
    last = ""
    for _ in range(60):
        said = speaker.frame(sentence, ENGLISH.next)
        begin = next((one for one in begins if said.startswith(one)), "")
        assert not begin or begin != last
        last = begin
    assert {speaker.frame(sentence, ("{}",)).endswith((".", "?")) for _ in range(9)} == {True}


def test_a_lone_question_wants_nothing_also(bank):
    maker = TaskMaker(bank, seed=5, difficulty="shallow", pasts=[0])
    tasks = [next(maker) for _ in range(10)]
    alone = [t for t in tasks if not any(s.tool in bank.words.asks for s in t.golden)]
    assert alone
    assert not any("also want" in task.opening for task in alone)


SPOKEN = [(name, code) for name in builtin_worlds() for code in languages(name)]


@pytest.mark.parametrize(("name", "code"), SPOKEN)
def test_a_domain_has_three_hundred_sentence_skeletons(name, code):
    setting = load_setting(name, code)
    found = skeletons(setting)
    assert len(found) >= 300
    assert all(one.endswith((".", "?", "。", "？")) and "{}" not in one for one in found)


@pytest.mark.parametrize("code", ["en", "zh"])
def test_what_people_say_is_one_of_the_skeletons(code):
    setting = load_setting("hotel", code)
    maker = TaskMaker(setting, seed=41, pasts=range(2))
    all_known, seen = skeletons(setting), set()
    made = [next(maker) for _ in range(10)]  # what is left out, or named once, is said otherwise
    for task in [one for one in made if not one.withheld and "computed" not in one.tags]:
        for step in task.writes:
            if step.tool == REFUSE:
                continue
            ways = setting.words.asks[step.tool]
            known = [one for one in all_known if any(way in one for way in ways)]
            said = [one for one in known if _pattern(one).search(task.heard)]
            assert said, (step.tool, task.heard)
            seen |= {one.replace(way, "{}") for one in said for way in ways if way in one}
    assert check_figures(setting)["skeletons"] == len(all_known)
    assert len(seen) >= 6  # frames, and not the bare sentence alone


@functools.cache
def _pattern(skeleton):
    form = re.sub(r"\\\{[\w.\\]+\\\}", ".+?", re.escape(skeleton))
    return re.compile(form, re.IGNORECASE)


def test_an_article_goes_with_the_word_that_comes_after_it():
    texts = {"{season}": "autumn", "{n}": "1", "{said}": "a {season}", "{next}": "winter"}
    assert fill("I need a {season} share", texts) == "I need an autumn share"
    assert fill("A {season}, of {n} pieces", texts) == "An autumn, of 1 piece"
    assert fill("a {next} share", texts) == "a winter share"
    assert (
        fill('write "{said}" on the data {season}', texts)
        == 'write "a {season}" on the data autumn'
    )

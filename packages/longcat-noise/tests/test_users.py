"""Each kind of user noise: on every turn, in two languages, with literals spared in every form."""

import unicodedata
from collections import Counter

import pytest
from longcat_noise import USER_KINDS, Draw, NoiseConfig, NoisyEnvironment, disturb_request
from longcat_noise._words import fold, language, split
from longcat_noise.testing import Clinic
from longcat_noise.users import USERS

ENGLISH = "Please renew the loan of Ada Berg for book 4821 before Friday."
CHINESE = "请帮李雷预约门诊，时间是2026-05-03，已经定好了。"
LITERALS = ["Ada Berg", "4821", "李雷", "2026-05-03"]


def said(kind, text, n=0, protected=LITERALS):
    config = NoiseConfig(level=1.0, user_kinds=(kind,))
    return disturb_request(text, config=config, draw=Draw(0, f"{n}"), protected=protected)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["en", "zh"])
@pytest.mark.parametrize("kind", USER_KINDS)
def test_every_kind_does_something_in_both_languages(kind, text):
    forms = {said(kind, text, n) for n in range(60)}
    assert text not in forms
    if kind != "casing":
        assert len(forms) >= 2
    if kind not in ("casing", "ambiguity"):
        assert all(language(form) == language(text) for form in forms)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["en", "zh"])
@pytest.mark.parametrize("kind", [k for k in USER_KINDS if k != "ambiguity"])
def test_literals_survive_letter_by_letter(kind, text):
    here = [literal for literal in LITERALS if literal in text]
    assert len(here) == 2
    for n in range(200):
        form = said(kind, text, n)
        assert all(literal in form for literal in here)


@pytest.mark.parametrize("kind", ["redundancy", "memory", "topic_shift", "boundary", "conflict",
                                  "misconception"])  # fmt: skip
def test_sentences_stand_around_the_whole_request(kind):
    for text in (ENGLISH, CHINESE):
        assert all(text in said(kind, text, n) for n in range(30))


@pytest.mark.parametrize(
    ("literal", "form"),
    [
        ("Ada Berg", "ada berg"),
        ("Ada Berg", "ADA BERG"),
        ("Ada Berg", "Ada  Berg"),
        ("Ada Berg", "ada\nberg"),
        ("Zoë Straße", "zoë straße"),
        ("Straße", "STRASSE"),
        ("O'Neil", "O\u2019NEIL"),
        ("B-17", "b\u201117"),
        ("José", unicodedata.normalize("NFD", "José")),
        ("B17", "Ｂ１７"),
        ("İstanbul", "İSTANBUL"),
        ("李雷", "李雷"),
        ("İzmir", "İ\u200bz\u200bm\u200bi\u200br"),
        ("Ada Berg", "Ada\u00ad Berg"),
    ],
)
def test_a_literal_is_spared_in_every_form(literal, form):
    text = f"could somebody write {form} down somewhere, thankfully"
    assert split(text, [literal]).literals == (form,)
    for kind in ("typo", "casing"):
        for n in range(100):
            assert form in said(kind, text, n, [literal])


def test_spans_are_the_text_in_order():
    spans = split("Ada and ADA and adamant", ["Ada", "", "  "])
    assert spans.text == "Ada and ADA and adamant"
    assert spans.parts == (
        ("Ada", True), (" and ", False), ("ADA", True), (" and ", False), ("ada", True),
        ("mant", False),
    )  # fmt: skip
    assert split("", ["Ada"]).parts == ()
    assert split("no literal", []).parts == (("no literal", False),)
    assert split("aaaa", ["aa"]).literals == ("aaaa",)
    assert split("aaa", ["aa"]).literals == ("aaa",)
    assert split("x ab", ["ab"]).literals == ("ab",)


def test_overlapping_literals_are_all_spared():
    assert split("xx Ada Berg Street xx", ["Ada Berg", "Berg Street"]).literals == (
        "Ada Berg Street",
    )


def test_a_typo_is_one_slip_in_one_free_word():
    words = Counter()
    for n in range(300):
        form = said("typo", ENGLISH, n)
        pairs = zip(form.split(), ENGLISH.split(), strict=True)
        changed = [(a, b) for a, b in pairs if a != b]
        assert len(changed) == 1
        new, old = changed[0]
        assert new[0] == old[0]
        assert sorted(new) == sorted(old)
        places = [i for i in range(len(old)) if new[i] != old[i]]
        assert len(places) == 2
        assert places[1] == places[0] + 1
        words[old] += 1
    assert set(words) == {"Please", "renew", "loan", "book", "before", "Friday."}
    for n in range(50):
        form = said("typo", CHINESE, n)
        assert len(form) == len(CHINESE)
        assert sum(a != b for a, b in zip(form, CHINESE, strict=True)) == 1


def test_a_typo_needs_a_word_that_can_slip():
    for text in ("a of it", "Ada Berg", "xooo", "", "  "):
        assert said("typo", text, 0, ["Ada Berg"]) == text


def test_casing_lowers_what_is_free_and_halves_chinese_marks():
    assert said("casing", "Call ADA Now", 0, ["ADA"]) == "call ADA now"
    assert said("casing", "你好，李雷。") == "你好,李雷."


def test_a_correction_says_a_near_miss_first_and_then_the_literal():
    for text in (ENGLISH, CHINESE):
        for n in range(60):
            form = said("correction", text, n)
            here = [x for x in LITERALS if x in text]
            assert all(form.rfind(x) > 0 for x in here)
            assert not form.startswith(text)
            assert ("抱歉" in form, "Sorry" in form) == (text == CHINESE, text == ENGLISH)
    assert said("correction", "Do it.", 0, []).endswith("Do it.")
    near = {said("correction", "For 4821 and 4812.", n, ["4821", "4812"]) for n in range(40)}
    assert all("4821" in form and "4812" in form for form in near)
    assert not any("not 4812" in form or "not 4821" in form for form in near)


class Talk(Clinic):
    def reply(self, message):
        return {"role": "user", "content": "Please take the morning for Ada Berg instead of noon."}


async def test_every_turn_of_the_user_is_disturbed_at_the_level():
    hits = [0] * 5
    for n in range(400):
        config = NoiseConfig(level=0.5, user_kinds=("redundancy",))
        environment = NoisyEnvironment(Talk("Book Ada Berg in."), config, episode=f"{n}")
        heard = [(await environment.reset()).messages[0]["content"]]
        for _ in range(4):
            heard.append((await environment.reply({"content": "?"}))["content"])
        plain = ["Book Ada Berg in.", *[Talk().reply({})["content"]] * 4]
        for turn in range(5):
            hits[turn] += heard[turn] != plain[turn]
    assert all(160 < hit < 240 for hit in hits), hits


async def test_later_turns_spare_the_literals_too():
    for kind in ("typo", "casing"):
        environment = NoisyEnvironment(
            Talk(), NoiseConfig(level=1.0, user_kinds=(kind,)), episode="e", protected=["ada berg"]
        )
        await environment.reset()
        answers = {(await environment.reply({"content": "?"}))["content"] for _ in range(9)}
        assert all("Ada Berg" in answer for answer in answers)
        assert Talk().reply({})["content"] not in answers


async def test_an_ambiguous_opening_is_made_clear_on_the_next_turn_and_only_then():
    world = Talk("Book Ada Berg in.")
    config = NoiseConfig(level=1.0, user_kinds=("ambiguity",))
    environment = NoisyEnvironment(world, config, episode="e")
    opening = (await environment.reset()).messages[0]["content"]
    assert "Ada" not in opening
    assert (await environment.reply({"content": "What?"}))["content"] == "Book Ada Berg in."
    assert (await environment.reply({"content": "?"}))["content"] == Talk().reply({})["content"]
    assert [row["kind"] for row in environment.log] == ["ambiguity"]
    assert (await environment.reset()).messages[0]["content"] == opening


async def test_the_environment_keeps_its_own_messages_and_parts_of_other_types():
    parts = [{"type": "text", "text": "Book HER in"}, {"type": "image_url"}, "bare"]
    world = Clinic(request=parts)
    environment = NoisyEnvironment(
        world, NoiseConfig(level=1.0, user_kinds=("casing",)), episode="e"
    )
    for _ in range(2):
        heard = (await environment.reset()).messages[0]["content"]
        assert heard == [{"type": "text", "text": "book her in"}, {"type": "image_url"}, "bare"]
    assert parts[0]["text"] == "Book HER in"
    world.request = None
    assert (await environment.reset()).messages[0]["content"] is None


async def test_protected_literals_may_be_a_function_asked_at_each_reset():
    asked = []
    environment = NoisyEnvironment(
        Clinic("Call ADA"), NoiseConfig(level=1.0, user_kinds=("casing",)), episode="e",
        protected=lambda: asked.append(1) or ["ADA"],
    )  # fmt: skip
    assert (await environment.reset()).messages[0]["content"] == "call ADA"
    assert len(asked) == 1


def test_kinds_are_typed():
    assert all(kind.name == name for name, kind in USERS.items())
    assert [name for name, kind in USERS.items() if kind.extra_turns] == ["ambiguity"]
    assert fold("  ÄB ") == fold("äb")

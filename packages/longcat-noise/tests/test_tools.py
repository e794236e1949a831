"""Each kind of tool noise: what it shows, on which contracts, and what happens beneath it."""

import asyncio
import json
from collections import Counter

import pytest
from longcat_noise import (
    TOOL_KINDS,
    Book,
    Call,
    Draw,
    NoiseConfig,
    NoisyEnvironment,
    disturb_result,
)  # fmt: skip
from longcat_noise._noise import EpisodeNoise
from longcat_noise._truth import facts
from longcat_noise.testing import CONTRACTS, Clinic
from longcat_noise.tools import TOOLS

BOOK = Book.of(CONTRACTS)
ROW = json.dumps([{"a": "A1", "b": 2, "c": True}, {"a": "A3", "b": 4, "c": None}])
READS = ("partial", "truncated", "stale", "inconsistent", "renamed", "misleading")


def call(tool, **arguments):
    return {"function": {"name": tool, "arguments": json.dumps(arguments)}}


BOOKING = call("book_visit", patient_id="P17", day="2026-05-04")


def kinds_met(tool, arguments, kinds=TOOL_KINDS, book=BOOK, chains=()):
    found = set()
    for n in range(300):
        noise = EpisodeNoise(
            NoiseConfig(level=1.0, tool_kinds=kinds), f"{n}", book=book, chains=chains
        )
        met = noise.meet(tool, arguments)
        if met is not None:
            found.add(met.kind.name)
    return found


async def noisy_clinic(kinds, episode="e", **more):
    world = Clinic()
    config = NoiseConfig(level=1.0, tool_kinds=kinds, user_kinds=())
    environment = NoisyEnvironment(world, config, episode=episode, contracts=BOOK, **more)
    await environment.reset()
    return world, environment


async def test_a_write_that_is_asked_for_again_acts_once_whatever_hid_its_answer():
    for n in range(200):
        world, environment = await noisy_clinic(TOOL_KINDS, f"{n}")
        for _ in range(6):
            result = await environment.call(BOOKING)
            if not result.is_error:
                break
            if "outcome is unknown" in result.content:
                seen = await environment.call(call("list_visits", patient_id="P17"))
                while seen.is_error or "..." in seen.content:
                    seen = await environment.call(call("list_visits", patient_id="P17"))
                assert "2026-05-04" in seen.content
                break
        assert len(world.visits) == 1, n


async def test_a_write_is_never_shown_in_part_nor_is_an_undeclared_tool():
    for book in (BOOK, Book()):
        for kind in READS:
            assert kinds_met("book_visit", {"patient_id": "P1", "day": "d"}, (kind,), book) == set()
    assert kinds_met("anything", {}) == {"failure", "padding", "vanish", "duplicate", "latency"}


def test_writes_get_failure_before_or_a_lost_acknowledgement_that_can_be_found_out():
    harmless = {"failure", "vanish", "padding", "duplicate", "latency"}
    arguments = {"patient_id": "P17", "day": "2026-05-04"}
    assert kinds_met("book_visit", arguments) == harmless | {"lost_ack"}
    assert kinds_met("cancel_visit", {"visit_id": "V1"}) == harmless | {"lost_ack"}
    assert kinds_met("pay", {"patient_id": "P17", "request_id": "R"}) == harmless | {"lost_ack"}
    assert kinds_met("pay", {"patient_id": "P17"}) == harmless  # no key was sent
    blind = Book.of([c for c in CONTRACTS if c["name"] != "list_visits"])
    assert kinds_met("book_visit", arguments, book=blind) == harmless


def test_a_read_that_shows_a_lost_write_is_never_old_nor_wrong():
    arguments = {"patient_id": "P17"}
    assert not kinds_met("list_visits", arguments) & {"stale", "inconsistent"}
    assert "stale" in kinds_met("list_visits", arguments, ("stale", "failure"))


def test_what_contradicts_has_a_second_source_that_never_does():
    settled = BOOK.settled()
    assert settled == {"find_patient": "look_up"}
    wrong = {"inconsistent", "misleading"}
    assert wrong <= kinds_met("find_patient", {"name": "Ada Berg"})
    assert not wrong & kinds_met("look_up", {"name": "Ada Berg"})
    assert not wrong & kinds_met("list_visits", {"patient_id": "P17"})
    three = Book.of([{"name": n, "reads": ["x"]} for n in "abc"])
    assert set(three.settled().values()).isdisjoint(three.settled())


@pytest.mark.parametrize("kind", [k for k in TOOL_KINDS if k != "latency"])
def test_every_kind_says_something_else_than_the_tool(kind):
    changed = 0
    for n in range(40):
        changed += disturb_result(kind, ROW, Draw(0, f"{n}"), "t", 0) != ROW
    assert changed == (0 if kind == "stale" else 40)


@pytest.mark.parametrize("kind", ["padding", "misleading", "duplicate", "renamed", "latency"])
def test_kinds_that_cost_nothing_keep_every_fact(kind):
    for n in range(40):
        seen = disturb_result(kind, ROW, Draw(0, f"{n}"), "t", 0)
        assert facts(seen) == json.loads(ROW)
        if kind != "renamed":
            assert ROW in seen


def test_padding_stands_before_the_whole_answer():
    assert disturb_result("padding", "42", Draw(0, "e"), "t", 0).endswith(" 42")


def test_inconsistent_changes_one_value_and_no_name():
    numbers = Counter()
    for n in range(60):
        seen = json.loads(disturb_result("inconsistent", ROW, Draw(0, f"{n}"), "t", 0))
        old = json.loads(ROW)
        assert [set(row) for row in seen] == [set(row) for row in old]
        wrong = [(i, k) for i, row in enumerate(old) for k in row if seen[i][k] != row[k]]
        assert len(wrong) == 1
        assert old[wrong[0][0]][wrong[0][1]] is not None
        numbers[wrong[0]] += 1
    assert len(numbers) == 5
    assert disturb_result("inconsistent", "[]", Draw(0, "e"), "t", 0) == "[]"


def test_an_inconsistent_text_differs_in_one_digit():
    for n in range(60):
        seen = json.loads(disturb_result("inconsistent", '{"day":"2026-05-04"}', Draw(0, f"{n}"),
                                         "t", 0))["day"]  # fmt: skip
        assert len(seen) == 10
        assert sum(a != b for a, b in zip(seen, "2026-05-04", strict=True)) == 1
        assert seen[4] == seen[7] == "-"


def test_an_inconsistent_value_is_of_its_own_type():
    for n in range(60):
        seen = json.loads(disturb_result("inconsistent", '{"a":"x7","n":3,"f":true,"w":"word"}',
                                         Draw(0, f"{n}"), "t", 0))  # fmt: skip
        assert seen["f"] in (True, False)
        assert seen["n"] in range(3, 13)
        assert seen["a"][0] == "x"
        assert seen["a"][1].isdigit()
        assert seen["w"] in ("word", "not word")


def test_truncated_keeps_a_beginning_and_says_that_it_breaks_off():
    content = "abcdefghij" * 10
    lengths = set()
    for n in range(60):
        seen = disturb_result("truncated", content, Draw(0, f"{n}"), "t", 0)
        kept = seen.removesuffix("... [truncated]")
        assert kept != seen
        assert content.startswith(kept)
        lengths.add(len(kept))
    assert 25 <= min(lengths) < 35 < 65 < max(lengths) <= 75
    assert disturb_result("truncated", "short", Draw(0, "e"), "t", 0) == "short"


def test_partial_hides_what_is_no_object_whole():
    assert disturb_result("partial", "words", Draw(0, "e"), "t", 0) == "..."
    assert disturb_result("partial", '["a","b"]', Draw(0, "e"), "t", 0) == '["...","..."]'
    assert disturb_result("partial", "[]", Draw(0, "e"), "t", 0) == "..."


def test_renamed_leaves_other_names_and_never_hits_one_that_is_there():
    content = '{"a":1,"a_v2":2}'
    seen = {disturb_result("renamed", content, Draw(0, f"{n}"), "t", 0) for n in range(40)}
    assert len(seen) == 2
    for one in map(json.loads, seen):
        assert one["data"].keys() ^ {"a", "a_v2"} == {*one["renamed"], *one["renamed"].values()}
        assert sorted(one["data"].values()) == [1, 2]
    assert disturb_result("renamed", "words", Draw(0, "e"), "t", 0) == "words"


async def test_stale_shows_what_the_same_read_answered_before_and_then_the_truth():
    hits = 0
    for n in range(20):
        world = Clinic()
        config = NoiseConfig(level=0.5, tool_kinds=("stale",), user_kinds=())
        environment = NoisyEnvironment(world, config, episode=f"{n}", contracts=BOOK)
        await environment.reset()
        read = call("list_visits", patient_id="P17")
        before = (await environment.call(read)).content
        await environment.call(BOOKING)
        seen = [(await environment.call(read)).content for _ in range(6)]
        assert before == "[]"
        assert all("V1" in one or one == "[cached, may be out of date] []" for one in seen)
        assert "V1" in seen[-1]
        hits += seen[0].startswith("[cached")
    assert 3 < hits < 17


async def test_failures_speak_the_dialect_of_the_tool():
    dialect = {"name": "find_patient", "reads": [], "error": "Error: {message}!"}
    config = NoiseConfig(level=1.0, tool_kinds=("failure",))
    environment = NoisyEnvironment(Clinic(), config, episode="e", contracts=[dialect])
    await environment.reset()
    seen = await environment.call(call("find_patient", name="Ada Berg"))
    assert seen.is_error
    assert seen.content.startswith("Error: ")
    assert seen.content.endswith("!")
    quoted = Book.of([{"name": "t", "error": '{"e":"{message}"}'}])["t"]
    assert json.loads(quoted.fail('a "b"')) == {"e": 'a "b"'}


async def test_a_failed_call_never_happens_and_a_lost_one_has():
    for kind, happened in (("failure", 0), ("vanish", 0), ("lost_ack", 1), ("duplicate", 1)):
        world, environment = await noisy_clinic((kind,))
        seen = await environment.call(BOOKING)
        assert (seen.is_error, len(world.visits)) == (kind != "duplicate", happened), kind
        assert seen.kind == kind
        assert seen.is_noise


async def test_an_error_of_the_world_is_passed_on_as_it_is():
    _world, environment = await noisy_clinic(("padding", "partial", "truncated"))
    seen = await environment.call(call("find_patient", name="Nobody"))
    assert json.loads(seen.content) == {"error": "no patient Nobody"}
    assert not hasattr(seen, "is_noise")


async def test_latency_is_on_the_virtual_clock():
    _, environment = await noisy_clinic(("latency",))
    late = [await environment.call(call("get_balance", patient_id=f"P{n}")) for n in range(50)]
    times = [one.latency_s for one in late if one.kind == "latency"]
    assert all(1 <= t <= 30 for t in times)
    assert max(times) - min(times) > 10
    assert environment.elapsed_s == pytest.approx(sum(times))


def test_a_tool_stays_away_only_where_another_chain_does_without_it():
    chains = [[Call("find_patient"), Call("book_visit")], [Call("look_up"), Call("book_visit")]]
    away = Counter()
    for n in range(400):
        config = NoiseConfig(level=0.5, tool_kinds=("gone",))
        noise = EpisodeNoise(config, f"{n}", book=BOOK, chains=chains)
        away[tuple(noise.gone)] += 1
        for tool in noise.gone:
            assert {noise.meet(tool, {"n": k}).kind.name for k in range(9)} == {"gone"}
        assert EpisodeNoise(config, f"{n}", book=BOOK, chains=chains[:1]).gone == frozenset()
    assert set(away) == {(), ("find_patient",), ("look_up",)}
    assert 160 < away[()] < 240
    assert 60 < away[("look_up",)] < 140


def test_the_position_is_a_third_of_the_chain():
    chain = [Call("get_balance", {"patient_id": f"P{n}"}) for n in range(9)]
    for third, position in enumerate(("early", "middle", "late")):
        config = NoiseConfig(level=1.0, tool_kinds=("failure",), position=position)
        noise = EpisodeNoise(config, "e", book=BOOK, chains=[chain])
        hit = [noise.meet(c.tool, c.arguments) is not None for c in chain]
        assert hit == [n // 3 == third for n in range(9)]
        assert (noise.meet_turn(0) is not None) == (position == "early")
        assert (noise.meet_turn(3) is not None) == (position != "early")
    with pytest.raises(ValueError, match="position 'early' needs a golden chain"):
        EpisodeNoise(NoiseConfig(level=1.0, position="early"), "e")


def test_taxonomy_is_typed_and_each_kind_says_how_it_is_survived():
    for name, kind in TOOLS.items():
        assert kind.name == name
        assert kind.survival in ("retry", "re-read", "re-route", "ignore")
        assert (kind.extra_turns == 0) == (kind.survival == "ignore")
        assert not (kind.is_before and not kind.is_error)
    assert [k for k in TOOLS if TOOLS[k].is_permanent] == ["gone"]
    assert {k for k in TOOLS if "writer" in TOOLS[k].roles and TOOLS[k].is_error} == {
        "failure", "vanish", "gone", "lost_ack",
    }  # fmt: skip


async def test_noise_passes_a_call_of_no_form_to_the_environment():
    class World(Clinic):
        def call(self, tool_call):
            return Clinic.call(self, call("find_patient", name="?"))

    environment = NoisyEnvironment(World(), NoiseConfig(level=0.0), episode="e")
    await environment.reset()
    for odd in ({}, {"function": None}, {"function": {"name": "x"}}):
        assert (await environment.call(odd)).is_error


def test_loops_of_their_own_need_no_running_one():
    assert asyncio.run(noisy_clinic(("failure",)))[1].config.level == 1.0

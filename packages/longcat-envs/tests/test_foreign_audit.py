"""The audit of other benchmarks' tasks: each fault is found, and what is sound is left alone."""

import importlib.util
from pathlib import Path

import pytest
from longcat_envs import DomainError
from longcat_envs.loaders import audit_foreign, audit_foreign_set, foreign_agents
from longcat_envs.loaders._overlay import Overlay
from longcat_envs.loaders._tau2_policy import BAGS, airline_breaches
from longcat_envs.loaders._words import contradictions
from longcat_envs.tasks import Step

_SPEC = importlib.util.spec_from_file_location("foreign", Path(__file__).parent / "foreign.py")
foreign = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(foreign)
CANCEL_O1 = ("cancel", {"order_id": "O1"})


def faults(reason, *actions, told=(), **more):
    source = foreign.kiosk(foreign.kiosk_task(0, reason, actions, told, **more))
    return audit_foreign(source, source.tasks[0], writers={"cancel", "exchange"}).gold


def test_the_figures_of_a_sound_set():
    found = audit_foreign_set(foreign.kiosk())
    summary = found["summary"]
    assert summary["careless"] == {
        "silent": {"tried": 3, "passed": 1},  # one task asks for nothing
        "dump": {"tried": 1, "passed": 1},
        "deny": {"tried": 1, "passed": 1},
        "one_too_many": {"tried": 2, "passed": 0},
    }
    assert all(one["tried"] == one["passed"] == 3 for one in summary["careful"].values())
    assert list(summary["careful"]) == ["plain", "read_twice", "stumble", "confirm", "thank"]
    assert summary["writes_left_out"] == {"tried": 1, "passed": 0}
    assert summary["reads_left_out"] == {"tried": 2, "failed_in_the_same_state": 0}
    assert (summary["golden_calls"], summary["golden_writes"], summary["gold_faulty"]) == (3, 1, 0)
    assert [row["careless_passed"] for row in found["rows"]] == [[], ["dump", "deny"], ["silent"]]
    assert audit_foreign_set(foreign.kiosk(), 1)["summary"]["tasks"] == 1


def test_turns_ask_for_reads_that_change_nothing_and_that_is_counted():
    found = audit_foreign_set(foreign.boxes())
    assert found["summary"]["reads_left_out"] == {"tried": 2, "failed_in_the_same_state": 2}
    assert found["summary"]["writes_left_out"] == {"tried": 3, "passed": 0}
    assert "confirm" not in found["summary"]["careful"]  # nobody answers there
    assert found["summary"]["gold_faulty"] == 0


def test_pass_rates_of_agents_are_those_of_the_audit():
    found = foreign_agents(foreign.kiosk())
    assert found["summary"]["careless"] == {"tried": 7, "passed": 3}
    assert found["summary"]["careful"] == {"tried": 15, "passed": 15}
    assert {row["agent"]: row["rate"] for row in found["rows"]}["dump"] == 1


@pytest.mark.parametrize(
    ("words", "reason", "actions"),
    [
        ("a golden write is refused", "Cancel O2.", [("cancel", {"order_id": "O2"})]),
        (
            "a value from nowhere: get_order 'O9'",
            "Look at my order.",
            [("get_order", {"order_id": "O9"})],
        ),
        (
            "a thing is replaced by itself",
            "Swap i1 of O1.",
            [("exchange", {"order_id": "O1", "items": ["i1"], "new_items": ["i1"]})],
        ),
        (
            "a write that makes no difference",
            "Swap i1 of O1 for i3, no, for i2.",
            [
                ("exchange", {"order_id": "O1", "items": ["i1"], "new_items": ["i3"]}),
                ("exchange", {"order_id": "O1", "items": ["i3"], "new_items": ["i2"]}),
            ],
        ),
        (
            "no record holds this together",
            "Bring the guest of O1 into O2, with Al.",
            [("guests", {"order_id": "O2", "guests": [{"first_name": "Al", "last_name": "Lee"}]})],
        ),
        ("a tool that is not offered: refund", "Refund O1.", [("refund", {"order_id": "O1"})]),
    ],
)
def test_faults_of_golden_calls_are_found(words, reason, actions):
    found = faults(reason, *actions)
    assert [one for one in found if one.startswith(words)], found


def test_an_id_in_the_words_about_a_right_run_must_exist():
    for named, wrong in (("Agent cancels order_1.", True), ("Agent cancels O1 of ann.", False)):
        found = faults("Cancel O1.", CANCEL_O1, nl_assertions=[named])
        assert any("does not exist: 'order_1'" in one for one in found) is wrong


@pytest.mark.parametrize(
    ("reason", "actions"),
    [
        (
            "Look at what I ordered.",
            [("get_order", {"order_id": "O2"})],
        ),  # over the person's record
        ("Find me by ann@x.org.", [("find_user", {"email": "ann@x.org"})]),
        (
            "Swap i1 of O1 for a scone.",
            [("exchange", {"order_id": "O1", "items": ["i1"], "new_items": ["i3"]})],
        ),
        (
            "Bring the guest of O1 into O2.",
            [("guests", {"order_id": "O2", "guests": [{"first_name": "Bo", "last_name": "Lee"}]})],
        ),
        (
            "Bring Cy Doe into O1.",
            [("guests", {"order_id": "O1", "guests": [{"first_name": "Cy", "last_name": "Doe"}]})],
        ),
        (
            "Look for e@x.org or O2.",
            [("find_user", {"email": "e@x.org"}), ("get_order", {"order_id": "O2"})],
        ),
    ],
)
def test_sound_golden_calls_are_left_alone(reason, actions):
    assert faults(reason, *actions) == []


def test_a_reader_that_finds_nothing_is_counted_and_no_fault():
    source = foreign.kiosk(
        foreign.kiosk_task(0, "Look for e@x.org.", [("find_user", {"email": "e@x.org"})])
    )
    found = audit_foreign_set(source)["summary"]
    assert (found["reads_refused"], found["gold_faulty"]) == (1, 0)


def test_a_person_who_is_found_by_other_fields_is_known():
    task = foreign.kiosk_task(0, "My mail is ann@x.org.", [("get_order", {"order_id": "O1"})])
    task["user_scenario"]["instructions"]["known_info"] = ""
    for finders, known in ({}, False), ({"users": (("email",),)}, True):
        source = foreign.kiosk(task, finders=finders)
        assert (contradictions(source, source.tasks[0]) == []) is known


@pytest.mark.parametrize(
    ("day", "said"),
    [
        ("2024-05-26", "on May 26"),
        ("2024-05-26", "the 26th of May, please"),
        ("2024-05-06", "May 6th"),
        ("2024-05-26", "on 5/26"),
        ("2024-05-26", "on 2024-05-26"),
    ],
)
def test_a_day_may_be_said_in_other_words(day, said):
    assert faults(f"Look at the order of {said}.", ("get_order", {"order_id": day})) == []
    other = faults("Look at the order of June 26.", ("get_order", {"order_id": day}))
    assert any("from nowhere" in one for one in other)


def test_an_episode_that_changes_what_all_share_is_not_passed_over():
    task = foreign.kiosk_task(0, "Spoil O1.", [("spoil", {"order_id": "O1"})])
    with pytest.raises(DomainError, match="changed what all episodes share"):
        audit_foreign_set(foreign.kiosk(task))


def airline():
    leg = {"flight_number": "F1", "date": "2024-05-20"}
    back = {"flight_number": "F2", "date": "2024-05-22"}
    trip = {
        "user_id": "u",
        "origin": "AAA",
        "destination": "BBB",
        "flight_type": "round_trip",
        "cabin": "economy",
        "flights": [leg, back],
        "passengers": [{}, {}],
        "insurance": "no",
        "created_at": "2024-05-01T00:00:00",
        "total_baggages": 1,
        "nonfree_baggages": 0,
    }
    flights = {
        name: {
            "origin": origin,
            "destination": destination,
            "dates": {"2024-05-20": {"status": "available"}, "2024-05-22": {"status": "available"}},
        }
        for name, origin, destination in (
            ("F1", "AAA", "BBB"),
            ("F2", "BBB", "AAA"),
            ("F3", "AAA", "CCC"),
            ("F4", "CCC", "BBB"),
        )
    }
    user = {
        "membership": "silver",
        "reservations": ["R"],
        "payment_methods": {
            "c1": {"source": "certificate"},
            "c2": {"source": "certificate"},
            "k": {"source": "credit_card"},
        },
    }
    return {"reservations": {"R": trip}, "users": {"u": user}, "flights": flights}


def broken(change, *steps):
    tables = airline()
    change(tables)
    shared = {name: Overlay(records) for name, records in tables.items()}
    return airline_breaches([Step(tool=t, arguments=a) for t, a in steps], shared, lambda *a: "")


def reservation(**fields):
    return lambda tables: tables["reservations"]["R"].update(fields)


def legs(*names):
    days = ("2024-05-20", "2024-05-22", "2024-05-22")
    return [{"flight_number": n, "date": day} for n, day in zip(names, days, strict=False)]


def flown(tables):
    tables["flights"]["F1"]["dates"]["2024-05-20"]["status"] = "landed"


CANCEL = ("cancel_reservation", {"reservation_id": "R"})
NO_CHANGE = reservation()


def change(cabin, *names):
    given = {"reservation_id": "R", "cabin": cabin, "flights": legs(*names), "payment_id": "k"}
    return ("update_reservation_flights", given)


def bags(total, paid):
    given = {"reservation_id": "R", "total_baggages": total, "nonfree_baggages": paid}
    return ("update_reservation_baggages", given)


def book(number, paid, *methods):
    return (
        "book_reservation",
        {
            "user_id": "u",
            "cabin": "business",
            "passengers": [{}] * number,
            "total_baggages": 3 * number + paid,
            "nonfree_baggages": paid,
            "payment_methods": [{"payment_id": m} for m in methods],
        },
    )


def certificate(amount):
    return ("send_certificate", {"user_id": "u", "amount": amount})


def status(word):
    return lambda tables: tables["flights"]["F1"]["dates"]["2024-05-20"].update(status=word)


def both(*changes):
    return lambda tables: [change(tables) for change in changes]


@pytest.mark.parametrize(
    ("change_of", "steps", "rule"),
    [
        (NO_CHANGE, [CANCEL], "neither fresh"),
        (reservation(insurance="yes"), [CANCEL], ""),
        (reservation(cabin="business"), [CANCEL], ""),
        (status("cancelled"), [CANCEL], ""),
        (reservation(created_at="2024-05-14T15:00:00"), [CANCEL], ""),
        (reservation(created_at="2024-05-14T14:59:59"), [CANCEL], "neither fresh"),
        (both(reservation(insurance="yes"), flown), [CANCEL], "has been flown"),
        (
            reservation(insurance="yes", flights=[{"flight_number": "F1", "date": "2024-05-14"}]),
            [CANCEL],
            "has been flown",
        ),
        (NO_CHANGE, [change("economy", "F3", "F2")], "origin, destination"),
        (NO_CHANGE, [change("economy", "F3", "F4", "F2")], ""),
        (NO_CHANGE, [change("economy", "F1")], "origin, destination"),
        (
            reservation(cabin="basic_economy"),
            [change("basic_economy", "F3", "F4", "F2")],
            "basic economy",
        ),
        (reservation(cabin="basic_economy"), [change("economy", "F1", "F2")], ""),
        (flown, [change("business", "F1", "F2")], "the cabin"),
        (flown, [change("economy", "F1", "F2")], ""),
        (NO_CHANGE, [bags(4, 0)], ""),
        (NO_CHANGE, [bags(5, 1)], ""),
        (NO_CHANGE, [bags(5, 0)], "4 bags are free"),
        (NO_CHANGE, [bags(0, 0)], "cannot be removed"),
        (NO_CHANGE, [book(2, 0, "c1", "k")], ""),
        (NO_CHANGE, [book(2, 0, "c1", "c2")], "at most 1 of certificate"),
        (NO_CHANGE, [book(6, 0, "k")], "at most five"),
        (NO_CHANGE, [book(1, 2, "k")], ""),
        (NO_CHANGE, [certificate(100)], "no reservation"),
        (status("cancelled"), [certificate(200)], ""),
        (status("cancelled"), [certificate(100)], "no reservation"),
        (status("delayed"), [certificate(100)], "no reservation"),
        (status("delayed"), [CANCEL, certificate(100)], "neither fresh"),
        (both(status("delayed"), reservation(insurance="yes")), [CANCEL, certificate(100)], ""),
        (
            both(status("cancelled"), lambda t: t["users"]["u"].update(membership="regular")),
            [certificate(200)],
            "no reservation",
        ),
        (NO_CHANGE, [("cancel_reservation", {"reservation_id": "X"})], "names what is not there"),
        (NO_CHANGE, [("get_reservation_details", {"reservation_id": "X"})], ""),
    ],
)
def test_rules_of_the_airline_that_golden_calls_break_are_named(change_of, steps, rule):
    found = broken(change_of, *steps)
    assert len(found) == bool(rule)
    assert all(rule in one for one in found)


def test_a_better_member_or_cabin_has_one_more_free_bag():
    for plus, level in enumerate(("regular", "silver", "gold")):
        cabins = ("basic_economy", "economy", "business")
        assert BAGS[level] == {cabin: plus + place for place, cabin in enumerate(cabins)}

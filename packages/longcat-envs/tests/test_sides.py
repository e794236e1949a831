"""Sets of two sides: a person with tools of their own, judged on what holds on both."""

import asyncio
import importlib.util
from pathlib import Path

import pytest
from longcat_envs import Invalid, run_episode
from longcat_envs._task import CLOSED
from longcat_envs.loaders import ForeignEnvironment, Hands, audit_foreign_set, request
from longcat_envs.loaders._hands import arguments_after
from longcat_envs.loaders._sides import is_same
from longcat_envs.loaders._tau2_ways import TELECOM
from longcat_envs.loaders._types import inner
from longcat_envs.running import foreign_person_by
from longcat_envs.tasks import Step

_SPEC = importlib.util.spec_from_file_location("two_sides", Path(__file__).parent / "two_sides.py")
sides = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sides)


def begun(place=0, source=None):
    source = source or sides.house()
    environment = ForeignEnvironment(source, source.tasks[place])
    environment.start()
    return environment


def call(name, **arguments):
    return {"function": {"name": name, "arguments": arguments}}


def test_golden_calls_of_both_sides_warm_the_house():
    environment = begun()
    assert environment.task.turns[0].endswith("It is cold here.")
    assert environment.task.golden == ((Step(tool="unlock", arguments={"contract_id": "H1"}),),)
    assert [step.tool for step in environment.task.asked[0]] == ["toggle_heating", "set_mode"]
    assert environment.call_now(call("unlock", contract_id="H1")).content == "unlocked"
    answer = environment.hear(request(environment.task.asked[0]))
    assert answer == "toggle_heating: Heating is now ON\nset_mode: Mode comfort"
    assert environment.score_now().total == 0  # not over
    assert environment.hear("All of that is done now.") is None
    assert environment.score_now().parts == {
        CLOSED: 1.0, "is_warm {}": 1.0, 'assert_unlocked {"contract_id": "H1"}': 1.0,
    }  # fmt: skip


def test_the_sides_are_in_line_after_each_call():
    environment = begun()
    assert "locked True" in environment.hear("Please call check_panel().")
    environment.call_now(call("unlock", contract_id="H1"))
    assert "locked False" in environment.hear("Please call check_panel().")


@pytest.mark.parametrize("left_out", ["unlock", "toggle_heating", "set_mode"])
def test_neither_side_is_enough(left_out):
    environment = begun()
    if left_out != "unlock":
        environment.call_now(call("unlock", contract_id="H1"))
    environment.hear(request([s for s in environment.task.asked[0] if s.tool != left_out]))
    environment.hear("All of that is done now.")
    assert environment.score_now().total == 0


def test_the_person_has_their_own_tools_and_the_agent_has_not():
    environment = begun()
    for name in ("toggle_heating", "freeze", "assert_unlocked", "lock"):
        assert environment.call_now(call(name)).is_error
    assert environment.session.act("unlock", {"contract_id": "H1"}).startswith("Error: there is no")
    assert environment.session.act("freeze", {}).startswith("Error: there is no")
    assert environment.session.act("set_mode", {"mode": "hot"}) == "Error: no such mode"
    assert environment.session.state() == {}
    assert environment.call_now(call("get_contract", contract_id="H9")).is_error


def test_calls_that_must_be_made_count_by_the_arguments_that_are_compared():
    for day, contract, reward in (("Friday", "H1", 1), ("Monday", "H2", 0)):
        environment = begun(1)
        environment.hear("Please press_reset.")
        environment.call_now(call("get_contract", contract_id="H1"))
        environment.call_now(call("send_engineer", contract_id=contract, day=day))
        environment.hear("All of that is done now.")
        assert environment.score_now().total == reward
    environment = begun(1)  # the agent's own call of another's tool is no act of the person
    environment.call_now(call("press_reset"))
    environment.hear("All of that is done now.")
    assert environment.score_now().parts["call 1: press_reset"] == 0


def test_the_records_of_both_sides_must_be_as_after_the_golden_calls():
    def ended(*calls, asked="Please set_mode(mode='eco')."):
        environment = begun(2)
        for one in calls:
            environment.call_now(one)
        environment.hear(asked)
        environment.hear("All of that is done now.")
        return environment.score_now().total

    unlock = call("unlock", contract_id="H2")
    assert ended(unlock) == 1
    assert ended() == 0
    assert ended(unlock, asked="All of that is done now.") == 0
    assert ended(unlock, call("send_engineer", contract_id="H1", day="Monday")) == 0
    assert ended(unlock, asked="Please set_mode('eco') and press_reset().") == 0


@pytest.mark.parametrize(
    ("said", "done"),
    [
        ("Please call toggle_heating().", ["toggle_heating"]),
        ("1. press_reset\n2. toggle_heating", ["press_reset", "toggle_heating"]),
        ("Could you press the reset button? Then set the mode to comfort.",
         ["press_reset", "set_mode comfort"]),
        ("Call set_mode(mode='comfort').", ["set_mode comfort"]),
        ('Use set_mode with {"mode": "comfort"}.', ["set_mode comfort"]),
        ("set_mode('comfort')", ["set_mode comfort"]),
        ("I need you to press reset.", ["press_reset"]),
        ("I'd like you to press reset.", ["press_reset"]),
        ("I have unlocked it. Now press reset.", ["press_reset"]),
        ("After that, press reset.", ["press_reset"]),
        ("You should press reset now.", ["press_reset"]),
        ("Turn the heating on.", ["toggle_heating"]),
        ("If the heating is off, turn the heating on.", ["toggle_heating"]),
        ("Turn off the heating.", []),  # it is off
        ("Turn heating off, please.", []),
        ("Do not press reset.", []),
        ("Please don't turn the heating on.", []),
        ("Never call toggle_heating.", []),
        ("I pressed reset from here. I will turn the heating on.", []),
        ("Shall I press reset?", []),
        ("Should we turn the heating on?", []),
        ("I'll press reset for you.", []),
        ("Did you press reset?", []),
        ("You have turned the heating on, I see.", []),
        ("Once you press reset we go on.", []),
        ("If the panel is dark, press reset.", []),  # it is not known here whether it is
        ("They press reset in such cases.", []),
        ("Do you want me to press reset?", []),
        ("press_reset_now", []),
    ],
)  # fmt: skip
def test_the_person_does_what_is_asked_for_and_no_more(said, done):
    environment = begun()
    before = dict(environment.session.sides.person.db)
    environment.hear(said)
    after = environment.session.sides.person.db
    found = ["press_reset"] * (after["presses"] - before["presses"])
    found += ["toggle_heating"] * (after["heating"] != before["heating"])
    found += [f"set_mode {after['mode']}"] * (after["mode"] != before["mode"])
    assert sorted(found) == sorted(done)


def test_what_is_asked_is_answered_by_looking():
    environment = begun()
    answer = environment.hear("What does the panel show?")
    assert answer == "check_panel: Heating: OFF, mode eco, locked True"
    assert environment.hear("Which contract is it?").startswith("As I said: I am Ann Lee")
    assert environment.hear("Shall I go on?") == "Yes, please."
    assert environment.hear("Turn off the heating.") == "toggle_heating: it is off already."
    assert environment.hear("Please set_mode.") == "set_mode: what should I give for mode?"
    assert environment.hear("Please set the mode.") == "set_mode: what should I give for mode?"


def test_a_talk_has_an_end_whatever_is_asked():
    environment = begun()
    turns = 0
    while environment.hear("press_reset " * 30) is not None:
        turns += 1
    assert turns == 3
    assert environment.session.sides.person.db["presses"] == 90
    environment = begun()
    answers = [environment.hear("press_reset " * 50) for _ in range(3)]
    assert [answer is None for answer in answers] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(a=1, b='x')", {"a": 1, "b": "x"}),
        ("('y', b=')')", {"a": "y", "b": ")"}),
        (' with {"a": "x (1)"} now', {"a": "x (1)"}),
        ("(a=1", {}),
        ("(a=__import__('os'))", {}),
        ("(a=[1, {'b': True}])", {"a": [1, {"b": True}]}),
        (": {1: 2}", {}),
        (". Then {\"a\": 1}", {}),
        ("(" * 9999, {}),
        ("(a='\\d')", {"a": "\\d"}),
        ("", {}),
    ],
)  # fmt: skip
def test_arguments_are_read_and_nothing_is_executed(text, found):
    assert arguments_after(text, ["a", "b"])[0] == found


def test_values_are_compared_with_lists_in_any_order():
    assert is_same({"a": [1, {"b": [2, 3]}]}, {"a": [{"b": [3, 2]}, 1.0]})
    assert not is_same({"a": [1, 1]}, {"a": [1, 2]})
    assert not is_same({"a": 1}, {"a": 1, "b": None})
    assert not is_same([1], [1, 1])


def test_the_audit_replays_and_attacks_both_sides():
    found = audit_foreign_set(sides.house())
    summary = found["summary"]
    assert (summary["tasks"], summary["golden_calls"], summary["golden_writes"]) == (3, 8, 7)
    assert summary["careless"] == {
        "silent": {"tried": 3, "passed": 0},
        "agent_alone": {"tried": 3, "passed": 0},
        "person_alone": {"tried": 3, "passed": 0},
        # assertions and calls say nothing of what else was done; whole records do
        "one_too_many": {"tried": 2, "passed": 1},
    }
    assert all(one["tried"] == one["passed"] for one in summary["careful"].values())
    assert summary["careful"]["one_by_one"]["tried"] == 1
    assert summary["writes_left_out"] == {"tried": 7, "passed": 0}
    assert (summary["gold_faulty"], summary["unjudged"]) == (0, [])


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        ([sides.action("set_mode", by="user", mode="hot-9")], "a value from nowhere: set_mode"),
        ([sides.action("dance", by="user")], "a tool that is not offered: dance"),
        ([sides.action("get_contract", contract_id="H1"),
          sides.action("set_mode", by="user", mode="blue-7")], ""),  # read before
        ([sides.action("unlock", contract_id="H1")] * 2, "a write that makes no difference"),
    ],
)  # fmt: skip
def test_faults_of_the_persons_golden_calls_are_found(actions, words):
    initial = sides.COLD["initial_state"]["initialization_actions"]
    source = sides.house(sides.house_task(0, actions, basis=("DB",), initial=initial))
    (row,) = audit_foreign_set(source)["rows"]
    assert any(fault.startswith(words) for fault in row["faults"]) if words else not row["faults"]


def test_a_world_that_breaks_makes_the_episode_invalid():
    environment = begun()
    environment.session.sides.sync = lambda: 1 / 0
    assert environment.hear("Please call toggle_heating().") is None
    assert isinstance(environment.score_now(), Invalid)
    environment = begun()
    environment.session.sides.sync = lambda: 1 / 0
    assert environment.call_now(call("unlock", contract_id="H1")).is_error
    assert isinstance(environment.score_now(), Invalid)


def test_an_agent_talks_the_person_through_it():
    class Agent:
        async def chat(self, messages, *, tools):
            said = messages[-1]["content"]
            if "cold" in said:
                return {"role": "assistant", "content": "What does the panel say?"}
            if "locked True" in said:
                function = {"name": "unlock", "arguments": '{"contract_id": "H1"}'}
                return {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"id": "1", "type": "function", "function": function}],
                }
            if said == "unlocked":
                words = "Turn the heating on and set the mode to comfort."
                return {"role": "assistant", "content": words}
            return {"role": "assistant", "content": "It is warm now."}

    source = sides.house()
    environment = ForeignEnvironment(source, source.tasks[0])
    episode = asyncio.run(run_episode(environment, Agent()))
    assert episode.reward.total == 1


def test_a_person_without_tools_is_as_before():
    person = Hands("My boiler is cold.")
    assert person.answer("Could you call toggle_heating()?") == "As I said: My boiler is cold."
    assert person.answer("All of that is done now.") is None


SWITCHES = {
    "check_network_status": "Airplane Mode: {}\nMobile Data Enabled: {}\n"
    "Data Roaming Enabled: {}\nWi-Fi Radio: {}",
    "check_wifi_calling_status": "Wi-Fi Calling is currently turned {}.",
    "check_data_restriction_status": "Data Saver mode is {} (limits data usage).",
}


def phone(said, *, switches="OFF"):
    """What a person with a phone does when they hear this; looks at a switch are left out."""
    done = []

    def act(name, arguments):
        shown = SWITCHES.get(name, "")
        done.append(" ".join([name, *arguments.values()]))
        return shown.format(*[switches] * shown.count("{}"))

    person = Hands("x", TELECOM)
    needs = {"grant_app_permission": {"app_name": "string", "permission": "string"},
             "set_network_mode_preference": {"mode": "string"},
             "check_app_permissions": {"app_name": "string"}}  # fmt: skip
    person.take([sides.text(way.tool, **needs.get(way.tool, {})) for way in TELECOM], act)
    person.answer(said)
    return [one for one in done if one.startswith(("check_", "can_")) is ("?" in said)]


@pytest.mark.parametrize(
    ("said", "on", "off"),
    [
        ("Turn airplane mode off, please.", ["toggle_airplane_mode"], []),
        ("Switch off flight mode.", ["toggle_airplane_mode"], []),
        ("Please enable mobile data.", [], ["toggle_data"]),
        ("Make sure to turn data roaming on.", [], ["toggle_roaming"]),
        ("Disable Wi-Fi Calling.", ["toggle_wifi_calling"], []),
        ("Turn Wi-Fi off and disable Wi-Fi calling.", ["toggle_wifi", "toggle_wifi_calling"], []),
        ("Now switch data saver off.", ["toggle_data_saver_mode"], []),
        ("Toggle airplane mode.", ["toggle_airplane_mode"], ["toggle_airplane_mode"]),
        ("Turn off the VPN.", ["disconnect_vpn"], ["disconnect_vpn"]),
        ("Disconnect your VPN.", ["disconnect_vpn"], ["disconnect_vpn"]),
        ("Set the network mode to 4G/5G preferred.", *[["set_network_mode_preference 4g_5g_preferred"]] * 2),
        ("Set your preferred network to 3G only.", *[["set_network_mode_preference 3g_only"]] * 2),
        ("Change the network mode to LTE.", *[["set_network_mode_preference 4g_only"]] * 2),
        ("Remove the SIM card and put it back in.", *[["reseat_sim_card"]] * 2),
        ("Reset the APN settings, then restart your phone.", *[["reset_apn_settings", "reboot_device"]] * 2),
        ("Give the messaging app the SMS and storage permissions.",
         *[["grant_app_permission messaging sms", "grant_app_permission messaging storage"]] * 2),
        ("I sent a request. Please make the payment.", *[["make_payment"]] * 2),
        ("Run a speed test.", *[["run_speed_test"]] * 2),
        ("What does the status bar show?", *[["check_status_bar"]] * 2),
        ("Can you send an MMS now?", *[["can_send_mms"]] * 2),
        ("Is airplane mode on?", *[["check_network_status"]] * 2),
        ("Is your SIM card locked?", *[["check_sim_status"]] * 2),
        ("Is Wi-Fi calling on?", *[["check_wifi_calling_status"]] * 2),
        ("Which permissions does the browser have?", *[["check_app_permissions browser"]] * 2),
        ("Do not restart your phone.", [], []),
        ("I have turned roaming on.", [], []),
        ("I will reset the APN settings and restart your phone.", [], []),
    ],
)  # fmt: skip
def test_a_phone_is_handled_as_plain_words_ask(said, on, off):
    assert phone(said, switches="ON") == on
    assert phone(said, switches="OFF") == off


@pytest.mark.parametrize(
    ("messages", "answers", "presses"),
    [
        ([{"calls": ["press_reset"] * 2}, {"content": "It blinks."}], ["It blinks."], 2),
        ([{"content": "Yes."}, {"content": "Bye. [END]"}], ["Yes.", None], 0),
        ([{"content": ""}], [None], 0),
        ([{"calls": ["press_reset"]}] * 99, [None], 30),
        ([{"calls": [None, "unlock"]}, {"content": "?"}], ["?"], 0),
        ([{"content": "Yes."}] * 99, ["Yes."] * 20 + [None], 0),
    ],
)
def test_a_model_is_a_person_with_tools(messages, answers, presses):
    class Model:
        def __init__(self):
            self.rest = list(messages)

        def ask(self, said, tools):
            one = self.rest.pop(0)
            calls = [{"function": name and {"name": name}} for name in one.get("calls", ())]
            return {"role": "assistant", "content": one.get("content", ""), "tool_calls": calls}

    source = sides.house()
    person = foreign_person_by(Model())
    environment = ForeignEnvironment(source, source.tasks[0], person)
    environment.start()
    assert [environment.hear("Please press reset.") for _ in answers] == answers
    assert environment.session.sides.person.db["presses"] == presses


def test_a_model_without_tools_is_a_person_too():
    class Model:
        def ask(self, said, tools):
            assert not tools
            assert "Never invent" in said[0]["content"]
            calls = [{"id": "1", "function": {"name": "x"}}]
            is_told = said[-1]["role"] == "tool"
            return {"role": "assistant", "content": "Well.", "tool_calls": [] if is_told else calls}

    task = sides.house().tasks[0]
    assert foreign_person_by(Model())(task).answer("Hello?") == "Well."


def test_one_side_is_tried_alone_only_where_the_other_must_change_something():
    press = sides.action("press_reset", by="user")
    look = sides.action("get_contract", contract_id="H1")
    warm = [sides.assertion("is_warm")]
    source = sides.house(
        sides.house_task(0, [look, press], basis=("DB",)),
        sides.house_task(1, [sides.action("unlock", contract_id="H1")], assertions=warm),
        sides.house_task(2, [press], assertions=warm),
    )
    summary = audit_foreign_set(source)["summary"]
    assert summary["careless"]["agent_alone"] == {"tried": 2, "passed": 1}
    assert "person_alone" not in summary["careless"]
    # The house is warm from the start: two tasks pass with no call, one though its gold writes.
    assert summary["careless"]["silent"] == {"tried": 3, "passed": 2}
    assert summary["silent_though_gold_writes"] == 1


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"agent_tool_name": "close_7", "arguments": '{"a": 1}'}, ("close_7", {"a": 1})),
        ({"tool_name": "close_7", "arguments": {"a": 1}}, ("close_7", {"a": 1})),
        ({"tool_name": "close_7"}, ("close_7", {})),
        ({"tool_name": "close_7", "arguments": "{"}, None),
        ({"tool_name": "close_7", "arguments": "[1]"}, None),
        ({"tool_name": 7, "arguments": "{}"}, None),
        ({"tool_name": "a", "other_tool_name": "b", "arguments": "{}"}, None),
        ({"name": "a", "arguments": "{}"}, None),
    ],
)
def test_a_call_that_hands_on_another_is_read_as_that_one(arguments, found):
    step = Step(tool="call", arguments=arguments)
    one = inner(step)
    assert one == (step if found is None else Step(tool=found[0], arguments=found[1]))


@pytest.mark.parametrize(
    ("said", "done"),
    [
        ("I have given you dispute_0589. Please run dispute_0589(user_id='u1').",
         [("run_given", {"given_tool_name": "dispute_0589", "arguments": '{"user_id": "u1"}'})]),
        ('Please use dispute_0589 with {"user_id": "u1"}.',
         [("run_given", {"given_tool_name": "dispute_0589", "arguments": '{"user_id": "u1"}'})]),
        ("Please call run_given(given_tool_name='a_1', arguments='{}').",
         [("run_given", {"given_tool_name": "a_1", "arguments": "{}"})]),
        ("Please use dispute_0589.", []),  # with what?
        ("Do not run dispute_0589(user_id='u1').", []),
        ("I ran dispute_0589(user_id='u1') for you.", []),
    ],
)  # fmt: skip
def test_a_person_runs_a_tool_that_the_agent_has_given_them(said, done):
    found = []
    person = Hands("x")
    tool = sides.text("run_given", given_tool_name="string", arguments="string")
    person.take([tool], lambda *call: found.append(call) or "done")
    person.answer(said)
    assert found == done

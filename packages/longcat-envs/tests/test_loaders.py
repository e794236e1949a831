"""Other benchmarks' tasks behind our protocol, with small sets of our own making in their forms."""

import asyncio
import importlib.util
import json
import sys
import tomllib
from pathlib import Path

import pytest
from longcat_envs import DomainError, Invalid, Reward, run_episode
from longcat_envs.commands import main
from longcat_envs.loaders import (
    ForeignEnvironment,
    audit_foreign_set,
    is_foreign,
    load_foreign,
)
from longcat_envs.loaders._bfcl import schema_of, step_of
from longcat_envs.loaders._overlay import Overlay
from longcat_envs.testing import FakeServer

_SPEC = importlib.util.spec_from_file_location("foreign", Path(__file__).parent / "foreign.py")
foreign = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(foreign)
_TWO = importlib.util.spec_from_file_location("two_sides", Path(__file__).parent / "two_sides.py")
sides = importlib.util.module_from_spec(_TWO)
_TWO.loader.exec_module(sides)


def call(name, /, **arguments):
    return {"function": {"name": name, "arguments": json.dumps(arguments)}}


def begun(source, place=0, **more):
    environment = ForeignEnvironment(source, source.tasks[place], **more)
    environment.start()
    return environment


def met(environment):
    score = environment.score_now()
    assert isinstance(score, Reward)
    return score.total


def test_a_table_over_a_shared_one_hands_out_copies_and_knows_what_changed():
    base = {"a": {"n": 1}, "b": {"n": 2}}
    table = Overlay(base)
    table["a"]["n"] = 1  # looked up, not changed
    assert table.difference() == {}
    table["a"]["n"] = 5
    table["c"] = {"n": 3}
    assert table["a"] is table["a"]
    assert list(table) == ["a", "b", "c"]
    assert [record["n"] for record in table.values()] == [5, 2, 3]
    assert dict(table.items())["a"] == {"n": 5}
    assert table.difference() == {"a": {"n": 5}, "c": {"n": 3}}
    del table["b"]
    del table["c"]
    assert "b" not in table
    assert len(table) == 1
    assert table.difference() == {"a": {"n": 5}, "b": None}
    with pytest.raises(KeyError):
        table["b"]
    with pytest.raises(KeyError):
        del table["b"]
    table["b"] = {"n": 2}
    assert table.difference() == {"a": {"n": 5}}
    assert base == {"a": {"n": 1}, "b": {"n": 2}}


def test_what_a_difference_holds_is_not_changed_by_later_calls():
    table = Overlay({"a": {"n": [1]}})
    table["a"]["n"].append(2)
    before = table.difference()
    table["a"]["n"].append(3)
    assert before == {"a": {"n": [1, 2]}}


def test_a_kiosk_task_passes_by_its_golden_calls_and_not_without_them():
    source = foreign.kiosk()
    environment = begun(source)
    observation = asyncio.run(environment.reset())
    assert observation.messages[0]["content"] == "Be kind."
    assert "cancel order O1" in observation.messages[1]["content"]
    assert {tool["function"]["name"] for tool in observation.tools} >= {"cancel", "calculate"}
    assert environment.call_now(call("cancel", order_id="O1")).content == "cancelled"
    assert met(environment) == 0  # the agent has not said that it is done
    assert environment.hear("All of that is done now.") is None
    assert met(environment) == 1
    refused = environment.call_now(call("cancel", order_id="O2"))
    assert refused.is_error
    assert "over" in refused.content
    assert environment.hear("More?") is None
    environment.start()
    environment.hear("Done.")
    assert met(environment) == 0
    assert source.intact()


def test_the_person_of_a_kiosk_task_agrees_before_anything_is_done():
    environment = begun(foreign.kiosk())
    assert environment.hear("Shall I cancel O1?") == "Yes, please."


def test_what_must_be_told_is_looked_for_as_the_benchmark_does():
    for said, reward in (("It was 1,240.5 in all.", 1), ("It was 1240.", 0), ("", 0)):
        environment = begun(foreign.kiosk(), 1)
        environment.call_now(call("get_order", order_id="O2"))
        while environment.hear(said) is not None:
            pass
        assert met(environment) == reward


def test_a_basis_without_communication_asks_for_no_words_and_names_what_is_not_judged():
    task = foreign.kiosk_task(
        7,
        "x",
        [],
        ["1240.5"],
        reward_basis=["DB", "NL_ASSERTION"],
        nl_assertions=["Agent is kind."],
    )
    (found,) = foreign.kiosk(task).tasks
    assert (found.told, found.unjudged, found.hints) == ((), ("NL_ASSERTION",), ("Agent is kind.",))


@pytest.mark.parametrize(
    "odd",
    [
        {},
        None,
        {"function": None},
        {"function": {"name": "cancel", "arguments": "[" * 99999}},
        call("cancel"),
        call("cancel", order_id="O1", more=1),
        call("_order", order_id="O1"),
        call("__init__"),
        call("nothing"),
        call("cancel", order_id=["O1"]),
        call("cancel", order_id="\ud800"),
        call("db"),
        call("calculate", expression=None),
    ],
)
def test_whatever_is_called_is_answered_and_changes_nothing(odd):
    environment = begun(foreign.kiosk())
    assert environment.call_now(odd).is_error
    assert environment.session.state() == {}
    assert isinstance(environment.score_now(), Reward)


def test_a_world_that_breaks_makes_the_episode_invalid_and_never_a_zero():
    source = foreign.kiosk()
    assert isinstance(ForeignEnvironment(source, source.tasks[0]).score_now(), Invalid)
    environment = begun(source)
    environment.session.call = lambda name, arguments: 1 / 0
    assert environment.call_now(call("cancel", order_id="O1")).is_error
    environment.hear("Done.")
    assert "ZeroDivisionError" in environment.score_now().reason
    environment.start()
    environment.session.parts = lambda said: 1 / 0
    assert "ZeroDivisionError" in environment.score_now().reason
    environment.start()
    environment.session.end_turn = lambda: 1 / 0
    assert environment.hear("Done.") is None
    assert "ZeroDivisionError" in environment.score_now().reason
    source.begin = lambda task: 1 / 0
    environment.start()
    assert "ZeroDivisionError" in environment.score_now().reason


def test_a_person_who_fails_makes_the_episode_invalid():
    class Broken:
        was_asked = False

        def answer(self, text):
            raise ConnectionError("gone")

    environment = begun(foreign.kiosk(), person=lambda task: Broken())
    assert asyncio.run(environment.reply({"content": "Hello?"})) is None
    assert "gone" in environment.score_now().reason


def test_an_episode_runs_in_the_loop_of_the_package_and_closes():
    class Cancels:
        async def chat(self, messages, *, tools):
            if messages[-1]["role"] == "user":
                return {"role": "assistant", "tool_calls": [call("cancel", order_id="O1")]}
            return {"role": "assistant", "content": "It is cancelled."}

    source = foreign.kiosk()
    environment = ForeignEnvironment(source, source.tasks[0])
    episode = asyncio.run(run_episode(environment, Cancels()))
    assert (episode.reward.total, episode.status, episode.num_calls) == (1, "done", 1)
    asyncio.run(environment.close())
    assert environment.call_now(call("cancel", order_id="O1")).is_error


def test_a_task_is_played_in_its_own_set_only():
    with pytest.raises(ValueError, match="must be of 'bfcl:boxes'"):
        ForeignEnvironment(foreign.boxes(), foreign.kiosk().tasks[0])


def test_turns_are_judged_by_calls_state_and_answers():
    source = foreign.boxes()
    good = [[call("put", thing="pen"), call("look")], [call("put", thing="key")]]
    for calls, reward in (
        (good, 1),
        ([[call("look"), *good[0]], good[1]], 1),  # a call too many that only reads
        ([[good[0][0]], good[1]], 0),  # an answer is missing
        ([[call("put", thing="cap"), call("look")], good[1]], 0),
        ([good[0], []], 0),
        ([[*good[0], *good[1]], []], 0),  # all at once, then nothing is called
        ([good[0], [call("put", thing="key"), call("put", thing="key")]], 0),
    ):
        environment = begun(source)
        for turn in calls:
            for one in turn:
                environment.call_now(one)
            environment.hear("Done.")
        assert met(environment) == reward, calls
    environment = begun(source)
    for one in good[0]:
        environment.call_now(one)
    environment.hear("Done.")
    parts = environment.score_now().parts
    assert [name for name, one in parts.items() if not one][1:] == ["turn 2: ended"]


def test_a_tool_that_comes_later_is_refused_before_and_told_of_then():
    environment = begun(foreign.boxes(), 1)
    assert [s["function"]["name"] for s in environment.task.tools] == ["put", "fail", "tag"]
    assert environment.call_now(call("look")).is_error
    told = environment.hear("I have no tool for that.")
    assert '"look"' in told
    assert environment.call_now(call("look")).content == '{"things": ["cup"]}'
    assert environment.hear("There is a cup.") == "Tag the cup as old."
    assert environment.call_now(call("tag", thing="cup", tags=["old"])).content == "cup has 2 tags"
    assert environment.hear("Done.") is None
    assert met(environment) == 1
    assert environment.task.golden[2][0].arguments == {"thing": "cup", "tags": ["old"]}


def test_a_back_ends_exception_and_its_own_errors_are_answers():
    environment = begun(foreign.boxes())
    for name in ("fail", "wrong"):
        assert environment.call_now(call(name)).is_error
    assert environment.call_now(call("put", nothing="x")).is_error
    assert environment.session.state() == {"Box": {"things": ["cup"], "tags": {}}}


def test_episodes_share_no_state():
    source = foreign.boxes()
    one, other = begun(source), begun(source)
    one.call_now(call("put", thing="pen"))
    assert other.session.state()["Box"]["things"] == ["cup"]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("f()", {}),
        (" f(1, b='x') ", {"a": 1, "b": "x"}),
        ("f(b=[1, {'c': -2}])", {"b": [1, {"c": -2}]}),
    ],
)
def test_golden_calls_are_read_and_not_run(text, arguments):
    step = step_of(text, {"f": ["a", "b"]})
    assert (step.tool, step.arguments) == ("f", arguments)


@pytest.mark.parametrize(
    "text", ["f(g())", "f.g()", "1", "f(", "f(x)", "__import__('os').remove('x')"]
)
def test_a_golden_call_that_is_no_call_of_literals_is_refused(text):
    with pytest.raises(DomainError, match="one call of literals"):
        step_of(text, {})


def test_types_of_other_dialects_become_those_of_json():
    schema = schema_of(
        {
            "name": "f",
            "description": "d",
            "parameters": {
                "type": "dict",
                "properties": {
                    "a": {"type": "float"},
                    "b": {"type": "array", "items": {"type": "tuple"}},
                    "c": {"type": "any"},
                    "d": {"type": "integer", "default": 2},
                },
                "required": ["a"],
            },
        }
    )
    assert schema["function"]["parameters"] == {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "number"},
            "b": {"type": "array", "items": {"type": "array"}},
            "c": {"type": "string"},
            "d": {"type": "integer", "default": 2},
        },
    }


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """Fake wheels in the form of the real ones, and none that may be installed."""
    site = tmp_path / "site"
    foreign.write(site, foreign.TAU2_WHEEL)
    foreign.write(site, foreign.tau2_files("inspect_evals/tau2/data/domains/retail"))
    foreign.write(site, foreign.BFCL_WHEEL)
    foreign.write(site, sides.two_sided_files("inspect_evals/tau2/data/domains"))
    for category, entries in (("base", foreign.ENTRIES[:1]), ("long_context", foreign.ENTRIES[:1])):
        name = f"BFCL_v4_multi_turn_{category}.json"
        answers = [
            {"id": one["id"], "ground_truth": [["put('pen')"], ["put(thing='key')"]]}
            for one in entries
        ]
        foreign.write(
            site / "bfcl_eval" / "data",
            {
                name: "\n".join(map(json.dumps, entries)),
                f"possible_answer/{name}": "\n".join(map(json.dumps, answers)),
            },
        )
    for name in [
        n for n in sys.modules if n.split(".")[0] in ("inspect_evals", "inspect_ai", "bfcl_eval")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(site))
    yield tmp_path
    for name in [
        n for n in sys.modules if n.split(".")[0] in ("inspect_evals", "inspect_ai", "bfcl_eval")
    ]:
        sys.modules.pop(name)


def test_sets_are_loaded_from_wheels_of_their_form(wheels):
    source = load_foreign("tau2:retail")
    assert (source.name, source.version, len(source.tasks)) == (
        "tau2:retail",
        "inspect-evals 9.9",
        1,
    )
    environment = begun(source)
    assert environment.call_now(call("cancel", order_id="O1")).content == "cancelled"
    assert environment.call_now(call("calculate", expression="6*7")).content == "42"
    environment.hear("Done.")
    assert met(environment) == 1
    assert load_foreign("bfcl:base").version == "bfcl-eval 9.8"
    assert begun(load_foreign("bfcl:base")).session.state()["Box"]["things"] == ["cup"]
    assert begun(load_foreign("bfcl:long_context")).session.state()["Box"]["things"] == [
        "cup",
        "more",
    ]


@pytest.fixture
def two_sided(wheels):
    for files in (sides.TELECOM_WHEEL, sides.BANKING_WHEEL):
        foreign.write(wheels / "site", files)


def test_telecom_is_a_carrier_and_a_phone(two_sided):
    assert [task.id for task in load_foreign("tau2:telecom_full").tasks] == ["abroad", "other"]
    source = load_foreign("tau2:telecom")
    environment = begun(source)
    assert "Phones roam." in environment.task.system
    assert [task.id for task in source.tasks] == ["abroad"]
    assert environment.call_now(call("enable_roaming", line_id="L1")).content == (
        '{"line": {"line_id": "L1", "phone_number": "555-1", "roaming": true}}'
    )
    assert environment.hear("Please turn on data roaming.") == (
        "toggle_roaming: Data Roaming is now ON"
    )
    environment.hear("Done.")
    assert met(environment) == 1
    state = environment.session.state()  # the bill that is named at random has a name of its own
    assert sorted(state) == ["bills/B9003", "customers/C1", "lines/L1", "phone/phone"]
    assert state["bills/B9003"]["due"] == 2.0
    assert state["customers/C1"]["bill_ids"] == ["B1", "B9003"]
    assert "bills/B77" not in state
    assert begun(source).session.state() == {}
    found = audit_foreign_set(source)["summary"]
    assert (found["golden_writes"], found["gold_faulty"], found["careful"]["plain"]["passed"]) == (
        2, 0, 1,
    )  # fmt: skip


def test_banking_is_one_database_for_both_sides(two_sided):
    source = load_foreign("tau2:banking")
    environment = begun(source)
    assert environment.task.system == "You work at a bank. Use grep."
    assert environment.call_now(call("grep", pattern="Gold")).content == "There is the Gold Card."
    assert environment.call_now(call("call_tool", agent_tool_name="x", arguments="{}")).is_error
    users = environment.session.sides.agent.db.users.data
    assert users == {"u1": {"name": "Ann Lee", "email": "a@x.org"}}
    assert environment.hear("Please call apply(card_type='Gold Card').") == "apply: applied"
    environment.hear("Done.")
    assert met(environment) == 1
    assert audit_foreign_set(source)["summary"]["gold_faulty"] == 0
    assert begun(source).session.sides.agent.db.cards.data == {}


def test_a_checkout_gives_its_own_data(wheels):
    folder = wheels / "checkout"
    files = foreign.tau2_files("data/tau2/domains/retail", "policy.md")
    tasks = [
        foreign.kiosk_task(n, "Cancel O1.", [("cancel", {"order_id": "O1"})]) for n in range(3)
    ]
    foreign.write(folder, {**files, "data/tau2/domains/retail/tasks.json": json.dumps(tasks)})
    source = load_foreign("tau2:retail", folder)
    assert (len(source.tasks), source.version) == (3, "checkout, tools of inspect-evals 9.9")


@pytest.mark.parametrize(
    ("name", "folder", "words"),
    [
        ("tau2:mock", None, "airline, retail, telecom, telecom_full, banking"),
        ("tau2:telecom", None, r"pip install .longcat-envs\[tau2\]"),
        ("tau2:banking", ".", "from its wheel alone"),
        ("bfcl:simple", None, "base, miss_func"),
        ("tau2:airline", None, r"pip install .longcat-envs\[tau2\]"),
        ("tau2:retail", "nowhere", "must be a folder"),
        ("tau2:retail", ".", "must hold"),
        ("bfcl:base", ".", "from its wheel alone"),
        ("bfcl:miss_func", None, "must hold"),
        ("webarena:all", None, "tau2:airline, tau2:retail"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(wheels, monkeypatch, name, folder, words):
    monkeypatch.chdir(wheels)
    with pytest.raises(DomainError, match=words) as error:
        load_foreign(name, folder)
    assert "\n" not in str(error.value)


def test_without_the_wheels_the_commands_say_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_evals.tau2", None)
    monkeypatch.setitem(sys.modules, "bfcl_eval", None)
    for name, words in (
        ("tau2:airline", "pip install 'longcat-envs[tau2]'"),
        ("bfcl:base", "pip install --no-deps bfcl-eval mpmath"),
    ):
        assert main(["audit", name]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1


def test_the_extra_that_the_error_names_brings_what_the_loader_imports():
    project = Path(__file__).parents[1] / "pyproject.toml"
    extras = tomllib.loads(project.read_text("utf-8"))["project"]["optional-dependencies"]
    assert [one.partition(">")[0] for one in extras["tau2"]] == ["inspect-evals"]
    assert set(extras) == {"tau2"}  # the pins of bfcl-eval would hold back numpy for everybody


def test_commands_audit_and_run_agents_and_models_on_foreign_tasks(wheels, capsys, tmp_path):
    assert main(["audit", "tau2:retail", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert (summary["tasks"], summary["gold_faulty"]) == (1, 1)  # `get_order` is no tool there
    assert main(["audit", "bfcl:base", "--tasks", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["golden_calls"] == 2
    agent = tmp_path / "mine.py"
    agent.write_text(
        "class Mine:\n    def chat(self, messages, *, tools):\n"
        "        return {'role': 'assistant', 'content': 'All done.'}\n"
    )
    assert main(["agents", "bfcl:base", "--json", "--agent", f"{agent}:Mine"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["careful"] == {"tried": 3, "passed": 3}
    assert found["summary"]["careless"] == {"tried": 1, "passed": 0}
    assert found["summary"]["yours"] == {"tried": 1, "passed": 0}
    talk = {"role": "assistant", "content": "All of that is done."}
    with FakeServer(lambda body: (200, talk)) as server:
        assert main(["run", "tau2:retail", "--model", server.url, "--k", "2", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert (summary["set"], summary["episodes"], summary["pass@1"][0]) == ("tau2:retail", 2, 0)


def test_a_model_speaks_for_the_person_of_a_foreign_task(two_sided, capsys):
    def agent(body):
        last = body["messages"][-1]
        if last["role"] == "user" and "abroad" in last["content"]:
            function = {"name": "enable_roaming", "arguments": '{"line_id": "L1"}'}
            return 200, {"content": "", "tool_calls": [{"id": "1", "function": function}]}
        is_on = "roaming is on" in last["content"]
        return 200, {"content": "All is done." if is_on else "Turn roaming on, please."}

    def user(body):
        last = body["messages"][-1]
        if last["role"] == "tool":
            return 200, {"content": "My roaming is on."}
        if last["content"] == "All is done.":
            return 200, {"content": "[END]"}
        function = {"name": "toggle_roaming", "arguments": "{}"}
        return 200, {"content": "", "tool_calls": [{"id": "2", "function": function}]}

    with FakeServer(agent) as model, FakeServer(user) as person:
        command = ["run", "tau2:telecom", "--k", "1", "--json"]
        assert main([*command, "--model", model.url, "--user", person.url]) == 0
        assert main(["run", "bfcl:base", "--model", model.url, "--user", person.url]) == 2
    out = capsys.readouterr()
    assert json.loads(out.out)["summary"]["pass@1"][0] == 1
    assert "prepared lines" in out.err
    names = {tool["function"]["name"] for tool in person.bodies[0]["tools"]}
    assert names == {"toggle_roaming", "check_network_status"}
    assert "My phone 555-1 is abroad" in person.bodies[0]["messages"][0]["content"]
    assert "toggle_roaming" not in str(
        model.bodies
    )  # the agent sees what is said, not what is done


def test_options_of_one_kind_of_tasks_are_refused_for_the_other(capsys):
    url = ["--model", "http://127.0.0.1:9/v1"]
    for arguments in (
        ["run", "tau2:retail", *url, "--file", "x"],
        ["run", "bfcl:base", *url, "--judge", "http://x"],
        ["audit", "bank", "--from", "."],
        ["agents", "bank", "--from", "."],
        ["run", "bank", *url, "--from", "."],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_which_names_are_foreign():
    assert is_foreign("tau2:x")
    assert is_foreign("bfcl:")
    assert not any(map(is_foreign, ("bank", "tau2", "a:b", "/x/tau2:y")))

"""A certificate says that the goal stays within reach, and is refused where it does not."""

import dataclasses
import json

import pytest
from longcat_noise import (
    HABITS,
    TOOL_KINDS,
    USER_KINDS,
    Book,
    Certificate,
    NoiseConfig,
    NoiseTask,
    certify,
    read_jsonl,
)  # fmt: skip
from longcat_noise import testing as clinic
from longcat_noise._recorded import RecordedWorld
from longcat_noise.tools import TOOLS

BOOK = Book.of(clinic.CONTRACTS)
TASKS = [NoiseTask.read(raw) for raw in clinic.tasks(60)]


def world(task):
    return clinic.clinic(task.raw)


def everything(level, seed=0):
    return NoiseConfig(level=level, tool_kinds=TOOL_KINDS, user_kinds=USER_KINDS, seed=seed)


def given(task, level=1.0, episode="e", config=None, **more):
    more.setdefault("book", BOOK)
    more.setdefault("world", world)
    return certify(task, config or everything(level), episode=episode, **more)


async def golden(certificate, task):
    """Walk the chain by a loop of this test's own: patient, looks where an outcome is unknown."""
    inner = world(task)
    environment = certificate.wrap(inner, task, BOOK)
    heard = (await environment.reset()).messages[0]["content"]
    turns = 0
    name = task.chains[0][0].call.arguments["name"]
    if name.lower() not in heard.lower():
        turns += 1
        await environment.reply({"role": "assistant", "content": "Who?"})
    chains = list(task.chains)
    for place in range(9):
        if place == len(chains[0]):
            break
        step = chains[0][place]
        if step.call is None:
            turns += 1
            await environment.reply({"role": "assistant", "content": step.say})
            continue
        call = {"function": {"name": step.call.tool, "arguments": step.call.arguments}}
        while True:
            turns += 1
            seen = await environment.call(call)
            if "withdrawn" in seen.content:
                chains.reverse()
                call["function"]["name"] = chains[0][place].call.tool
                continue
            if "unknown, check" in seen.content:
                done = False
                while not done:
                    turns += 1
                    patient = {"patient_id": step.call.arguments["patient_id"]}
                    function = {"name": "list_visits", "arguments": patient}
                    look = await environment.call({"function": function})
                    done = step.call.arguments["day"] in look.content
                break
            hidden = '"..."' in seen.content or seen.content == "..."
            if not seen.is_error and not hidden and "[truncated]" not in seen.content:
                break
    return turns, inner.score()


@pytest.mark.parametrize("level", [0.3, 0.5, 1.0])
async def test_an_agent_within_its_eight_turns_always_reaches_the_goal(level):
    from longcat_noise import certify_async

    certified = 0
    for number, task in enumerate(TASKS):
        found = await certify_async(
            task, everything(level), episode=f"{number}", book=BOOK, world=world
        )
        assert found.is_certified, found.reason
        turns, reward = await golden(found, task)
        assert reward == 1.0
        assert turns <= 8
        assert turns <= found.turns
        certified += 1
    assert certified == 60


def test_a_certificate_is_one_line_and_comes_back():
    found = given(TASKS[1])
    line = found.to_json()
    assert "\n" not in line
    assert Certificate.from_json(line) == found
    assert found.config == everything(1.0)
    assert set(found.agents) == set(HABITS)
    assert found.turns == max(agent["turns"] for agent in found.agents.values())
    assert found.tokens == max(agent["tokens"] for agent in found.agents.values())
    assert found.chain[0] == {"tool": "find_patient", "arguments": {"name": "Ben Ito"}}
    assert found.clean_turns == 4
    assert found.max_turns == 8
    assert given(TASKS[1]) == found
    assert given(TASKS[1], episode="f") != found


def test_a_perfect_world_costs_what_the_chain_costs():
    for task in TASKS[:10]:
        found = given(task, level=0.0)
        own = len(task.chains[0])
        assert (found.turns, found.clean_turns, found.retries) == (own, own, 0)
        assert found.disturbed == []
        assert found.allowance is None


def test_the_turn_limit_thins_the_noise_and_then_refuses():
    task = TASKS[0]  # four steps and a question
    config = NoiseConfig(level=1.0, tool_kinds=("failure",), user_kinds=())
    free = given(task, config=config, max_turns=100)
    turns = {name: agent["turns"] for name, agent in free.agents.items()}
    assert turns["retry"] == turns["re-read"] == 4 + 2 * 2  # two calls, each fails twice
    assert turns["re-route"] == 4 + 2 * 2 + 1  # once more before it leaves `find_patient`
    for limit in range(4, 8):
        found = given(task, config=config, max_turns=limit)
        assert found.turns <= limit
        assert found.allowance < 6
        assert len(found.disturbed) == found.turns - 4
    refused = given(task, config=config, max_turns=3)
    assert not refused.is_certified
    assert refused.reason == "the golden chain alone takes 4 turns, more than 3"
    assert json.loads(refused.to_json())["is_certified"] is False


def test_tokens_are_limited_too():
    config = NoiseConfig(level=1.0, tool_kinds=("failure",), user_kinds=())
    free = given(TASKS[0], config=config)
    clean = given(TASKS[0], level=0.0)
    assert clean.tokens < free.tokens
    between = (free.tokens + clean.tokens) // 2
    found = given(TASKS[0], config=config, max_tokens=between)
    assert found.tokens <= between
    assert found.allowance < 4
    refused = given(TASKS[0], config=config, max_tokens=clean.tokens - 1)
    assert "tokens, more than" in refused.reason


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"roles": TOOLS["failure"].roles}, "partial"),  # a write shown in part
        ({"roles": TOOLS["failure"].roles}, "truncated"),
        ({"is_before": False}, "failure"),  # "try again" though it has happened
    ],
)
def test_noise_that_makes_writes_act_twice_is_refused(monkeypatch, change, kind):
    config = NoiseConfig(level=1.0, tool_kinds=(kind,), user_kinds=(), max_per_tool=1)
    assert given(TASKS[0], config=config, max_turns=50).is_certified
    monkeypatch.setitem(TOOLS, kind, dataclasses.replace(TOOLS[kind], **change))
    found = given(TASKS[0], config=config, max_turns=50)
    # Where thinning leaves the write alone a certificate may stand; the write is never disturbed.
    assert not found.is_certified or "book_visit" not in {d.get("tool") for d in found.disturbed}


def test_a_lost_write_that_no_read_shows_is_refused(monkeypatch):
    silent = [{**c, "reads": []} if c["name"] == "list_visits" else c for c in clinic.CONTRACTS]
    blind = Book.of(silent)
    kind = dataclasses.replace(TOOLS["lost_ack"], may=lambda _: True, extra_turns=0)
    monkeypatch.setitem(TOOLS, "lost_ack", kind)
    config = NoiseConfig(level=1.0, tool_kinds=("lost_ack",), user_kinds=())
    assert given(TASKS[0], config=config).is_certified
    refused = given(TASKS[0], config=config, book=blind)
    assert refused.reason == "retry: whether book_visit has happened cannot be seen"


def test_what_cannot_be_read_again_is_refused(monkeypatch):
    kind = dataclasses.replace(
        TOOLS["partial"], act=lambda s: s.content.replace("P17", "P99"), extra_turns=0
    )
    monkeypatch.setitem(TOOLS, "partial", kind)  # wrong, unsaid, and on every read
    config = NoiseConfig(level=1.0, tool_kinds=("partial",), user_kinds=(), max_per_tool=99)
    silent = Book.of(
        [{**c, "reads": ["other"]} if c["name"] == "look_up" else c for c in clinic.CONTRACTS]
    )
    refused = given(TASKS[0], config=config, book=silent, max_turns=30)
    assert refused.reason.startswith("re-read: book_visit refuses the golden call")
    refused = given(TASKS[0], config=config, max_turns=30)
    assert not refused.is_certified


def test_a_chain_that_fails_in_a_perfect_world_is_refused():
    raw = json.loads(json.dumps(clinic.tasks(1)[0]))
    wrong = NoiseTask.read({**raw, "goal_visits": []})
    assert given(wrong).reason == "the golden chain does not reach the goal: reward 0"
    raw["chains"][0][0]["arguments"]["name"] = "Nobody"
    refused = given(NoiseTask.read(raw))
    assert refused.reason.startswith("find_patient refuses the golden call")


def test_a_world_that_fails_itself_is_refused():
    class Invalid:
        reason = "the database is gone"

    class Broken(clinic.Clinic):
        def score(self):
            return Invalid()

    refused = given(TASKS[0], world=lambda t: Broken(t.opening))
    assert refused.reason == "the world failed: the database is gone"


def test_a_tool_that_stays_away_is_gone_around():
    config = NoiseConfig(level=1.0, tool_kinds=("gone",), user_kinds=())
    away = set()
    for n in range(20):
        found = given(TASKS[1], config=config, episode=f"{n}")
        assert found.is_certified
        away |= {d["tool"] for d in found.disturbed}
    assert away == {"find_patient"}  # the first chain's tool; nobody calls the other's


def test_tasks_without_a_world_are_certified_by_their_contracts():
    lines = [json.dumps(c) for c in clinic.CONTRACTS]
    lines += [json.dumps(task) for task in clinic.tasks(8)] + ["", "  "]
    book, tasks = read_jsonl(lines)
    assert set(book.contracts) == {c["name"] for c in clinic.CONTRACTS}
    for number, task in enumerate(tasks):
        found = certify(task, everything(1.0), episode=f"{number}", book=book)
        assert found.is_certified, found.reason
        assert found.turns <= 8


def test_the_format_of_other_packages_is_read_and_a_step_that_comes_twice_is_done_twice():
    lines = [
        '{"tool": "get_x", "kind": "get", "reads": ["x.n"], "writes": [], "yields": ["x"]}',
        '{"tool": "add", "kind": "write", "class": "x", "reads": [], "writes": ["x.n"]}',
        (
            '{"task": "t", "chain": [{"tool": "get_x", "arguments": {"id": "X1"}},'
            ' {"tool": "add", "arguments": {"id": "X1"}},'
            ' {"tool": "add", "arguments": {"id": "X1"}}]}'
        ),
    ]
    book, (task,) = read_jsonl(lines)
    assert [book[name].role for name in ("get_x", "add")] == ["reader", "writer"]
    for n in range(20):
        found = certify(
            task, NoiseConfig(level=0.6, tool_kinds=("failure",)), episode=f"{n}", book=book
        )
        assert found.is_certified, found.reason
        assert found.clean_turns == 3
        assert found.turns == 3 + len([d for d in found.disturbed if "tool" in d])


class PlainWords(RecordedWorld):
    """A world that answers with the bare value, not with JSON."""

    def call(self, tool_call):
        answer = super().call(tool_call)
        known = json.loads(answer.content)["answer"]
        return dataclasses.replace(answer, content=known) if known else answer


@pytest.mark.parametrize("kind", sorted(TOOLS))
def test_an_answer_in_plain_words_is_recovered_from_every_kind(kind):
    tools = [{"name": name, "reads": [f"user.{name}", "user.id"]} for name in ("find", "search")]
    book = Book.of([*tools, {"name": "close", "writes": ["user.state"]}])
    chain = [{"tool": "find", "arguments": {"mail": "ada@x.org"}, "result": "ada_berg_17"},
             {"tool": "close", "arguments": {"user": "ada_berg_17"}}]  # fmt: skip
    task = NoiseTask.read({"id": "t", "opening": "Close it, ada@x.org.", "chain": chain})
    for seed in range(5):
        config = NoiseConfig(level=1.0, tool_kinds=(kind,), seed=seed)
        found = given(task, config=config, book=book, world=lambda task: PlainWords(task, book))
        assert found.is_certified, found


class Talk(RecordedWorld):
    """A world whose user wants to be told after each of two wishes."""

    def reset(self):
        self.num_told = 0
        return super().reset()

    def reply(self, message):
        self.num_told += 1
        return {"role": "user", "content": "And now the other one."}

    def score(self):
        return float(self.num_told == 2 and super().score() == 1)


def test_what_a_chain_says_twice_is_said_twice():
    wishes = [{"tool": "move", "arguments": {"to": place}} for place in ("north", "south")]
    chain = [wishes[0], {"say": "Done."}, wishes[1], {"say": "Done."}]
    task = NoiseTask.read({"id": "t", "opening": "Go north.", "chain": chain})
    config = NoiseConfig(level=0.5, tool_kinds=("failure",), user_kinds=("typo",))
    found = given(task, config=config, book=Book(), world=lambda task: Talk(task, Book()))
    assert found.is_certified, found
    assert found.clean_turns == 4


def test_tools_that_an_episode_does_not_have_show_nothing():
    lacking = [{"type": "function", "function": {"name": "book_visit", "parameters": {}}}]
    book = BOOK.with_schemas(lacking)
    assert list(book.contracts) == ["book_visit"]
    assert book.check(task_call()) is None
    assert BOOK.check(task_call()).tool == "list_visits"
    assert BOOK.with_schemas([]) == BOOK


def task_call():
    return TASKS[0].chains[0][2].call


def test_a_task_with_undeclared_tools_gets_what_is_safe_for_all():
    raw = {"id": "t", "golden": [{"tool": "a", "arguments": {}}, {"tool": "b", "arguments": {}}]}
    met = set()
    for n in range(40):
        found = certify(NoiseTask.read(raw), everything(1.0), episode=f"{n}")
        assert found.is_certified
        met |= {d["kind"] for d in found.disturbed}
    assert met == {"failure", "vanish", "padding", "duplicate", "latency"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "a task must have an id"),
        ({"id": "t"}, "task 't' must have a golden chain, got"),
        ({"id": "t", "golden": []}, "task 't' must have a golden chain"),
        ({"id": "t", "golden": [{"say": "hi"}]}, "must have a call in its chain"),
        ({"id": "t", "golden": [7]}, "a step must have a tool or something to say, got 7"),
        ({"id": "t", "golden": [{"tool": "a"}], "max_turns": 0}, "max_turns must be a whole"),
        ({"id": "t", "golden": [{"tool": "a"}], "max_tokens": True}, "max_tokens must be a whole"),
    ],
)
def test_bad_tasks_are_named(raw, words):
    with pytest.raises(ValueError, match=words):
        NoiseTask.read(raw)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: must be an object"),
        ('{"reads": []}', "line 2: a contract must have a name, got None"),
        ('{"name": "a", "reads": "x"}', "line 2: a: reads must be a list of names, got 'x'"),
        ('{"name": "first", "writes": ["x"]}', "line 2: tool 'first' is declared twice"),
        ('{"name": "a", "error": "no"}', "line 2: a: error must be text with {message} in it"),
    ],
)
def test_bad_lines_are_named(line, words):
    with pytest.raises(ValueError, match=words.replace("{", r"\{").replace("[", r"\[")):
        read_jsonl(['{"name": "first", "reads": ["x"], "more": 1}', line])


def test_contracts_are_read_in_the_forms_that_there_are():
    schema = {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]}
    forms = [
        {"name": "t", "reads": ["x"], "parameters": schema},
        {"type": "function", "function": {"name": "t", "parameters": schema}, "reads": ["x"]},
        {"function": {"name": "t", "parameters": schema, "contract": {"reads": ["x"]}}},
        {"name": "t", "inputSchema": schema, "contract": {"reads": ["x"]}},
    ]
    books = [Book.of([form])["t"] for form in forms]
    assert all(one == books[0] for one in books)
    assert (books[0].parameters, books[0].required) == ({"a", "b"}, {"a"})
    assert books[0].role == "reader"
    assert Book.of([{"name": "t", "kind": "write"}])["t"].role == "writer"
    assert Book.of([{"name": "t", "kind": "create"}])["t"].role == "writer"
    assert Book.of([{"name": "t", "kind": "writes"}])["t"].role == "undeclared"
    assert Book.of([{"name": "t", "kind": "writes", "reads": ["x"]}])["t"].role == "undeclared"
    assert Book.of([{"name": "t", "kind": "find"}])["t"].role == "reader"
    assert Book.of([{"name": "t", "makes": ["visit"]}])["t"].role == "writer"
    assert Book.of([{"name": "t", "parameters": ["a"]}])["t"].role == "undeclared"
    with pytest.raises(ValueError, match="tool 't' must be declared once"):
        Book.of([{"name": "t"}, {"name": "t"}])
    task = {"id": "t", "golden": [{"tool": "a"}], "tools": ["a"], "contracts": [{"name": "a"}]}
    book, tasks = read_jsonl([json.dumps(task)])
    assert (list(book.contracts), tasks[0].id) == (["a"], "t")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (None, "must be an object"), ("book", "must be an object"),
        ({"name": "t", "idempotent": "false"}, "must be true or false"),
        ({"name": "t", "writes": [None]}, "must be a list of names"),
        ({"name": "t", "parameters": {"properties": 3}}, "properties must be an object"),
        ({"name": "t", "parameters": {"required": 3}}, "required must be a list of names"),
    ],
)  # fmt: skip
def test_a_malformed_contract_is_refused(raw, words):
    with pytest.raises(ValueError, match=words):
        Book.of([raw])


@pytest.mark.long
@pytest.mark.parametrize("level", [0.3, 0.5, 1.0])
def test_every_draw_of_many_is_certified(level):
    for seed in range(20):
        for number, task in enumerate(TASKS):
            assert given(task, config=everything(level, seed), episode=f"{number}").is_certified

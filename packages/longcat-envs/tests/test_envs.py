"""Domains, tools, databases, graphs, growth and the audit that tries to fool the verifier."""

import asyncio
import dataclasses
import json
import random
import sqlite3

import pytest
from longcat_envs import (
    Database,
    DomainError,
    Grower,
    GrowthConfig,
    Reward,
    Rubric,
    Step,
    Task,
    TaskEnvironment,
    ToolError,
    ToolGraph,
    World,
    audit,
    builtin_domains,
    demonstrate,
    derive_tools,
    load_domain,
    run_episode,
    wrong_chains,
)  # fmt: skip
from longcat_envs._task import ASKED, CLOSED


@pytest.fixture(scope="module", params=builtin_domains())
def world(request):
    return World.load(request.param)


@pytest.fixture(scope="module")
def tasks(world):
    grower = Grower(world.domain, seed=5)
    return [next(grower) for _ in range(40)]


def _call(name, /, **arguments):
    return {"id": "c", "function": {"name": name, "arguments": json.dumps(arguments)}}


def test_three_domains_with_twenty_tools_each_and_a_dense_graph():
    assert len(builtin_domains()) >= 3
    for name in builtin_domains():
        graph = ToolGraph(derive_tools(load_domain(name)))
        assert len(graph.tools) >= 20
        assert graph.num_edges > len(graph.tools)


def test_every_environment_has_twenty_tools_and_an_executable_golden_chain(world, tasks):
    for task in tasks:
        assert len(task.tools) >= 20
        graph = ToolGraph({name: world.tools[name] for name in task.tools})
        assert graph.is_executable(step.tool for step in task.golden)


def test_every_goal_is_used_and_all_kinds_occur(tasks):
    tags = {tag for task in tasks for tag in task.tags}
    assert {"action", "create", "update", "question", "compound", "clarify"} <= tags
    assert len({step.tool for task in tasks for step in task.golden}) >= 14


def test_wrong_chains_fail_and_the_golden_one_passes(world, tasks):
    num = 0
    for task in tasks:
        assert audit(world.domain, world.tools, task) == []
        num += sum(1 for _ in wrong_chains(world.tools, task))
    assert num > 5 * len(tasks)


def test_the_audit_catches_a_verifier_that_can_be_fooled(world, tasks):
    task = next(t for t in tasks if "action" in t.tags and "compound" not in t.tags)
    lax = dataclasses.replace(task, rubrics=task.rubrics[-1:])  # only "nothing else changed"
    assert any("the golden chain fails" in fault for fault in audit(world.domain, world.tools, lax))
    careless = dataclasses.replace(task, rubrics=task.rubrics[:-1])
    assert any("one more" in fault for fault in audit(world.domain, world.tools, careless))
    hopeless = dataclasses.replace(task, golden=task.golden[:-1])
    assert any("the golden chain fails" in f for f in audit(world.domain, world.tools, hopeless))


def test_the_same_seed_grows_the_same_tasks_and_json_keeps_them(world, tasks):
    again = Grower(world.domain, seed=5)
    assert [next(again) for _ in range(5)] == tasks[:5]
    assert [Task.from_json(task.to_json()) for task in tasks] == tasks
    other = Grower(world.domain, seed=6)
    assert not {next(other).opening for _ in range(5)} & {task.opening for task in tasks[:5]}


def test_expansion_adds_a_tool_only_when_its_needs_are_met(world):
    graph = ToolGraph(world.tools)
    for start in graph.tools:
        chain = graph.chain_for(start, random.Random(0))
        closed = graph.expand(chain)
        for place, name in enumerate(closed):
            assert graph.is_satisfied(name, closed[:place]) or name in chain
        # brute force: closing again from any order of the same tools adds nothing
        assert set(graph.expand(reversed(closed))) == set(closed)


def test_database_constraints_are_real(world, tasks):
    database = Database(world.domain, tasks[0].tables)
    name, entity = next(iter(world.domain.entities.items()))
    with pytest.raises(sqlite3.IntegrityError):
        database._write(name, next(iter(tasks[0].tables[name])), "state", "no such state")
    child = next(e for e in world.domain.entities.values() if e.parents)
    row = next(iter(tasks[0].tables[child.name].values()))
    with pytest.raises(sqlite3.IntegrityError):
        database._write(child.name, row["id"], f"{child.parents[0]}_id", "X0")
    assert entity.states


def test_a_refused_call_changes_nothing_and_reset_restores(world, tasks):
    for task in tasks[:10]:
        database = Database(world.domain, task.tables)
        for tool in world.tools.values():
            if tool.kind == "act":
                for row in task.tables[tool.entity].values():
                    before = database.tables()
                    try:
                        database.call(tool, {f"{tool.entity}_id": row["id"]})
                    except ToolError:
                        assert database.tables() == before
        database.reset()
        assert database.tables() == task.tables


async def test_demonstrations_pass_and_mistakes_are_marked(world, tasks):
    rng, marked = random.Random(0), 0
    for task in tasks:
        demo = await demonstrate(TaskEnvironment(world, task), rng=rng, share_alternative=0.9)
        assert demo is not None
        for message, learned in zip(demo.messages, demo.imitate, strict=True):
            assert not learned or message["role"] == "assistant"
            marked += message["role"] == "assistant" and not learned
        assert demo.imitate[-1]
    assert marked > 5


class _Scripted:
    def __init__(self, *messages):
        self.messages = list(messages)

    async def chat(self, messages, *, tools):
        return self.messages.pop(0) if self.messages else None


async def test_whatever_an_agent_says_is_answered_and_never_raises(world, tasks):
    task = tasks[0]
    environment = TaskEnvironment(world, task)
    await environment.reset()
    first = task.golden[0]
    for call, words in [
        (_call("no_such_tool"), "there is no tool"),
        (_call(first.tool), "is missing"),
        (_call(first.tool, nonsense="1", **first.arguments), "takes"),
        ({"function": {"name": first.tool, "arguments": "{"}}, "must be JSON"),
        ({"function": {"name": first.tool, "arguments": "[1]"}}, "must be an object"),
        (_call(first.tool, **dict.fromkeys(first.arguments, 7)), "must be a string"),
        (_call(first.tool, **dict.fromkeys(first.arguments, "?")), "no "),
    ]:
        result = await environment.call(call)
        assert result.is_error
        assert words in result.content


@pytest.mark.parametrize("calls", [[None], "abc", {"a": 1}, 3, [{"id": None, "function": "x"}]])
async def test_calls_of_no_form_are_answered_as_errors(world, tasks, calls):
    policy = _Scripted({"role": "assistant", "tool_calls": calls})
    episode = await run_episode(TaskEnvironment(world, tasks[0]), policy)
    assert (episode.status, episode.num_calls, episode.num_errors) == ("cut", 1, 1)


async def test_an_episode_may_go_on_in_another_thread(world, tasks):
    environment, first = TaskEnvironment(world, tasks[0]), tasks[0].golden[0]
    await environment.reset()
    call = environment.call(_call(first.tool, **first.arguments))
    assert not (await asyncio.to_thread(asyncio.run, call)).is_error
    assert isinstance(await environment.score(), Reward)


async def test_a_guess_is_not_told_by_looking_afterwards(world, tasks):
    task = next(t for t in tasks if any(r.kind == "answer" for r in t.rubrics))
    environment = TaskEnvironment(world, task)
    for last, passed in (("That is all.", 0.0), (task.answer, 1.0)):
        await environment.reset()
        if task.withheld:
            await environment.reply({"content": "Which one do you mean?"})
        await environment.reply({"content": task.answer + " One moment, please."})
        for step in task.golden:
            await environment.call(_call(step.tool, **step.arguments))
        await environment.reply({"content": last})
        assert (await environment.score()).total == passed


async def test_the_person_says_what_was_withheld_when_that_is_asked_for(world, tasks):
    task = next(t for t in tasks if t.withheld)
    environment = TaskEnvironment(world, task)
    for question in ("Which one?", "Please tell me the name.", "I need to know who it is."):
        await environment.reset()
        asked = {"role": "assistant", "content": question}
        assert (await environment.reply(asked))["content"] == task.withheld
        assert (await environment.reply(asked))["content"] == task.withheld  # delivered twice
    await environment.reset()
    agreed = await environment.reply({"role": "assistant", "content": "Shall I go on?"})
    assert agreed["content"] == "Yes, please."


async def test_who_guesses_what_was_withheld_has_not_passed(world, tasks):
    for task in (t for t in tasks if t.withheld):
        environment = TaskEnvironment(world, task)
        await environment.reset()
        for step in task.golden:
            await environment.call(_call(step.tool, **step.arguments))
        await environment.reply({"role": "assistant", "content": task.answer})
        reward = await environment.score()
        assert [part for part, met in reward.parts.items() if not met] == [ASKED]


async def test_who_never_says_that_it_is_done_has_not_finished(world, tasks):
    task = next(t for t in tasks if not t.withheld and t.tags != ("question",))
    environment = TaskEnvironment(world, task)
    await environment.reset()
    for step in task.golden:
        await environment.call(_call(step.tool, **step.arguments))
    reward = await environment.score()
    assert [part for part, met in reward.parts.items() if not met] == [CLOSED]
    assert reward.total == 0
    await environment.reply({"role": "assistant", "content": "Done."})
    assert (await environment.score()).total == 1


async def test_a_cut_episode_is_judged_as_it_stands(world, tasks):
    episode = await run_episode(TaskEnvironment(world, tasks[0]), _Scripted())
    assert (episode.status, episode.reward.total) == ("cut", 0)
    talk = {"role": "assistant", "content": "hm?"}
    episode = await run_episode(TaskEnvironment(world, tasks[0]), _Scripted(talk), max_turns=1)
    assert episode.status in ("turns", "done")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('to = "renewed"', 'to = "gone"', "action 'renew_loan': from/to must be among open"),
        ('on = "loan"\n', 'on = "lone"\n', "on must be among"),
        ('city = "city"', 'city = "ciudad"', "columns must be among"),
        ("say.member = [", "say.fine = [", "say must be among"),
        ('name = "library"', "", "the file must have 'name'"),
        ("[entities.book]\n", '[entities.book]\ncolour = "red"\n', "unknown key 'colour'"),
        ('name = "library"', "name = ", "must be TOML"),
        ('parents = ["member", "book"]', 'parents = ["loan", "book"]', "its own parent"),
        ('plural = "members"', 'plural = "members"\nparents = ["loan"]', "its own parent"),
        ('{ due = "weekday" }', '{ due = "weekday", id = "city" }', "'id' is there twice"),
        ('["active", "suspended"]', '["active", "it\'s over"]', "must be letters"),
        ('["open", "renewed", "closed"]', '"open"', "must be a list of texts, got 'open'"),
        ('["member", "book"]\nstates', '["book", "book"]\nstates', "'book_id' is there twice"),
        ('name = "waive_fine"', 'name = "pay_fine"', "'pay_fine' is there twice"),
        ('arguments = ["due"]', "arguments = []", "['due'] lack"),
        ('say.book = ["mark the book {book} as lost", ', "say.book = [] #", "list of texts"),
        ('name = "library"', 'name = "library"\npools.city.words = ["Rome"]', "two values"),
        ('name = "library"', 'name = "library"\npools.city.words = ["Rome", "ROME"]', "two values"),
        ('name = "library"', 'name = "library"\npools.city = ["Rome", "Oslo"]', "must be a table"),
        ('name = "library"', 'name = "library"\npools.city.pattern = "{city}"', "made of itself"),
        ('name = "library"', 'name = "library"\npools.city.digits = 0', "1 to 9 digits"),
        ('name = "library"', 'name = "library"\npools.person.digits = 1', "10 values at least"),
        ('name = "library"', "name = 2026-03-05", "name must be letters"),
        ('name = "library"', "x = " + "[" * 5_000, "must be TOML"),
        ('name = "library"', "x = " + "9" * 5_000, "must be TOML"),
        ("[entities.book]", "[entities.sqlite_x]", "the database's own"),
        ("[entities.fine]", "[entities.Member]", "'member' is there twice"),
        ('prefix = "B"', 'prefix = "m"', "is there twice"),
        ('prefix = "B"', "prefix = 5", "prefix must be letters"),
        ('plural = "books"', 'plural = "members"', "'members' is there twice"),
        ('title = "book"', 'title = ["a", "b"]', "title must be letters"),
        ("{ due = ", '{ State = "city", due = ', "is there twice"),
        ('name = "return_loan"', 'name = "find_member"', "'find_member' is there twice"),
        ('requires = { member = ["active"] }', 'requires = ["member"]', "must be a table"),
        ('to = "renewed"', 'to = "open"', "to must not be in from, got 'open'"),
        ("the open loan of {member}", "a loan", "say must name {member} and nothing else"),
        ("the open loan of {member}", "{member!r:>99}", "say must name {member} and nothing"),
        ("the open loan of {member}", "{ {member}", "say must name {member} and nothing"),
    ],
)
def test_a_domain_file_with_an_error_is_one_clear_message(tmp_path, old, new, words):
    from importlib import resources

    text = (resources.files("longcat_envs") / "domains" / "library.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DomainError, match=r"mine\.toml: .*") as caught:
        load_domain(path)
    assert words in str(caught.value)


def test_an_unknown_domain_names_the_known_ones():
    with pytest.raises(DomainError, match="clinic, library, shop or a TOML file, got 'bank'"):
        load_domain("bank")


def _passes(world, task, steps, *messages):
    async def play():
        environment = TaskEnvironment(world, task)
        await environment.reset()
        for step in steps:
            await environment.call(_call(step.tool, **step.arguments))
        for message in messages:
            await environment.reply({"role": "assistant", "content": message})
        return (await environment.score()).total

    return asyncio.run(play())


def test_questions_are_passed_by_looking_and_saying_only(world, tasks):
    questions = [t for t in tasks if t.tags == ("question",)]
    assert len(questions) >= 3
    for task in questions:
        assert _passes(world, task, task.golden, task.answer) == 1
        (rubric,) = [r for r in task.rubrics if r.kind == "answer"]
        values = sorted(
            {v for rows in task.tables.values() for r in rows.values() for v in r.values()}
        )
        assert _passes(world, task, (), task.answer) == 0
        assert _passes(world, task, (), "It is one of " + ", ".join(values)) == 0
        assert _passes(world, task, task.golden, "It is one of " + ", ".join(values)) == 0
        assert _passes(world, task, task.golden, f"It is certainly not {rubric.text}.") == 0


def test_a_task_without_known_rubrics_is_refused(world, tasks):
    none = dataclasses.replace(tasks[0], rubrics=())
    odd = dataclasses.replace(tasks[0], rubrics=(Rubric(kind="mood", description="glad"),))
    for task in (none, odd):
        assert audit(world.domain, world.tools, task)
        with pytest.raises(ValueError, match="rubric"):
            TaskEnvironment(world, task)


def _damaged_words(task):
    names = [v for s in task.golden for k, v in s.arguments.items() if not k.endswith("_id")]
    for name in names:
        if name in task.opening:
            yield dataclasses.replace(task, opening=task.opening.replace(name, "Xaver Nobody"))
        if name in task.withheld:
            yield dataclasses.replace(task, withheld=task.withheld.replace(name, "Xaver Nobody"))
    yield dataclasses.replace(task, opening=task.opening + " {member}")


def _damaged_verifiers(task):
    for place, rubric in enumerate(task.rubrics):
        others = task.rubrics[:place] + task.rubrics[place + 1 :]
        yield dataclasses.replace(task, rubrics=others)
        for key in rubric.values:
            values = {k: v for k, v in rubric.values.items() if k != key}
            lax = dataclasses.replace(rubric, values=values)
            yield dataclasses.replace(task, rubrics=(*others, lax))


def test_the_audit_notices_damaged_words_and_verifiers(world, tasks):
    num, some = 0, tasks[:20]
    for task in some:
        for damaged in (*_damaged_words(task), *_damaged_verifiers(task)):
            assert audit(world.domain, world.tools, damaged), damaged
            num += 1
    assert num > 4 * len(some)


def test_growth_decides_which_tools_an_environment_has(world):
    """Grown toolsets differ, and hold more of the goal's surroundings than a random filling."""

    def grow(**config):
        grower = Grower(world.domain, seed=0, config=GrowthConfig(min_tools=10, **config))
        return grower.graph, [grower._grow() for _ in range(300)]

    def near(graph, tasks):
        shares = [
            len(graph.within([s.tool for s in t.golden], 1) & set(t.tools)) / len(t.tools)
            for t in tasks
        ]
        return sum(shares) / len(shares)

    graph, tasks = grow()
    _, filled = grow(join=(0, 0), threshold=1)
    assert len({frozenset(t.tools) for t in tasks}) >= 250
    assert len({len(t.tools) for t in tasks}) >= 8
    assert near(graph, tasks) > near(graph, filled) + 0.05


def test_bad_growth_settings_are_refused(world):
    with pytest.raises(ValueError, match="decay must be in"):
        GrowthConfig(decay=2)
    with pytest.raises(ValueError, match="must give at least min_tools=99"):
        Grower(world.domain, seed=0, config=GrowthConfig(min_tools=99))
    assert Step(tool="a", arguments={}).thought == ""

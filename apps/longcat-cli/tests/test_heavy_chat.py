"""`longcat chat --heavy`: a server's faults lose no answer; only final answers are remembered."""

import asyncio
import json
import subprocess
import sys

import pytest
from longcat_cli.chat import ChatOptions, Conversation
from longcat_cli.errors import UsageError
from longcat_cli.server_talker import ServerTalker
from longcat_cli.talkers import Call, Piece
from longcat_cli.tool_programs import ToolPrograms
from longcat_envs import Grower, TaskEnvironment, World
from longcat_heavythink import EpisodeModel, HeavyConfig, HeavyThinkError, Reply, ToolCall, think
from longcat_heavythink.testing import FaultServer

LONGCAT = [sys.executable, "-m", "longcat_cli.main"]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def _talk(server, *, heavy=3, tools=None, **options):
    talker = ServerTalker(server.url, "", None)
    return Conversation(talker, ChatOptions(heavy=heavy, **options), tools or ToolPrograms())


def _ask(conversation, *questions):
    shown = []

    async def all_of_them():
        for question in questions:
            await conversation.ask(question, show=shown.append)

    asyncio.run(all_of_them())
    return "".join(piece.text for piece in shown)


def test_in_a_pipe_the_answer_is_on_stdout_and_the_thinkers_beside_it():
    with FaultServer(["ok", "blank", "cut_stream"]) as server:
        done = subprocess.run(
            [*LONGCAT, "chat", "--model", server.url, "--heavy", "4", "--max-tokens", "77"],
            input="What is 6 x 7?", capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "seen 3"  # the blank one is no answer, the cut one came again
        for number in range(1, 5):
            assert f"thinker {number}: " in done.stderr
        assert {body["max_tokens"] for body in server.requests} == {77}
        server.wait_for(lambda stats: stats.in_flight == 0)


def test_only_the_final_answers_are_remembered(capsys):
    with FaultServer() as server:
        conversation = _talk(server, system="Be brief.")
        assert _ask(conversation, "first?", "second?") == ""  # all of it was streamed
    assert [m["content"].strip() for m in conversation.messages] == [
        "Be brief.", "first?", "seen 3", "second?", "seen 3"
    ]  # fmt: skip
    assert capsys.readouterr().out.split() == ["seen", "3", "seen", "3"]
    later = server.requests[4:7]
    assert [m["role"] for m in later[0]["messages"]] == ["system", "user", "assistant", "user"]
    assert not any("Thinker" in json.dumps(body["messages"]) for body in later)
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]


def test_where_the_summary_fails_the_best_attempt_is_shown_and_that_is_said(capsys):
    with FaultServer(["ok", "ok", "ok", "400", "400"]) as server:
        conversation = _talk(server)
        assert _ask(conversation, "What?").strip() == "42"
    said = capsys.readouterr()
    assert said.out == ""
    assert "summary" in said.err
    assert conversation.messages[-1]["content"].strip() == "42"


def test_where_nobody_answers_nothing_is_remembered(capsys):
    with FaultServer(default="400") as server:
        conversation = _talk(server)
        with pytest.raises(HeavyThinkError):
            _ask(conversation, "What?")
    assert conversation.messages == []
    assert capsys.readouterr().out == ""


def _adds(body):
    results = [m["content"] for m in body["messages"] if m["role"] == "tool"]
    if results or "It is 42." in str(body["messages"][-1].get("content")):
        return "It is 42."
    function = {"name": "add", "arguments": '{"x": 41}'}
    call = {"id": "a", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def test_only_the_final_answers_tools_are_run(capsys):
    program = [sys.executable, "-c", "import json, sys; print(json.load(sys.stdin)['x'] + 1)"]
    with FaultServer(answer=_adds) as server:
        conversation = _talk(server, heavy=2, tools=ToolPrograms([ADD], {"add": program}))
        _ask(conversation, "41 and one?")
    roles = [message["role"] for message in conversation.messages]
    assert roles == ["user", "assistant", "tool", "assistant"]
    assert conversation.messages[2]["content"] == "42"
    assert capsys.readouterr().err.count("gives 42") == 1


def test_calls_without_end_are_an_error_that_is_told():
    def always(body):
        return _adds({"messages": [{"role": "user"}]})

    program = [sys.executable, "-c", "print(1)"]
    with FaultServer(answer=always) as server:
        conversation = _talk(server, heavy=1, tools=ToolPrograms([ADD], {"add": program}))
        with pytest.raises(UsageError, match="rounds of tools"):
            _ask(conversation, "41 and one?")
    assert conversation.messages == []


class _Says:
    """A talker in this process: thoughts, then a number that grows; the summary takes the last."""

    def __init__(self):
        self.count = 0

    async def stream(self, messages, *, max_tokens, temperature, tools):
        self.count += 1
        yield Piece("hm", "thought")
        if tools:
            yield Call("a", "add", "{}")
        else:
            yield Piece(f"<think>deep</think>answer {self.count}")


def test_any_talker_can_think_heavily(capsys):
    conversation = Conversation(_Says(), ChatOptions(heavy=3), ToolPrograms())
    assert _ask(conversation, "What?") == ""
    assert capsys.readouterr().out == "answer 4"
    assert conversation.messages[-1] == {"role": "assistant", "content": "answer 4"}
    conversation = Conversation(_Says(), ChatOptions(heavy=2), ToolPrograms([ADD]))
    _ask(conversation, "What?")
    assert conversation.messages[-1]["tool_calls"][0]["function"]["name"] == "add"
    assert "call add {}" in capsys.readouterr().err


# -- a thinker is an episode in a world of its own -------------------------------------------------


class _Acts:
    """Plays a golden chain; every third thinker says at once that all is done."""

    name = "acts"

    def __init__(self, task):
        self._task, self._begun = task, 0

    async def reply(self, call):
        done = sum(message["role"] == "tool" for message in call.messages)
        if not done:
            self._begun += 1
            if self._begun % 3 == 0:
                return Reply(text="I found nothing to do.")
        if done == len(self._task.golden):
            return Reply(text=self._task.answer)
        step = self._task.golden[done]
        return Reply(tool_calls=(ToolCall(step.tool, json.dumps(step.arguments), f"c{done}"),))


class _Majority:
    """A summary that says what most of the quoted answers say."""

    name = "majority"

    def __init__(self, answer):
        self._answer, self.seen = answer, ""

    async def reply(self, call):
        self.seen = str(call.messages[-1]["content"])
        agree = self.seen.count(self._answer) > self.seen.count("I found nothing to do.")
        return Reply(text=self._answer if agree else "I do not know.")


def test_each_thinker_acts_in_its_own_copy_of_the_world():
    world = World.load("library")
    tasks = Grower(world.domain, seed=3)
    task = next(task for task in tasks if not task.withheld and len(task.golden) > 2)
    copies = []

    def make_world():
        copies.append(TaskEnvironment(world, task))
        return copies[-1]

    summary = _Majority(task.answer)

    async def run():
        result = await think(
            [{"role": "user", "content": task.opening}],
            EpisodeModel(_Acts(task), make_world), summarise=summary,
            config=HeavyConfig(width=5),
        )  # fmt: skip
        rewards = []
        for copy in copies:
            await copy.reply({"role": "assistant", "content": task.answer})
            rewards.append((await copy.score()).total)
            await copy.close()
        return result, rewards

    result, rewards = asyncio.run(run())
    assert result.answer == task.answer
    assert len(result.attempts) == len(copies) == 5
    assert sorted(rewards) == [0.0, 1.0, 1.0, 1.0, 1.0]  # who did nothing left its own copy alone
    assert summary.seen.count("# ----- Thinker #") == 5
    assert task.golden[0].tool not in summary.seen  # what was done on the way is nobody's to see

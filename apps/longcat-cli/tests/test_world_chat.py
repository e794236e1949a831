"""Talking to a trained model in its world: stops, ends and typing mistakes; and wrong arguments."""

import asyncio
import io
import json
import signal
import sys

import pytest
from longcat_cli import line_input
from longcat_cli import world_chat as module
from longcat_cli.chat import command
from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder
from longcat_cli.recipe_file import load_recipe
from longcat_cli.serve import serve_model
from longcat_cli.stages.grow import grow_tasks
from longcat_heavythink import (
    CallFinished,
    Failure,
    FailureKind,
    Panel,
    Reply,
    StageDecided,
    StageStarted,
)
from longcat_heavythink.__main__ import main as heavythink
from rich.console import Console

STOP = "Ctrl-C"
OFFER = "this task has ended; /reset for another one, /quit to leave"


class _Said:
    """In place of a session: says what it was given to say, and is stopped where told."""

    script: list
    heard: list

    def __init__(self, worker, version):
        del worker, version

    async def chat(self, messages, *, tools):
        del tools
        self.heard.append([dict(message) for message in messages])
        said = self.script.pop(0)
        if said == STOP:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(60)
        return said

    async def close(self):
        pass


class _Typed:
    """In place of a terminal's lines: what is typed, then the end of input."""

    script: list

    def __init__(self, history):
        del history

    def ask(self, label="", hint=""):
        del label, hint
        return self.script.pop(0) if self.script else None

    async def ask_within(self, label="", hint=""):
        return self.ask(label, hint)


def _message(text="", *calls):
    message = {"role": "assistant", "content": text}
    functions = [{"name": name, "arguments": json.dumps(given)} for name, given in calls]
    if functions:
        message["tool_calls"] = [
            {"id": f"c{n}", "type": "function", "function": f} for n, f in enumerate(functions)
        ]
    return message


@pytest.fixture
def talk(tmp_path, monkeypatch):
    """Chats in the world of a run that was never trained; returns what the model was shown."""
    folder = RunFolder.create(tmp_path / "run", load_recipe("smoke", []))
    file = folder.tasks("shop", "eval")
    file.parent.mkdir(exist_ok=True)
    tasks = grow_tasks("shop", "eval", 2, 7, folder.recipe)
    file.write_text("".join(task.to_json() + "\n" for task in tasks))
    monkeypatch.setattr(RunFolder, "is_trained", property(lambda self: True))
    monkeypatch.setattr(module, "load_agent", lambda *_, **__: None)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    # Started in the background, this process may ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(model, typed, task=None):
        task = None if task is None else tasks[task].id
        said = type("Said", (_Said,), {"script": list(model), "heard": []})
        monkeypatch.setattr(module, "Session", said)
        monkeypatch.setattr(module, "LineInput", type("Typed", (_Typed,), {"script": typed}))
        module.world_chat(folder.path, domain="shop", task=task, noise=0.0)
        return said.heard

    yield run
    signal.signal(signal.SIGINT, before)


def _roles(messages):
    return [message["role"] for message in messages]


def test_ctrl_c_stops_an_answer_in_a_world_and_nothing_else(talk, capsys):
    heard = talk([STOP, _message("Which one?")], ["", "", "/quit"])
    told = capsys.readouterr().out
    assert told.count("(stopped)") == 1
    assert "assistant  Which one?" in told
    assert heard[0] == heard[1]  # the question that got no answer was forgotten, and asked again
    assert _roles(heard[1]) == ["system", "user"]


def test_what_was_done_before_a_stop_stays_said(talk, capsys):
    call = _message("", ("find_product", {"name": "white clock"}))
    heard = talk([call, STOP, _message("Done.")], ["first", "second", "/quit"])
    assert _roles(heard[2]) == ["system", "user", "assistant", "tool", "user"]
    assert heard[2][-1]["content"] == "second"
    assert "reward " in capsys.readouterr().out


def test_calls_that_a_stop_left_without_a_result_get_one(talk, monkeypatch):
    class Slow:
        """A world whose second call takes long."""

        def __init__(self, inner):
            self.inner, self.num_calls = inner, 0
            self.reset, self.reply = inner.reset, inner.reply
            self.score, self.close = inner.score, inner.close

        async def call(self, tool_call):
            self.num_calls += 1
            if self.num_calls == 2:
                signal.raise_signal(signal.SIGINT)
                await asyncio.sleep(60)
            return await self.inner.call(tool_call)

    make = module.make_environment
    monkeypatch.setattr(module, "make_environment", lambda *a, **k: Slow(make(*a, **k)))
    find = ("find_product", {"name": "white clock"})
    heard = talk([_message("", find, find), _message("Done.")], ["first", "second", "/quit"])
    assert _roles(heard[1]) == ["system", "user", "assistant", "tool", "tool", "user"]
    assert heard[1][-2]["content"] == "stopped by the user"


def test_a_stop_before_anything_was_done_is_not_judged(talk, capsys):
    talk([STOP], ["hide it"])
    assert "reward " not in capsys.readouterr().out


def _play_to_the_end(talk, typed, **options):
    """A model that only ever speaks: the person of the task ends the talk after some answers."""
    return talk([_message("Done.")] * 40, typed, **options)


def test_the_end_of_a_task_is_told_and_the_next_one_offered(talk, capsys):
    heard = _play_to_the_end(talk, ["", *["no more"] * 8, "/reset", "", "/quit"])
    told = capsys.readouterr().out
    assert "One task, judged at its end" in told
    assert OFFER in told
    assert "shop-eval-00000" in told
    assert "shop-eval-00001" in told
    assert told.count("Enter sends the task's own request") == 2
    assert heard[0][-1]["content"] != heard[-1][1]["content"]


def test_a_task_that_was_named_is_begun_again(talk, capsys):
    _play_to_the_end(talk, ["", *["no more"] * 8, "/reset", "", "/quit"], task=1)
    told = capsys.readouterr().out
    assert "this task has ended; /reset begins it again, /quit to leave" in told
    assert "shop-eval-00000" not in told
    assert told.count("Enter sends the task's own request") == 2


def test_in_a_pipe_a_talk_ends_with_its_task(talk, capsys, monkeypatch):
    pipe = type("Pipe", (), {"isatty": lambda self: False, "readline": lambda self: ""})()
    monkeypatch.setattr(sys, "stdin", pipe)
    _play_to_the_end(talk, [])
    told = capsys.readouterr().out
    assert "reward " in told
    assert "this task has ended" not in told
    with pytest.raises(KeyboardInterrupt):
        talk([STOP], [])


def test_a_mistyped_command_is_not_sent_in_a_world(talk, capsys):
    heard = talk([_message("It is a file.")], ["/nonsense", "/etc/passwd is what?", "/quit"])
    assert "no command /nonsense; /help lists them" in capsys.readouterr().out
    assert [messages[-1]["content"] for messages in heard] == ["/etc/passwd is what?"]


@pytest.mark.parametrize("text", ["/nonsense", "/rest", "/hepl", "/exit", "/quit.", "/SAVE"])
def test_a_single_word_meant_as_a_command_is_told(text):
    assert line_input.is_mistyped(text)
    console = Console(record=True, width=100)
    assert command(text, [], None, console)
    assert console.export_text() == f"no command {text}; /help lists them\n"


@pytest.mark.parametrize(
    "text", ["/etc/passwd is what?", "/etc/passwd", "/rest is what?", "/help", "rest", "/", ""]
)
def test_other_lines_are_as_they_were(text):
    assert not line_input.is_mistyped(text)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"port": 99999999}, "--port must be in 1 to 65535, got 99999999"),
        ({"slots": 0}, "--slots must be at least 1, got 0"),
        ({"max_tokens": 0}, "--max-tokens must be at least 1, got 0"),
        ({"max_waiting": -1}, "--max-waiting must be at least 0, got -1"),
        ({"max_length": -1}, "--max-length must be at least 0, got -1"),
        ({"max_per_key": 0}, "--max-per-key must be at least 1, got 0"),
    ],
)
def test_serve_names_the_option_that_is_wrong(tmp_path, wrong, words):
    right = {
        "host": "127.0.0.1", "port": 8000, "name": "", "slots": 1, "max_waiting": 0,
        "max_length": 0, "max_tokens": 1, "speculate": False, "takes_weights": False,
    }  # fmt: skip
    with pytest.raises(UsageError) as told:
        serve_model(tmp_path, **{**right, **wrong})
    assert str(told.value) == words


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("model", [[], ["--model", "m"]])
def test_think_tells_of_a_dead_server_in_one_line(capsys, monkeypatch, host, model):
    monkeypatch.setattr("longcat_heavythink.transport._retry.Retry.pause", lambda *_: None)
    assert heavythink(["think", "Q", "--url", f"http://{host}:9/v1", *model]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"http://{host}:9/v1/" in line
    assert line.endswith("must answer, but: connection refused")


def test_in_a_terminal_the_cells_of_a_dead_server_are_taken_back():
    out, answer = io.StringIO(), io.StringIO()
    out.isatty = lambda: True
    panel = Panel(out, answer, size=(80, 24))
    panel(StageStarted(0, "sample", 2))
    failed = Reply(failure=Failure(FailureKind.UNREACHABLE, "it is not there"))
    for index in range(2):
        panel(CallFinished(0, index, failed))
    num_lines = out.getvalue().count("\n")
    panel.clear()
    assert out.getvalue().endswith(f"\x1b[{num_lines}F\x1b[J")
    panel(CallFinished(0, 1, Reply(text="good")))
    panel(StageDecided(0, "enough", 0))
    before = out.getvalue()
    panel.clear()
    assert out.getvalue() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--k", "0"], "--k must be a whole number from 1, got 0"),
        (["--schedule", "nope"], "schedule must be made of"),
    ],
)
def test_wrong_arguments_of_think_are_the_callers_mistake(capsys, arguments, words):
    assert heavythink(["think", "Q", "--url", "http://127.0.0.1:9/v1", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line

"""Talking: what servers send in every spelling, tools that are really called, and what a person types."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import smoke_run
from longcat_cli import tool_programs
from longcat_cli.chat import ChatOptions, Conversation
from longcat_cli.errors import UsageError
from longcat_cli.line_input import COMMANDS, is_command
from longcat_cli.server_talker import ServerTalker
from longcat_cli.talkers import Call, Piece, answer_of
from longcat_cli.tool_programs import ToolPrograms, read_tools

LONGCAT = [sys.executable, "-m", "longcat_cli.main"]


class _Server(BaseHTTPRequestHandler):
    """Says what it was told to say, and notes what it was asked."""

    script: list  # of the bytes of each answer
    status = 200
    asked: list
    models = b'{"data": [{"id": "the-model"}]}'

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.models)

    def do_POST(self):
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        said = self.script.pop(0) if self.script else b""
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (_Server,), {"script": [], "asked": []})
    http = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    handler.url = f"http://127.0.0.1:{http.server_port}"
    yield handler
    http.shutdown()
    http.server_close()


def _events(*events, end=b"data: [DONE]\n\n"):
    return b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events) + end


def _delta(finish=None, **delta):
    return {"choices": [{"delta": delta, "finish_reason": finish}]}


def _answer(server, *script, tools=()):
    server.script.extend(script)
    talker = ServerTalker(server.url, "", None)
    messages = [{"role": "user", "content": "hi"}]
    stream = talker.stream(messages, max_tokens=8, temperature=0.0, tools=list(tools))
    return asyncio.run(answer_of(stream))


def test_the_model_is_found_by_asking(server):
    _answer(server, _events(_delta(content="yes")))
    assert server.asked[0]["model"] == "the-model"
    server.models = b"<html>"
    _answer(server, _events(_delta(content="yes")))
    assert server.asked[1]["model"] == "default"


@pytest.mark.parametrize(
    "said",
    [
        _events(_delta(content="It "), _delta(content="is"), _delta("stop")),
        _events(_delta(content="It "), _delta(content="is", finish="stop"), end=b""),
        _events(_delta(content="It is")).replace(b"data: ", b"data:"),
        b": a comment\n\nevent: message\n"
        + _events(_delta(content="It is")).replace(b"\n", b"\r\n"),
        _events({"choices": [], "usage": {}}, _delta(content=None), _delta(content="It is")),
        _events(_delta(content=[{"type": "text", "text": "It is"}])),
        _events({"choices": [{"message": {"content": "It is"}, "finish_reason": "stop"}]}),
    ],
)
def test_one_answer_in_many_spellings(server, said):
    assert _answer(server, said) == {"role": "assistant", "content": "It is"}


@pytest.mark.parametrize("spelling", ["reasoning_content", "reasoning"])
def test_thoughts_are_told_from_text(server, spelling):
    said = _events(_delta(**{spelling: "hm"}), _delta(content="Yes."), _delta("stop"))
    assert _answer(server, said) == {
        "role": "assistant", "content": "Yes.", "reasoning_content": "hm",
    }  # fmt: skip


def test_calls_come_in_parts_or_whole(server):
    parts = [
        {"index": 0, "id": "a", "function": {"name": "add", "arguments": '{"x":'}},
        {"index": 1, "id": "b", "function": {"name": "now"}},
        {"index": 0, "function": {"arguments": " 1}"}},
    ]
    message = _answer(
        server, _events(*(_delta(tool_calls=[p]) for p in parts), _delta("tool_calls"))
    )
    assert [c["function"] for c in message["tool_calls"]] == [
        {"name": "add", "arguments": '{"x": 1}'}, {"name": "now", "arguments": ""},
    ]  # fmt: skip
    whole = [{"function": {"name": "add", "arguments": {"x": 1}}}, {"function": {"name": "now"}}]
    message = _answer(server, _events(_delta("tool_calls", tool_calls=whole)))
    assert [c["function"]["arguments"] for c in message["tool_calls"]] == ['{"x": 1}', ""]
    assert [c["id"] for c in message["tool_calls"]] == ["call_0", "call_1"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (_events(_delta(content="It "), end=b""), "cut the answer off"),
        (b"", "cut the answer off"),
        (
            _events({"error": {"message": "out of memory"}}),
            "failed in the middle of its answer: out",
        ),
        (_events({"error": "no"}), "failed in the middle of its answer: no"),
        (b"data: {oops\n\n", "must stream JSON"),
        (b"data: [1]\n\n", "must stream JSON objects"),
    ],
)
def test_a_stream_that_went_wrong_is_told_as_such(server, said, words):
    with pytest.raises(UsageError, match=words):
        _answer(server, said)


def test_a_refusal_says_what_the_server_said(server):
    server.status = 404
    with pytest.raises(UsageError, match="answered 404: no such model"):
        _answer(server, b'{"error": {"message": "no such model", "code": 1}}')
    with pytest.raises(UsageError, match="answered 404: <html>"):
        _answer(server, b"<html>")
    with pytest.raises(UsageError, match="answered 404: nothing"):
        _answer(server, b"")


class _Says:
    """A talker that says what it was given to say."""

    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []

    async def stream(self, messages, *, max_tokens, temperature, tools):
        self.seen.append([dict(m) for m in messages])
        for piece in self.answers.pop(0):
            if isinstance(piece, Exception):
                raise piece
            yield piece


def _tools(tmp_path, **commands):
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([
        {"type": "function", "function": {"name": name, "parameters": {}}, "command": command}
        for name, command in commands.items()
    ]))  # fmt: skip
    return read_tools(str(path))


def test_a_tool_with_a_program_is_really_called(tmp_path):
    program = "import json, sys; print(json.load(sys.stdin)['x'] + 1)"
    tools = _tools(tmp_path, add=[sys.executable, "-c", program])
    talker = _Says([Call("a", "add", '{"x": 41}')], [Piece("It is 42.")])
    conversation = Conversation(talker, ChatOptions(), tools)
    asyncio.run(conversation.ask("41 and one?", show=lambda piece: None))
    assert [m["role"] for m in conversation.messages] == ["user", "assistant", "tool", "assistant"]
    assert conversation.messages[2] == {"role": "tool", "tool_call_id": "a", "content": "42"}
    assert talker.seen[1][-1]["content"] == "42"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["/nowhere/program"], "cannot be run"),
        ([sys.executable, "-c", "raise ValueError('no')"], "ended with 1: ValueError: no"),
    ],
)
def test_a_program_that_fails_is_the_models_to_mend(tmp_path, command, words):
    tools = _tools(tmp_path, add=command)
    assert words in asyncio.run(tools.call("add", "{}"))
    assert "there is no program for gone" in asyncio.run(tools.call("gone", "{}"))


def test_an_answer_that_fails_leaves_no_question_behind():
    talker = _Says([Piece("It "), UsageError("cut")], [Piece("It is noon.")])
    conversation = Conversation(talker, ChatOptions(system="Be brief."), ToolPrograms())
    with pytest.raises(UsageError):
        asyncio.run(conversation.ask("time?", show=lambda piece: None))
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    asyncio.run(conversation.ask("time?", show=lambda piece: None))
    assert [m["content"] for m in conversation.messages] == ["Be brief.", "time?", "It is noon."]


def test_a_program_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(tool_programs, "TIMEOUT_S", 1.0)
    program = tmp_path / "sleeps.py"
    program.write_text(
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    tools = _tools(tmp_path, add=[sys.executable, str(program), str(tmp_path / "pid")])
    start = time.monotonic()
    assert "add took longer than 1 s" in asyncio.run(tools.call("add", "{}"))
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"function": 5}]', '[{"function": {}}]',
                                     '[{"function": {"name": "a"}, "command": "ls"}]'])  # fmt: skip
def test_a_file_that_holds_no_tools_is_one_line(tmp_path, content):
    path = tmp_path / "tools.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"tools\.json"):
        read_tools(str(path))


def test_only_our_commands_are_commands():
    assert all(is_command(name) for name in COMMANDS)
    assert is_command("/save talk.json")
    assert not is_command("/etc/passwd is what?")
    assert not is_command("/helpme")


class _Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *arguments, home):
        # Started in the background, this process may ignore Ctrl-C, and its child would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.ours, theirs = pty.openpty()
        environment = {
            **os.environ,
            "HOME": str(home),
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",
        }
        self.process = subprocess.Popen([*LONGCAT, *arguments], stdin=theirs, stdout=theirs,
                                        stderr=theirs, env=environment, start_new_session=True)  # fmt: skip
        os.close(theirs)
        self.seen = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with contextlib.suppress(OSError):  # how a terminal ends on Linux
            while chunk := os.read(self.ours, 4096):
                self.seen += chunk.decode(errors="replace")

    def until(self, text, times=1, seconds=300):
        deadline = time.monotonic() + seconds
        while self.seen.count(text) < times:
            assert time.monotonic() < deadline, self.seen[-2000:]
            time.sleep(0.05)

    def types(self, keys):
        os.write(self.ours, keys)

    def ends(self):
        code = self.process.wait(timeout=300)
        self._reader.join(10)
        os.close(self.ours)
        return code


@pytest.fixture
def terminal_of(tmp_path):
    """Begins the command in a terminal; it ends with the test, however that ends."""
    begun = []

    def begin(*arguments):
        begun.append(_Terminal(*arguments, home=tmp_path))
        return begun[-1]

    yield begin
    for terminal in begun:
        terminal.process.kill()
        terminal.process.wait()


def test_a_failed_request_is_told_and_the_talk_goes_on(server, terminal_of):
    server.script += [b"", _events(_delta(content="It is noon.")), _events(_delta(content="Bye."))]
    terminal = terminal_of("chat", "--model", server.url)
    terminal.until("you")
    terminal.types(b"time?\r")
    terminal.until("cut the answer off")
    terminal.types(b"\x1b[200~time?\nand place?\x1b[201~\r")  # pasted: two lines, one text
    terminal.until("It is noon.")
    terminal.types(b"/etc/passwd is what?\r")
    terminal.until("Bye.")
    terminal.types(b"\x1b[A\x1b[A\r")  # up, up: what was asked before
    terminal.until("cut the answer off", times=2)
    terminal.types(b"/quit\r")
    assert terminal.ends() == 0
    assert "Traceback" not in terminal.seen
    questions = [asked["messages"][-1]["content"] for asked in server.asked]
    assert questions == ["time?", "time?\nand place?", "/etc/passwd is what?", "time?\nand place?"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "http://127.0.0.1:9", "--domain", "shop"], "--domain goes with a trained"),
        (["--model", "http://127.0.0.1:9", "--noise", "0.5"], "--noise goes with a trained model"),
        (["--heavy", "4"], "--heavy goes with --model"),
        (["--system", "x"], "--system goes with --model"),
        (["--model", "http://127.0.0.1:9", "--heavy", "0"], "--heavy must be at least 1, got 0"),
        (["--model", "http://127.0.0.1:9", "--max-tokens", "0"], "--max-tokens must be at least 1"),
        (["--model", "http://127.0.0.1:9", "--temperature", "nan"], "--temperature must be at"),
        (["--model", ".", "--server-model", "x"], "--server-model goes with the URL of a server"),
        (["--model", "http://[::1"], "a server's URL must be http"),
        (["--model", "http://"], "got 'http://'"),
        (["--model", "http://127.0.0.1:99999"], "PORT 1 to 65535"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    longcat, arguments, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = longcat("chat", *arguments, text="hi")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A Hugging Face folder with a chat template, small and untrained."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("model")
    words = ["[UNK]", "</s>", *(f"w{n}" for n in range(62))]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>",
                                                unk_token="[UNK]", pad_token="</s>")  # fmt: skip
    fast.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=100_000,
        eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_stopped_answer_of_a_local_model_leaves_no_thread(small_model):
    from longcat_cli.local_talkers import TransformersTalker

    talker = TransformersTalker(small_model)
    before = set(threading.enumerate())

    async def hear_three():
        stream = talker.stream([{"role": "user", "content": "w1 w2"}], max_tokens=50_000,
                               temperature=1.0, tools=[])  # fmt: skip
        heard = [await anext(stream) for _ in range(3)]
        await stream.aclose()
        return heard

    assert all(isinstance(piece, Piece) for piece in asyncio.run(hear_three()))
    names = [t.name for t in threading.enumerate() if t not in before]
    more = [name for name in names if not name.startswith(smoke_run.THREADS)]
    assert len(more) <= 1, more  # asyncio's own pool keeps one


def test_ctrl_c_stops_the_answer_and_nothing_else(small_model, terminal_of):
    terminal = terminal_of("chat", "--model", str(small_model), "--max-tokens", "90000")
    terminal.until("you")
    terminal.types(b"w1 w2\r")
    terminal.until(" w", times=20)
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("stopped")
    terminal.until("you", times=2)
    terminal.types(b"/quit\r")
    assert terminal.ends() == 0
    assert "Traceback" not in terminal.seen
    assert "terminate called" not in terminal.seen

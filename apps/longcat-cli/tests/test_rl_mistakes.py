"""What a user of `longcat rl` and `longcat sft` gets wrong: one line, before it costs anything."""

import dataclasses
import json
import types

import longcat_cli.rl
import pytest
import typer
from longcat_cli.errors import UsageError
from longcat_cli.rl import _check_prompts, _why_few, rl, train_rl
from longcat_cli.rl_options import RlOptions, check_called, read_jsonl, split_tasks
from longcat_cli.rl_report import Reporter
from longcat_cli.sft import read_chats, sft
from longcat_dora import EventLog, LongcatDoraError
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
from longcat_dora.transformers import Attempted  # noqa: E402
from longcat_dora.transformers._worker import messages_of, scored  # noqa: E402

OPTIONS = RlOptions(model="m", tasks="t.jsonl", reward="r.py:score")
ASK, TELL = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
TOOL = {"type": "function", "function": {"name": "f"}}
app = typer.Typer()
app.command("rl")(rl)
app.command("sft")(sft)


def _run(*words):
    return CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)


def _says(*calls):
    return {**TELL, "tool_calls": list(calls)}


@pytest.mark.parametrize(("chat", "said"), [
    ({"messages": [ASK, _says(5)], "tools": [TOOL]}, "message 1: a tool call must be .*, got 5"),
    ({"messages": [ASK, _says({"function": "f"})]}, "message 1: a tool call must be an object"),
    ({"messages": [ASK, {**TELL, "tool_calls": "x"}]}, "1: tool_calls must be a list, got 'x'"),
    ({"messages": [ASK, TELL], "tools": "x"}, "tools must be a list of objects, got 'x'"),
    ({"messages": [ASK, TELL], "tools": {"a": 1}}, "tools must be a list of objects, got {'a': 1}"),
    ({"messages": [ASK, TELL], "tools": {}}, "tools must be a list of objects, got {}"),
    ({"messages": [ASK, TELL], "tools": [3]}, "tool 0 must be an object with a function, got 3"),
    ({"messages": [ASK, TELL], "tools": [{"function": 3}]}, "tool 0 must be an object with"),
    ({"messages": [{**ASK, "content": [5]}, TELL], "tools": [TOOL]}, r"with text, got 5"),
    ({"messages": [{**ASK, "role": 3}, TELL]}, "message 0 must be an object with a role"),
    ({"messages": "x"}, "must have messages, a list, got 'x'"),
])  # fmt: skip
def test_a_chat_that_is_none_is_named_by_its_line(tmp_path, tokenizer, chat, said):
    """A call that was a number was a traceback, tools that were a text were trained on."""
    path = tmp_path / "chats.jsonl"
    good = {"messages": [ASK, TELL], "tools": None}
    path.write_text(f"{json.dumps(good)}\n\n{json.dumps(chat)}\n")
    with pytest.raises(UsageError, match=f"chats.jsonl, line 3, conversation 2: .*{said}[^\n]*$"):
        read_chats(path, tokenizer, 1000)


def test_calls_without_arguments_are_calls_with_none(tmp_path, tokenizer):
    path = tmp_path / "chats.jsonl"
    chat = {"messages": [ASK, _says({"function": {"name": "f"}})], "tools": [TOOL]}
    path.write_text(json.dumps(chat))
    ((sample,), _) = read_chats(path, tokenizer, 1000)
    assert '{"name": "f", "arguments": {}}' in tokenizer.decode(sample.token_ids)


@pytest.mark.parametrize(("text", "said"), [
    ("[" * 100_000, "line 2: must be nested less deep"),
    ('{"prompt": ' + "[" * 100_000, "line 2: must be nested less deep"),
    ('{"prompt": "\\ud800"}', r"line 2: must be text that UTF-8 can write, got '\\ud800' alone"),
])  # fmt: skip
def test_a_line_that_no_tokenizer_can_read_is_named(tmp_path, text, said):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"prompt": "\\ud83d\\ude00"}}\n{text}\n')
    with pytest.raises(UsageError, match=said) as found:
        read_jsonl(path, "--tasks")
    assert len(str(found.value)) < 300


@pytest.mark.parametrize("role", [3, None, ["user"], ""])
def test_a_role_is_a_text(tmp_path, role):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"messages": [{"role": role, "content": "x"}]}))
    with pytest.raises(UsageError, match=r"task 1: must have .*each with a role, got \[{'role': "):
        split_tasks(dataclasses.replace(OPTIONS, tasks=str(path)))
    if role != "":
        with pytest.raises(LongcatDoraError, match="each with a role"):
            messages_of({"messages": [{"role": role, "content": "x"}]})


def _one(answer):
    return 1.0


def _two(task, answer):
    return 1.0


def _three(task, answer, more):
    return 1.0


class _Class:
    def __init__(self, task, answer):
        pass


class _Sync:
    def __call__(self, task, policy):
        return 1.0


class _Async:
    async def __call__(self, task, policy):
        return 1.0


@pytest.mark.parametrize(("called", "said"), [
    (_one, r"must be a function score\(task, answer\), got score\(answer\) in r.py:score: too many"),
    (_three, r"got score\(task, answer, more\) in r.py:score: missing a required argument: 'more'"),
    (_Class, r"must be a function score\(task, answer\), got the class r.py:score"),
])  # fmt: skip
def test_a_reward_that_cannot_be_called_is_found_by_its_signature(called, said):
    with pytest.raises(UsageError, match=f"^--reward .*{said}"):
        check_called(OPTIONS, called)


@pytest.mark.parametrize(("called", "said"), [
    (_Sync(), "must be async def"), (_Sync().__call__, "must be async def"),
    (_two, "must be async def"), (_Async, r"must be a function go\(task, policy\), got the class w.py:go$"),
    (_one, r"must be a function go\(task, policy\), got go\(answer\)"),
])  # fmt: skip
def test_a_world_that_cannot_be_awaited_is_found(called, said):
    world = dataclasses.replace(OPTIONS, reward="", world="w.py:go")
    with pytest.raises(UsageError, match=f"^--world {said}"):
        check_called(world, called)
    for good in (_Async(), _Async().__call__):
        check_called(world, good)


def test_what_can_be_called_with_two_arguments_is_a_reward():
    for good in (_two, _Sync(), _Async(), lambda *_: 1.0, max, dict.get):
        check_called(OPTIONS, good)


async def test_a_reward_that_cannot_be_called_is_not_looked_for_in_our_files():
    with pytest.raises(LongcatDoraError) as found:
        await scored(_one, {}, "yes")
    assert "_one raised TypeError" in str(found.value)
    assert "_worker.py" not in str(found.value)


def _prompts(*lengths):
    """The tokens of a prompt, and of what the template writes around it."""
    around = len("<s>user\n" + "E" + "\n<s>assistant\n")  # the end is one token
    return [{"prompt": "x" * (length - around)} for length in lengths]


def test_prompts_that_leave_no_room_are_counted_before_a_step(tokenizer, capsys):
    options = dataclasses.replace(OPTIONS, max_length=200)
    _check_prompts(options, tokenizer, _prompts(50, 199))
    assert capsys.readouterr().out == ""
    _check_prompts(options, tokenizer, [*_prompts(199, 200, 300), {"messages": [{"role": "user"}]}])
    assert capsys.readouterr().out == (
        "2 of 4 tasks are not learned from: their prompts fill --max-length 200, the longest has "
        "300 tokens\n"
    )
    with pytest.raises(
        UsageError, match=r"more than a prompt's tokens, got 200: the shortest .* 2"
    ):
        _check_prompts(options, tokenizer, _prompts(300, 250))
    world = dataclasses.replace(options, reward="", world="w.py:go")
    _check_prompts(world, tokenizer, [{"seed": 1}])
    tokenizer.chat_template = None
    for one in (options, world):
        with pytest.raises(UsageError, match="--model must have a chat template, m has none"):
            _check_prompts(one, tokenizer, _prompts(50))


@pytest.mark.parametrize(("events", "said"), [
    ([], "^nothing is learned from a task whose attempts all get the same reward$"),
    ([("masked", "the prompt fills the context")] * 3 + [("no_signal", "")],
     "^no attempt got a reward, most often since the prompt fills the context$"),
    ([None, ("failed", "Traceback:\n  x\nlongcat_dora.LongcatDoraError: the tool broke")],
     "same reward, and 1 attempts got none, most often since the tool broke$"),
])  # fmt: skip
def test_a_run_of_too_few_steps_says_why(tmp_path, events, said):
    log = EventLog(tmp_path / "run" / "log")
    for number, ended in enumerate(events):
        name = {"trajectory": f"t{number}"}
        if ended is None:
            log.append({"kind": "produced", **name, "group": "g", "version": 0, "reward": 1.0})
        else:
            reason, detail = ended
            log.append({"kind": "ended", **name, "reason": reason, "detail": detail})
    log.close()
    with pytest.raises(UsageError, match=said):
        raise UsageError(_why_few(tmp_path))


@pytest.mark.parametrize("num", [0, 1])
def test_a_model_that_took_no_step_is_not_exported(tmp_path, monkeypatch, num):
    exported = []
    trainer = types.SimpleNamespace(num_batches=num, export=lambda to, **_: exported.append(to))

    class Runtime:
        def __init__(self, *_, **__):
            self.trainer = trainer

        def run(self):
            pass

    monkeypatch.setattr(longcat_cli.rl, "_runtime", lambda options: Runtime)
    (tmp_path / "t.jsonl").write_text('{"prompt": "a"}')
    (tmp_path / "r.py").write_text("def score(task, answer):\n    return 1.0\n")
    options = RlOptions(model="hub/name", tasks=str(tmp_path / "t.jsonl"),
                        reward=f"{tmp_path / 'r.py'}:score")  # fmt: skip
    train_rl(tmp_path, options)
    assert exported == [tmp_path / "model"] * num


@pytest.mark.parametrize("has_events", [False, True])
def test_a_run_that_failed_before_it_began_can_be_begun_with_other_options(
    tmp_path, monkeypatch, has_events
):
    """It asked for `--resume`, which goes on with the options that were wrong."""
    log = tmp_path / "run" / "log"

    class Runtime:
        def __init__(self, *_, trainer, **__):
            self.make = trainer

        def run(self):
            log.mkdir(parents=True)
            (log / "lock").write_text("")
            if has_events:
                (log / "events.jsonl").write_text("")
            self.make()

    def cannot(options, name):
        raise UsageError("no such model")

    monkeypatch.setattr(longcat_cli.rl, "_runtime", lambda options: Runtime)
    monkeypatch.setattr(longcat_cli.rl, "_trainer", cannot)
    (tmp_path / "t.jsonl").write_text('{"prompt": "a"}')
    (tmp_path / "r.py").write_text("def score(task, answer):\n    return 1.0\n")
    options = RlOptions(model="hub/name", tasks=str(tmp_path / "t.jsonl"),
                        reward=f"{tmp_path / 'r.py'}:score")  # fmt: skip
    with pytest.raises(UsageError, match="no such model"):
        train_rl(tmp_path, options)
    assert log.is_dir() == has_events


def test_a_run_without_a_step_does_not_name_a_model(tiny_model, monkeypatch):
    done = types.SimpleNamespace(num_batches=0)
    monkeypatch.setattr("longcat_cli.rl.train_rl", lambda out, options: done)
    (tiny_model / "t.jsonl").write_text('{"prompt": "a"}')
    ended = CliRunner().invoke(app, ["rl", "--model", "m", "--tasks", "t.jsonl", "--reward", "r:s"])
    assert isinstance(ended.exception, UsageError)
    assert "model: " not in ended.output


def test_a_loss_of_no_number_ends_a_run_with_one_line(tiny_model, monkeypatch):
    def breaks(out, options):
        raise FloatingPointError("the loss must be finite, got nan; no step was taken")

    monkeypatch.setattr("longcat_cli.rl.train_rl", breaks)
    (tiny_model / "t.jsonl").write_text('{"prompt": "a"}')
    with pytest.raises(UsageError, match="the loss must be finite, got nan"):
        _run("rl", "--model", "m", "--tasks", "t.jsonl", "--reward", "r.py:s", "--out", "run")


@pytest.mark.parametrize(("num_chats", "how"), [(50, ()), (10, ()), (50, ("--epochs", 4))])
def test_a_model_that_broke_is_not_exported(tiny_model, num_chats, how):
    """With chats that are held out, without, and where a step after the first sees it."""
    chat = json.dumps({"messages": [ASK, TELL]})
    (tiny_model / "chats.jsonl").write_text("\n".join([chat] * num_chats))
    with pytest.raises(UsageError, match=r"finite.*lower --learning-rate than 1e\+30") as found:
        _run("sft", "--model", "model", "--data", "chats.jsonl", "--learning-rate", 1e30,
             "--out", "out", *how)  # fmt: skip
    assert "\n" not in str(found.value)
    assert not (tiny_model / "out" / "model").exists()


def test_held_out_prompts_without_room_are_told_in_plain_words(tmp_path, monkeypatch):
    masked = Attempted("held-0", None, {"masked": "the prompt fills the context"}, [])
    monkeypatch.setattr("longcat_dora.transformers.evaluate", lambda *a, **k: [masked])
    reporter = Reporter(tmp_path, OPTIONS, [], lambda: None)
    with pytest.raises(UsageError, match=r"failed, the first: the prompt fills the context$"):
        reporter.evaluate(0, b"")


@pytest.mark.parametrize(("changes", "said"), [
    ({"steps": "5"}, "steps must be a whole number, got '5'"),
    ({"steps": True}, "steps must be a whole number, got True"),
    ({"temperature": None}, "temperature must be a number, got None"),
    ({"adapter": 1}, "adapter must be true or false, got 1"),
    ({"model": 5}, "model must be text, got 5"), ({"temperature": 1}, ""),
])  # fmt: skip
def test_options_of_another_kind_in_a_runs_file_are_named(tiny_model, monkeypatch, changes, said):
    """`--resume` said that '<' is not supported between a text and a number."""
    (tiny_model / "run").mkdir()
    held = {**dataclasses.asdict(OPTIONS), **changes}
    (tiny_model / "run" / "rl.json").write_text(json.dumps(held))
    done = types.SimpleNamespace(num_batches=50)
    monkeypatch.setattr("longcat_cli.rl.train_rl", lambda out, options: done)
    if not said:
        assert _run("rl", "--resume", "--out", "run").exit_code == 0
        return
    with pytest.raises(UsageError, match=f"rl.json must hold a run's options: {said}$"):
        _run("rl", "--resume", "--out", "run")

"""What a person gives wrong, and files that are damaged: one line each, and the talk goes on."""

import asyncio
import io
import json
import sys

import pytest
from longcat_cli.chat import ChatOptions, command, plain_chat
from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder
from longcat_cli.line_input import history_file
from longcat_cli.recipe_file import load_recipe, recipe_to_dict
from longcat_cli.serve import _check_free
from longcat_cli.server_talker import _read
from longcat_cli.talkers import make_talker
from longcat_cli.tool_programs import ToolPrograms
from longcat_cli.world_chat import choose_task
from rich.console import Console


@pytest.mark.parametrize("held", [
    b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"format": 2}',
    b'{"format": 2, "created": 1, "recipe": 3}', b'{"format": 2, "created": "x", "recipe": {}}',
    b'{"format": 2, "created": 1, "recipe": {"rl": null}}',
    b'{"format": 2, "created": 1, "recipe": {"gone": 1}}',
])  # fmt: skip
def test_a_damaged_run_folder_is_named(longcat, tmp_path, held):
    (tmp_path / "run.json").write_bytes(held)
    for line in (("runs", "show"), ("train", "--dry-run", "--resume"), ("audit",)):
        done = longcat(*line, tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("longcat: ")
        assert "run.json" in done.stderr


@pytest.mark.parametrize("held", [b"", b"null", b"[]", b"3", b"\xff"])
def test_a_damaged_mark_of_a_stage_is_named(longcat, tmp_path, held):
    folder = RunFolder.create(tmp_path / "run", load_recipe("smoke", []))
    folder.mark_done("grow", {"seconds": 1.0})
    (folder.path / "stages" / "grow.json").write_bytes(held)
    done = longcat("runs", "show", folder.path)
    assert done.returncode == 2
    assert "grow.json must be" in done.stderr


def test_a_model_that_is_here_is_not_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGCAT_MODELS", str(tmp_path))
    loaded, fetched = [], []
    monkeypatch.setattr("longcat_cli.local_talkers.TransformersTalker", loaded.append)
    monkeypatch.setattr(
        "longcat_cli.talkers.get_model", lambda name: fetched.append(name) or tmp_path / name
    )

    def ask():
        make_talker("smollm2-135m", api_key_env="OPENAI_API_KEY", server_model=None)

    ask()
    monkeypatch.setattr("longcat_cli.talkers.is_here", lambda name: True)
    ask()
    assert fetched == ["smollm2-135m"]
    assert loaded == [tmp_path / "smollm2-135m"] * 2


def test_a_recipe_of_another_editor(tmp_path):
    file = tmp_path / "r.toml"
    file.write_bytes(b"\xef\xbb\xbf[rl]\r\ngroup_size = 4\r\n")
    assert recipe_to_dict(load_recipe(str(file), []))["rl"]["group_size"] == 4


@pytest.mark.parametrize("change", [
    f"seed={10**400}", f"rl.steps={10**400}", f"rl.learning_rate={10**400}", "seed=" + "9" * 25,
    "rl.group_size={[]: 1}", "noise.levels=[{}, {{}}]",
])  # fmt: skip
def test_a_value_that_no_library_takes_is_named(change):
    with pytest.raises(UsageError, match=change.partition("=")[0]):
        load_recipe("smoke", [change])


@pytest.mark.parametrize("text", ["/save x[/INST].json", "/save a\0b", "/save /nowhere/[/b]"])
def test_a_name_with_brackets_does_not_end_a_talk(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    shown = io.StringIO()
    messages = [{"role": "user", "content": "x"}]
    assert command(text, messages, None, Console(file=shown))
    assert shown.getvalue()


def test_half_a_character_in_a_talk_is_told_when_it_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = io.StringIO()
    assert command("/save c.json", [{"content": "\ud800"}], None, Console(file=shown))
    assert "cannot be written" in shown.getvalue()


@pytest.mark.parametrize("event", [
    {"choices": [3]}, {"choices": 3}, {"choices": {"a": 1}}, {"choices": [{"delta": [1]}]},
    {"choices": [{"delta": {"tool_calls": [None]}}]}, {"choices": [{"delta": {"tool_calls": 3}}]},
])  # fmt: skip
def test_what_is_no_chat_completion_is_told_apart(event):
    with pytest.raises((AttributeError, LookupError, TypeError)):
        _read(event, {})


def test_a_key_that_is_asked_for_must_be_there(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UsageError, match="MY_KEY: the variable must hold a key"):
        make_talker("http://x", api_key_env="MY_KEY", server_model=None)
    with pytest.raises(UsageError, match="--api-key-env goes with the URL"):
        make_talker("smollm2-135m", api_key_env="MY_KEY", server_model=None)
    monkeypatch.setenv("MY_KEY", "schlüssel")
    with pytest.raises(UsageError, match="key in MY_KEY must be printable ASCII"):
        make_talker("http://x", api_key_env="MY_KEY", server_model=None)


@pytest.mark.parametrize("held", ["null", "[]", "3"])
def test_a_folder_whose_configuration_is_none_is_named(tmp_path, held):
    (tmp_path / "config.json").write_text(held)
    with pytest.raises(UsageError, match=r"config\.json must be a model's configuration"):
        make_talker(str(tmp_path), api_key_env="OPENAI_API_KEY", server_model=None)


def test_input_that_is_closed_or_no_text_is_said(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="it is closed"):
        plain_chat("http://x", ChatOptions())
    broken = io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", broken)
    with pytest.raises(UsageError, match="standard input must be text"):
        plain_chat("http://x", ChatOptions())


def test_a_run_without_held_out_tasks_says_so(tmp_path):
    folder = RunFolder.create(tmp_path / "run", load_recipe("smoke", []))
    for domain in folder.recipe.domains:
        file = folder.tasks(domain, "eval")
        file.parent.mkdir(exist_ok=True)
        file.touch()
    with pytest.raises(UsageError, match="must hold held-out tasks"):
        choose_task(folder, None, None)


def test_who_has_no_home_has_no_history(monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", none)
    assert history_file() is None


@pytest.mark.parametrize("host", ["no such host", "x" * 300, "a..b"])
def test_an_address_that_is_none_is_said(host):
    with pytest.raises(UsageError, match="cannot be had"):
        _check_free(host, 8000)


def test_a_program_that_cannot_be_started_is_a_result():
    programs = ToolPrograms([], {"f": ["a\0b"], "cat": ["cat"]})
    assert "cannot be run" in json.loads(asyncio.run(programs.call("f", "{}")))["error"]
    assert asyncio.run(programs.call("cat", '"\ud800"')) == '"?"'

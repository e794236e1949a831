"""Large requests and large answers are read and written in threads: nobody else waits."""

import threading

import httpx
import pytest
from longcat_moe import ChatFormat
from longcat_moe.serving import _body
from longcat_moe.serving._grammar import calls_grammar
from longcat_moe.serving._served import Served

ASK = [{"role": "user", "content": "find the book"}]
LONG = "find the book of Ada. " * 60
"""More than a test's loop may tokenise, and no more than the engine takes."""


def _tool(**function):
    return [{"type": "function", "function": {"name": "find", **function}}]


@pytest.fixture
def threads(monkeypatch):
    """Names of the threads in which more than a few characters became tokens, or tokens text."""
    found = []

    def noted(owner, name, size):
        real = getattr(owner, name)

        def method(*arguments, **options):
            if size(*arguments) > 100:
                found.append(threading.current_thread().name)
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, method)

    noted(ChatFormat, "encode", lambda _, text: len(text))
    noted(Served, "decode", lambda _, ids, **__: len(ids))
    monkeypatch.setattr(_body, "_WORTH_A_THREAD", 1000)
    return found


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/completions", {"prompt": [LONG[:600]] * 3, "max_tokens": 1}),
        ("/v1/completions", {"prompt": LONG, "max_tokens": 1}),
        ("/v1/chat/completions", {"messages": ASK, "tools": _tool(description=LONG)}),
        ("/v1/chat/completions", {"messages": [*ASK, {"role": "assistant", "content": "",
        "reasoning_content": LONG}]}),
        ("/v1/chat/completions", {"messages": [*ASK, {"role": "assistant", "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": LONG}}}]}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}] * 90}),
        ("/tokenize", {"messages": ASK, "tools": _tool(description=LONG)}),
        ("/detokenize", {"tokens": [5] * 2000}),
    ],
)  # fmt: skip
def test_what_is_long_is_read_in_a_thread_wherever_it_stands(url, threads, route, body):
    more = {"max_tokens": 1} if "chat" in route else {}
    got = httpx.post(f"{url}{route}", json={**body, **more}, timeout=60)
    assert got.status_code in (200, 400), got.text
    assert threads
    assert all(name.startswith("asyncio_") for name in threads), threads


def test_long_answers_are_written_in_a_thread(url, monkeypatch):
    """Many short texts: log-probs of a prompt, of an answer, and tokens one by one."""
    found, real = [], Served.decode

    def decode(*arguments, **options):
        found.append(threading.current_thread().name)
        return real(*arguments, **options)

    monkeypatch.setattr(Served, "decode", decode)
    for route, body in (
        ("/v1/completions", {"prompt": [5] * 500, "max_tokens": 0, "prompt_logprobs": 20}),
        ("/v1/completions", {"prompt": [5] * 500, "max_tokens": 0, "logprobs": 20, "echo": True,
                             "stream": True}),
        ("/v1/chat/completions", {"messages": ASK, "max_tokens": 200, "logprobs": True,
                                  "top_logprobs": 20, "ignore_eos": True}),
        ("/tokenize", {"prompt": LONG, "return_token_strs": True}),
    ):  # fmt: skip
        found.clear()
        if "tokenize" in route:
            monkeypatch.setattr(_body, "_WORTH_A_THREAD", 1000)
        assert httpx.post(f"{url}{route}", json=body, timeout=60).status_code == 200
        assert len(found) > 100
        assert all(name.startswith("asyncio_") for name in found), (route, set(found))


def test_definitions_that_each_parameter_repeats_are_bounded(url):
    """190 KB of a request were a grammar of 300 MB."""
    properties = {f"p{i}": {"type": "integer"} for i in range(3000)}
    tools = _tool(
        parameters={"properties": properties, "$defs": {"a": {"description": "y" * 100_000}}}
    )
    body = {"messages": ASK, "max_tokens": 1, "tools": tools, "tool_choice": "required"}
    got = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert got.status_code == 400
    assert "grammar of at most 4194304 characters" in got.json()["error"]["message"]
    few = _tool(parameters={"properties": {"a": {"type": "integer"}}, "$defs": {"b": {}}})
    assert '"$defs": {"b": {}}' in calls_grammar(few, is_thinking=False, is_one=True)

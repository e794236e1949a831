"""Streams put together from bytes, however they are cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longcat_heavythink import FailureKind, ToolCall, Usage
from longcat_heavythink.transport._wire import StreamReader, read_error, read_reply

URL = "http://x"


def _line(delta, finish=None, **fields):
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **fields}
    return f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n".encode()


WHOLE = (
    b": hello\r\n\r\n" + _line({"role": "assistant", "content": None})
    + _line({"reasoning_content": "hm…"}) + _line({"content": "Zür"}) + _line({"content": "ich\n"})
    + _line({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]})
    + _line({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]})
    + _line({"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "g"}}]})
    + _line({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]})
    + _line({}, "tool_calls")
    + b'event: x\r\ndata: {"choices": [],\r\n'
    + b'data: "usage": {"prompt_tokens": 3, "completion_tokens": 4}}\r\n\r\n'
    + b"data: [DONE]\n\n"
)  # fmt: skip


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_a_stream_does_not_depend_on_how_it_is_cut(cuts):
    reader, deltas = StreamReader(URL), []
    for a, b in pairwise([0, *sorted(cuts), len(WHOLE)]):
        deltas += reader.feed(WHOLE[a:b])
    reply = reader.finish()
    assert reply.good
    assert (reply.text, reply.thoughts) == ("Zürich", "hm…")
    assert reply.tool_calls == (ToolCall("f", '{"a":1}', "c1"), ToolCall("g", "{}", "c2"))
    assert (reply.usage, reply.finish_reason) == (Usage(3, 4), "tool_calls")
    assert "".join(d.text for d in deltas) == "Zürich\n"
    assert "".join(d.thoughts for d in deltas) == "hm…"


@pytest.mark.parametrize(
    ("raw", "kind", "text"),
    [
        (_line({"content": "a"}), "cut", "a"),
        (_line({"content": "a"}) + b"data: [DONE]\n\n", None, "a"),
        (_line({"content": "a"}) + b"data: [DONE]", None, "a"),
        (_line({"content": "a"}, "stop"), None, "a"),
        (b'data: {"choices": [{"text": "a"}]}\n\ndata: [DONE]\n\n', None, "a"),
        (_line({"content": "a"})[:-1] + b"data: [DONE]\n\n", None, "a"),
        (_line({"content": "a"}, "length"), "truncated", "a"),
        (_line({"content": "a"}) + b'data: {"error": {"message": "died", "code": 503}}\n\n',
         "server", "a"),
        (_line({"content": "a"}) + b"data: {not json}\n\n", "server", "a"),
        (_line({"content": "a"}) + b"error: died\n\n", "server", "a"),
        (_line({"content": "a"}) + b'{"error": "died"}\n', "server", "a"),
        (b'{"choices": [{"message": {"content": "whole"}}]}', None, "whole"),
        (b'{"choices": [{"message": {"content": "' + b"w" * 9000 + b'"}}]}', None, "w" * 9000),
        (b"<html>nope</html>", "malformed", ""),
        (b"", "cut", ""),
        (b"data: [DONE]\n\n", "empty", ""),
        (_line({"content": "<think>a"}) + _line({"content": "b</think>c"}, "stop"), None, "c"),
        (_line({"content": "a"})[:-1] + _line({"content": "b"}, "stop"), None, "ab"),
    ],
)  # fmt: skip
def test_the_end_of_a_stream_is_known(raw, kind, text):
    reader = StreamReader(URL)
    reader.feed(raw)
    reply = reader.finish()
    assert (reply.failure and str(reply.failure.kind), reply.text) == (kind, text)


def _body(message, **choice):
    return json.dumps({"choices": [{"message": message, **choice}]}).encode()


def test_whole_replies():
    reply = read_reply(_body({"content": "a </think> b", "reasoning": "hm"}), URL)
    assert (reply.text, reply.thoughts) == ("a </think> b", "hm")  # told apart by the server
    reply = read_reply(_body({"content": None, "tool_calls": [
        {"id": "1", "function": {"name": "f", "arguments": {"a": 1}}}, {"function": {}}, 7,
    ]}), URL)  # fmt: skip
    assert reply.tool_calls == (ToolCall("f", '{"a": 1}', "1"),)
    assert reply.good
    parts = [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "4"}, "2"]
    assert read_reply(_body({"content": parts}), URL).text == "42"
    reply = read_reply(_body({"content": None, "refusal": "I will not."}), URL)
    assert reply.text == "I will not."
    content = [{"top_logprobs": [{"logprob": -1.0}, {"logprob": -3.0}]}, {"logprob": -0.5}]
    reply = read_reply(_body({"content": "x"}, logprobs={"content": content}), URL)
    assert reply.confidence == (2.0, 0.5)


@given(st.binary(max_size=80))
def test_no_bytes_do_harm(raw):
    assert read_reply(raw, URL).failure is not None
    reader = StreamReader(URL)
    reader.feed(raw)
    reader.feed(b"data: " + raw + b"\n\n")
    assert reader.finish().failure is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["choices", "message", "content", "delta", "tool_calls", "function",
                         "error", "usage", "logprobs", "finish_reason", "prompt_tokens", "index"]),
        inner, max_size=4), max_leaves=14)  # fmt: skip


@given(JSON)
def test_no_json_does_harm(data):
    raw = json.dumps({"choices": [data], "usage": data} if not isinstance(data, dict) else data)
    reply = read_reply(raw.encode(), URL)
    assert reply.good == bool(reply.text or reply.tool_calls) or reply.failure is not None
    reader = StreamReader(URL)
    reader.feed(f"data: {raw}\n\ndata: [DONE]\n\n".encode())
    reader.finish()


def test_errors_inside_a_200_keep_their_status():
    reply = read_reply(b'{"error": {"message": "slow down", "code": 429}}', URL)
    assert (reply.failure.kind, reply.failure.status) == (FailureKind.RATE_LIMITED, 429)


@pytest.mark.parametrize(
    ("status", "kind", "permanent"),
    [(408, "timeout", False), (425, "timeout", False), (409, "refused", True),
     (413, "context", True), (500, "server", False), (501, "server", True), (505, "server", True)],
)  # fmt: skip
def test_a_status_says_whether_it_is_worth_another_try(status, kind, permanent):
    failure = read_error(status, b"", URL, None)
    assert (failure.kind, failure.permanent) == (kind, permanent)
    assert failure.message == f"{URL} answered {status}: (nothing)"


@pytest.mark.parametrize(
    ("finish", "kind"),
    [("error", "cut"), ("abort", "cut"), ("MAX_TOKENS", "truncated"), ("SAFETY", "filtered"),
     ("model_length", "truncated"), ("token_limit", "truncated"), ("RECITATION", "filtered"),
     ("sensitive", "filtered"), ("content-filter", "filtered"), ("network_error", "cut"),
     ("insufficient_system_resource", "cut"), ("end_turn", None), ("eos_token", None),
     ("stop", None), ("STOP", None), (None, None)],
)  # fmt: skip
def test_an_answer_that_did_not_end_is_none(finish, kind):
    choice = {"message": {"content": "half"}, "finish_reason": finish}
    reply = read_reply(json.dumps({"choices": [choice]}).encode(), URL)
    assert (reply.failure.kind if reply.failure else None, reply.text) == (kind, "half")


def test_a_call_in_the_older_form_is_a_call():
    call = {"name": "f", "arguments": '{"a":1}'}
    message = {"content": None, "function_call": call}
    whole = {"choices": [{"message": message, "finish_reason": "function_call"}]}
    assert read_reply(json.dumps(whole).encode(), URL).tool_calls == (ToolCall("f", '{"a":1}', ""),)
    reader = StreamReader(URL)
    for part in ({"name": "f", "arguments": '{"a"'}, {"arguments": ":1}"}):
        reader.feed(_line({"function_call": part}))
    reader.feed(_line({}, "function_call"))
    assert reader.finish().tool_calls == (ToolCall("f", '{"a":1}', ""),)


def test_a_stream_that_nobody_asked_for_is_an_answer():
    raw = WHOLE[WHOLE.index(b"data:") :]
    reply = read_reply(raw, URL, model="m")
    assert (reply.text, reply.thoughts, reply.usage) == ("Zürich", "hm…", Usage(3, 4))
    assert (reply.model, len(reply.tool_calls)) == ("m", 2)
    assert read_reply(_line({"content": "a"}), URL).failure.kind is FailureKind.CUT


@pytest.mark.parametrize("inner", [[{"type": "text", "text": "hm"}], "hm"])
def test_thoughts_among_the_parts_are_thoughts(inner):
    parts = [{"type": "thinking", "thinking": inner}, {"type": "text", "text": "42"}]
    reply = read_reply(_body({"content": parts}), URL)
    assert (reply.text, reply.thoughts) == ("42", "hm")
    reader = StreamReader(URL)
    (delta,) = reader.feed(_line({"content": parts}, "stop"))
    assert (delta.text, delta.thoughts, reader.finish().thoughts) == ("42", "hm", "hm")


def test_the_first_choice_is_known_by_its_number_however_it_is_written():
    choices = [{"index": "1", "message": {"content": "no"}},
               {"index": "0", "message": {"content": "yes"}}]  # fmt: skip
    assert read_reply(json.dumps({"choices": choices}).encode(), URL).text == "yes"


def test_log_probabilities_that_are_no_numbers_are_left_out():
    tokens = b'{"logprob": NaN}, {"top_logprobs": [{"logprob": -1.0}, {"logprob": -Infinity}]}'
    raw = b'{"choices": [{"message": {"content": "x"}, "logprobs": {"content": [%s]}}]}' % tokens
    assert read_reply(raw, URL).confidence == (1.0,)


@pytest.mark.parametrize(
    "words",
    ["prompt is too long: 9000 tokens > 4096", "input length exceeds the maximum",
     "This model's maximum context length is 4096 tokens", "context window exceeded",
     "the request exceeds the available context size", "maximum input length is 4096",
     "Input tokens exceed the configured limit", "too many input tokens", "上下文长度超出限制"],
)  # fmt: skip
def test_servers_say_in_many_words_that_a_prompt_does_not_fit(words):
    failure = read_error(400, json.dumps({"error": {"message": words}}).encode(), URL, None)
    assert failure.kind is FailureKind.CONTEXT


@pytest.mark.parametrize("words", ["unknown field foo", "temperature must be at most 2"])
def test_other_refusals_do_not_say_so(words):
    failure = read_error(400, json.dumps({"error": {"message": words}}).encode(), URL, None)
    assert failure.kind is FailureKind.REFUSED


@pytest.mark.parametrize("raw", [b"\t", b" data: x", b": hello", b"data:", b"event: x\n"])
def test_what_only_looks_like_a_stream_is_a_failure(raw):
    assert read_reply(raw, URL).failure is not None


@pytest.mark.parametrize(
    ("choice", "failure", "text"),
    [
        ({"text": "a"}, None, "a"),
        ({"text": " "}, "empty", ""),
        ({"text": "a", "finish_reason": "length"}, "truncated", "a"),
        ({"message": {}, "text": "a"}, "empty", ""),  # a chat's message is what counts
        ({"text": None}, "malformed", ""),
    ],
)
def test_a_server_of_plain_completions_is_heard(choice, failure, text):
    reply = read_reply(json.dumps({"choices": [choice]}).encode(), URL)
    assert (reply.failure and reply.failure.kind) == failure
    assert reply.text == text

"""Text and streams that are valid JSON and still odd."""

import json

import pytest
from longcat_heavythink import Failure, FailureKind, HeavyConfig, HeavyThinkError, think
from longcat_heavythink.transport._wire import StreamReader, read_reply

URL = "http://server/v1"


def body(content):
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


@pytest.mark.parametrize(
    ("said", "text"), [("\ud83d\ude00!", "\U0001f600!"), ("a\ud800b", "a\ufffdb"), ("é", "é")]
)
def test_what_a_server_says_can_be_written(said, text):
    assert read_reply(body(said), URL).text == text
    assert read_reply(body([{"type": "text", "text": said}]), URL).text == text


@pytest.mark.parametrize("nothing", ["\u200b", "\ufeff \u2060\n", "\u200d"])
def test_letters_that_nobody_sees_are_no_answer(nothing):
    assert read_reply(body(nothing), URL).failure == Failure(
        FailureKind.EMPTY, "the answer is empty"
    )
    assert read_reply(body(nothing + "a"), URL).failure is None


async def test_a_lone_surrogate_hurts_nobody():
    async def complete(messages, temperature):
        return "42 \ud800"

    answer = await think(
        [{"role": "user", "content": "\udc00"}], complete, config=HeavyConfig(width=2)
    )
    assert answer.answer == "42 \ufffd"
    assert answer.usage.total_tokens > 0


def piece(text, index=0):
    choice = {"index": index, "delta": {"content": text}, "finish_reason": "stop"}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def test_one_choice_is_read_and_nothing_after_the_end():
    reader = StreamReader(URL)
    reader.feed(piece("no", index=1) + piece("yes") + b"data: [DONE]\n\n" + piece("no"))
    assert reader.finish().text == "yes"
    two = {"choices": [{"index": 1, "message": {"content": "no"}}, {"message": {"content": "yes"}}]}
    assert read_reply(json.dumps(two).encode(), URL).text == "yes"


async def test_the_error_of_a_run_is_a_sentence():
    async def complete(messages, temperature):
        raise ValueError("kaput")

    with pytest.raises(HeavyThinkError) as error:
        await think([{"role": "user", "content": "a"}], complete, config=HeavyConfig(width=2))
    assert str(error.value) == "all 2 attempts failed: kaput"
    assert [record.reply.failure.message for record in error.value.records] == ["kaput"] * 2

"""Heavy thinking as published, and that nothing is lost on the way."""

import asyncio
import math

import pytest
from longcat_heavythink import (
    CHINESE,
    FailureKind,
    HeavyConfig,
    HeavyThinkError,
    Reply,
    ToolCall,
    Usage,
    openai_complete,
    strip_thoughts,
    summary_prompt,
    think,
)
from longcat_heavythink.testing import scripted

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 x 7?"}]


async def test_the_summary_sees_question_and_answers_and_nothing_else():
    log = []
    got = await think(ASK, scripted(["41", "42", "43", "42!"], log), config=HeavyConfig(width=3))
    assert got.answer == "42!"
    assert got.decided_by == "summary"
    assert got.attempts == ["41", "42", "43"]
    assert [t for _, t in log] == [1.0, 1.0, 1.0, 0.6]
    prompt = log[-1][0]
    assert prompt[0] == ASK[0]
    text = prompt[1]["content"]
    assert "What is 6 x 7?" in text
    assert all(f"Thinker #{n} -----" in text for n in (1, 2, 3))
    assert "Thinker #4" not in text


async def test_thoughts_never_reach_the_summary_whoever_gave_them():
    log = []
    replies = ["<longcat_think>SECRET</longcat_think>41", Reply(text="42", thoughts="SECRET"),
               "SECRET\n</think>\n43", "42"]  # fmt: skip
    got = await think(ASK, scripted(replies, log), config=HeavyConfig(width=3))
    assert got.attempts == ["41", "42", "43"]
    assert "SECRET" not in str(log[-1])


async def test_another_model_may_write_the_summary():
    got = await think(
        ASK, scripted(["a", "b"]), summarise=scripted(["c"]), config=HeavyConfig(width=2)
    )
    assert (got.attempts, got.answer) == (["a", "b"], "c")


async def test_attempts_run_side_by_side():
    started, gate = [], asyncio.Event()

    async def complete(messages, temperature):
        started.append(1)
        if len(started) == 4:
            gate.set()
        await asyncio.wait_for(gate.wait(), 5)
        return "x"

    assert (await think(ASK, complete, config=HeavyConfig(width=4))).answer == "x"


async def test_some_may_fail_but_not_all():
    got = await think(ASK, scripted([OSError("a"), "42", "end"]), config=HeavyConfig(width=2))
    assert (got.answer, got.num_failed) == ("end", 1)
    assert got.records[0].reply.failure.message == "a"
    with pytest.raises(RuntimeError, match="all 2 attempts failed: b") as caught:
        await think(ASK, scripted([OSError("b"), OSError("c")]), config=HeavyConfig(width=2))
    assert isinstance(caught.value, HeavyThinkError)
    assert [r.reply.failure.message for r in caught.value.records] == ["b", "c"]
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("", FailureKind.EMPTY), (" \n", FailureKind.EMPTY),
        ("<think>on and", FailureKind.UNCLOSED),
        ("<think>all</think>", FailureKind.EMPTY), (None, FailureKind.MALFORMED),
        (Reply(), FailureKind.EMPTY), (Reply(text="\u200b"), FailureKind.EMPTY),
        (Reply(text="half", finish_reason="length"), FailureKind.TRUNCATED),
        (Reply(text="<think>on and"), FailureKind.UNCLOSED),
        ({"text": "x"}, FailureKind.MALFORMED), (ValueError("x"), FailureKind.RAISED),
        (asyncio.CancelledError(), FailureKind.RAISED),
    ],
)  # fmt: skip
async def test_what_is_no_answer_is_a_failed_attempt_with_its_reason(answer, kind):
    async def complete(messages, temperature):
        if "Thinker" in messages[-1]["content"]:
            return "final"
        number.append(1)
        if len(number) > 1:
            return "42"
        if isinstance(answer, BaseException):
            raise answer
        return answer

    number = []
    got = await think(ASK, complete, config=HeavyConfig(width=3))
    assert (got.answer, got.attempts, got.num_failed) == ("final", ["42", "42"], 1)
    assert got.records[0].reply.failure.kind is kind


@pytest.mark.parametrize(
    "summary", [[OSError("503")] * 2, ["", ""], ["<think>", "<think>"], ["", OSError("x")]]
)
async def test_a_summary_that_fails_leaves_the_vote_and_says_so(summary):
    attempts = ["41", "the answer is 42", r"\boxed{42}"]
    got = await think(ASK, scripted([*attempts, *summary]), config=HeavyConfig(width=3))
    assert got.attempts == attempts
    assert (got.answer, got.decided_by) == ("the answer is 42", "fallback: vote")
    assert "all 1 summaries failed" in got.fell_back
    assert len(got.records) == 5


async def test_a_summary_is_tried_again_before_that():
    got = await think(ASK, scripted(["41", "42", "", "42"]), config=HeavyConfig(width=2))
    assert (got.answer, got.decided_by, got.fell_back) == ("42", "summary", "")


async def test_where_no_two_agree_the_first_attempt_stands_in():
    got = await think(ASK, scripted(["a", "b", "", ""]), config=HeavyConfig(width=2))
    assert (got.answer, got.decided_by) == ("a", "fallback: first attempt")


async def test_the_only_attempt_stands_in_and_is_said_to():
    got = await think(ASK, scripted(["a", OSError("x"), "", ""]), config=HeavyConfig(width=2))
    assert (got.answer, got.decided_by) == ("a", "fallback: first attempt")
    assert "all 1 summaries failed" in got.fell_back


async def test_depth_feeds_summaries_back():
    log = []
    script = ["a", "b", "c", "d", "final"]
    got = await think(ASK, scripted(script, log), config=HeavyConfig(width=2, depth=2))
    assert got.answer == "final"
    assert [sorted(r) for r in got.rounds] == [["a", "b"], ["c", "d"]]
    assert [t for _, t in log] == [1.0, 1.0, 1.0, 1.0, 0.6]
    last = log[-1][0][-1]["content"]
    assert "\nc\n" in last
    assert "\na\n" not in last


async def test_a_middle_stage_that_fails_keeps_what_was_there():
    script = ["a", "b", "", "", "", "", "final"]
    got = await think(ASK, scripted(script), config=HeavyConfig(width=2, depth=2))
    assert got.answer == "final"
    assert got.rounds[-1] == ["a", "b"]
    assert "all 2 summaries failed" in got.fell_back


def test_the_order_is_shuffled_and_reproducible():
    answers = [f"answer {n}" for n in range(8)]
    texts = [
        summary_prompt(ASK, answers, config=HeavyConfig(seed=s))[-1]["content"] for s in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]
    positions = [texts[0].index(answer) for answer in answers]
    assert positions != sorted(positions)


async def test_each_summary_of_a_round_sees_its_own_permutation():
    log = []
    answers = [f"answer {n}" for n in range(8)]
    await think(ASK, scripted([*answers] * 2 + ["end"], log), config=HeavyConfig(width=8, depth=2))
    orders = {
        tuple(sorted(answers, key=messages[-1]["content"].index)) for messages, _ in log[8:16]
    }
    assert len(orders) == 8


async def test_the_same_seed_gives_the_same_prompts_in_whatever_order_answers_come():
    async def run(delays):
        log = []

        async def complete(messages, temperature):
            if "Thinker" in messages[-1]["content"]:
                log.append(messages)
                return "end"
            number = len(seen)
            seen.append(1)
            await asyncio.sleep(delays[number])
            return f"answer {number}"

        seen = []
        await think(ASK, complete, config=HeavyConfig(width=3))
        return log

    assert await run([0, 0.01, 0.02]) == await run([0.02, 0.01, 0])


async def test_on_attempt_hears_good_answers_and_what_it_raises_is_raised():
    heard = []
    script = ["41", "", "42", "end"]
    await think(ASK, scripted(script), config=HeavyConfig(width=3),
                on_attempt=lambda n, text: heard.append((n, text)))  # fmt: skip
    assert heard == [(0, "41"), (2, "42")]

    def refuse(number, text):
        raise StopIteration if number else KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await think(ASK, scripted(["41", "42"]), config=HeavyConfig(width=2), on_attempt=refuse)


async def test_an_event_handler_that_raises_ends_the_run_with_no_call_under_way():
    under_way = []

    async def complete(messages, temperature):
        under_way.append(1)
        try:
            await asyncio.sleep(0.01 if len(under_way) == 1 else 60)
        finally:
            under_way.pop()
        return "x"

    def refuse(event):
        if type(event).__name__ == "CallFinished":
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await think(ASK, complete, config=HeavyConfig(width=3), on_event=refuse)
    assert not under_way


async def test_each_call_has_messages_of_its_own():
    async def complete(messages, temperature):
        assert messages == ASK or "Thinker" in messages[-1]["content"]
        messages[0]["content"] = "changed"
        messages.append({"role": "user", "content": "more"})
        return "x"

    ask = [dict(message) for message in ASK]
    got = await think(ask, complete, config=HeavyConfig(width=3))
    assert got.num_failed == 0
    assert ask == ASK


async def test_tool_calls_are_answers_and_a_conversation_may_end_with_a_tools_message():
    call = ToolCall("add", '{"a": 1}', "c1")
    log = []
    history = [*ASK, Reply(tool_calls=(call,)).to_message(),
               {"role": "tool", "tool_call_id": "c1", "content": "42"}]  # fmt: skip
    script = [Reply(tool_calls=(call,)), "42", Reply(tool_calls=(call,), text="once more")]
    got = await think(history, scripted(script, log), config=HeavyConfig(width=2))
    assert got.reply.tool_calls == (call,)
    assert log[-1][0][:-1] == history
    assert '[calls the tool add with {"a": 1}]' in log[-1][0][-1]["content"]
    assert got.reply.to_message()["tool_calls"][0]["function"]["name"] == "add"


async def test_images_are_carried_into_the_summary():
    image = {"type": "image_url", "image_url": {"url": "data:,x"}}
    ask = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]
    log = []
    await think(ask, scripted(["a", "b", "c"], log), config=HeavyConfig(width=2))
    content = log[-1][0][0]["content"]
    assert content[1:3] == ask[0]["content"]
    assert "Thinker #2" in content[3]["text"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0), ("width", 2.5), ("width", True), ("depth", 0), ("max_answer_chars", 0),
        ("temperature", "hot"), ("temperature", None), ("temperature", math.nan),
        ("temperature", -1), ("temperature", math.inf),
        ("summary_temperature", math.nan), ("quorum", 0), ("quorum", 5), ("packing", "best"),
        ("stream", "some"), ("schedule", "hevy:3"), ("max_prompt_chars", 0), ("summary_tries", 0),
        ("max_tokens", 0), ("prompts", None), ("normaliser", None), ("seed", None), ("seed", "1"),
    ],
)  # fmt: skip
def test_a_config_is_checked_whole(field, value):
    with pytest.raises(ValueError, match=r"must|hevy"):
        HeavyConfig(**{field: value})


@pytest.mark.parametrize(
    "messages", [[], [{"role": "assistant", "content": "x"}], [{}], ["hello"], [{"role": 3}]]
)
async def test_a_conversation_must_wait_for_an_answer(messages):
    with pytest.raises(ValueError, match=r"must end with a user message or|with a role"):
        await think(messages, scripted([]))


@pytest.mark.parametrize("messages", [None, "hello", b"hello", {"role": "user"}, 3])
async def test_a_conversation_is_a_list(messages):
    with pytest.raises(ValueError, match="messages must be a list of messages, got"):
        await think(messages, scripted([]))


async def test_everything_is_accounted_for():
    used = Usage(10, 5)
    script = [Reply(text="41", usage=used), Reply(text="42", usage=used), Reply(text="x" * 8)]
    got = await think(ASK, scripted(script), config=HeavyConfig(width=2))
    assert [record.usage.total_tokens for record in got.records[:2]] == [15, 15]
    assert got.records[2].usage.estimated
    assert got.usage == used + used + got.records[2].usage
    assert all(record.total_s >= 0 for record in got.records)


async def test_prompts_in_chinese_and_of_ones_own():
    log = []
    await think(ASK, scripted(["a", "b"], log), config=HeavyConfig(width=1, prompts=CHINESE))
    assert "思考者" in log[-1][0][-1]["content"]


def test_thoughts_are_stripped():
    assert strip_thoughts("a b\n</longcat_think>\nyes") == "yes"
    assert strip_thoughts("<think>no</think> yes") == "yes"
    assert strip_thoughts("plain") == "plain"


@pytest.mark.parametrize("schedule", [5, ["vote"], b"vote"])
def test_a_schedule_of_another_type_is_refused(schedule):
    with pytest.raises(ValueError, match="schedule must be a Schedule or its words"):
        HeavyConfig(schedule=schedule)


async def test_a_summary_that_broke_off_before_somebodys_eyes_is_not_begun_again(fault_server):
    server = fault_server(
        lambda n, body: "cut_stream" if body.get("stream") else "ok",
        answer=lambda body: "one two three" if body.get("stream") else "42",
    )
    shown = []
    config = HeavyConfig(width=2, stream="last")
    got = await think(
        ASK, openai_complete(server.url), config=config,
        on_event=lambda event: shown.append(getattr(event, "text", "")),
    )  # fmt: skip
    assert "".join(shown) == "one two "
    assert (got.answer, got.decided_by) == ("42", "fallback: vote")

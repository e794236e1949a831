"""Context memory over turns: thoughts never, the K answers only in their own turn."""

import pytest
from longcat_heavythink import Conversation, HeavyConfig, Reply, ToolCall
from longcat_heavythink.testing import scripted

CONFIG = HeavyConfig(width=2)


async def test_two_turns_hold_only_what_the_summary_answered(tmp_path):
    log = []
    script = [
        Reply(text="try 1", thoughts="SECRET"), "<think>SECRET</think>try 2",
        Reply(text="first answer", thoughts="SECRET"),
        "try 3", "try 4", "second answer",
    ]  # fmt: skip
    talk = Conversation(scripted(script, log), system="S", config=CONFIG)
    assert (await talk.ask("one?")).answer == "first answer"
    assert (await talk.ask("two?")).answer == "second answer"
    assert talk.messages == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "one?"}, {"role": "assistant", "content": "first answer"},
        {"role": "user", "content": "two?"}, {"role": "assistant", "content": "second answer"},
    ]  # fmt: skip
    thinker, summary = log[3][0], log[5][0]
    assert thinker == talk.messages[:4]
    assert "try 1" not in str(summary)
    assert "SECRET" not in str(log)
    assert "try 3" in summary[-1]["content"]
    talk.save(tmp_path / "talk.json")
    again = Conversation(scripted([]))
    again.load(tmp_path / "talk.json")
    assert again.messages == talk.messages


async def test_a_turn_that_fails_leaves_the_history_as_it_was():
    talk = Conversation(scripted(["", "", "a", "b", "c"]), config=CONFIG)
    with pytest.raises(RuntimeError, match="all 2 attempts failed"):
        await talk.ask("one?")
    assert talk.messages == []
    await talk.ask("again?")
    assert [m["content"] for m in talk.messages] == ["again?", "c"]


async def test_tools_are_called_between_stages_of_one_turn():
    call = Reply(tool_calls=(ToolCall("add", '{"a": 1}', "id1"),))
    log = []

    async def call_tool(asked):
        if asked.name == "add":
            return "42"
        raise KeyError(asked.name)

    wrong = Reply(tool_calls=(ToolCall("sub", "{}", "id2"),))
    script = [call, call, call, wrong, wrong, wrong, "it is 42", "it is 42", "42"]
    talk = Conversation(scripted(script, log), config=CONFIG, call_tool=call_tool)
    assert (await talk.ask("sum?")).answer == "42"
    roles = [message["role"] for message in talk.messages]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert talk.messages[2] == {"role": "tool", "tool_call_id": "id1", "content": "42"}
    assert talk.messages[4]["content"] == "error: 'sub'"
    assert log[3][0] == talk.messages[:3]


async def test_a_caller_may_carry_out_the_tools_itself():
    call = Reply(tool_calls=(ToolCall("add", "{}", "id1"),))
    talk = Conversation(scripted([call, call, call, "x", "y", "42"]), config=CONFIG)
    await talk.ask("sum?")
    with pytest.raises(ValueError, match="id1"):
        await talk.ask("and?")
    with pytest.raises(ValueError, match="id1"):
        await talk.go_on()
    with pytest.raises(ValueError, match="one that waits"):
        talk.add_tool_result("other", "1")
    talk.add_tool_result("id1", "42")
    assert (await talk.go_on()).answer == "42"


async def test_endless_tools_end():
    async def complete(messages, temperature):
        return Reply(tool_calls=(ToolCall("f", "{}", "i"),))

    async def call_tool(asked):
        return "again"

    talk = Conversation(complete, config=CONFIG, call_tool=call_tool, max_tool_rounds=2)
    with pytest.raises(RuntimeError, match="2 rounds"):
        await talk.ask("?")
    assert talk.messages == []


async def test_messages_are_a_copy():
    talk = Conversation(scripted(["a", "b", "c"]), config=CONFIG)
    await talk.ask([{"type": "text", "text": "q"}])
    talk.messages[0]["content"][0]["text"] = "changed"
    assert talk.messages[0]["content"][0]["text"] == "q"

"""Thread: messages on a record, which are changed until they are seen, and answered."""

from __future__ import annotations

from ._arguments import take


def thread(name: str, positional: list[str], named: dict[str, str]) -> str:
    """Write out `thread(by, owner=..., working=..., who=...)`.

    Args:
        name: The class on whose records people write.
        positional: The class of those who answer.
        named: `owner`: the way from the record to its person. `working`: condition under which one
            writes. `who`: condition on `answerer`. `most`: messages that wait at a time. `message`:
            name of their class.
    """
    a = take(positional, named, first=("by",), rest={
        "owner": "-", "working": "-", "who": "-", "most": "2", "message": f"{name}_message",
    })  # fmt: skip
    message, words = a["message"], name.replace("_", " ")
    owner = f"owner(record.{a['owner']})" if a["owner"] != "-" else "owner(record)"
    working = f'assert ({a["working"]}), "nobody writes about this {words} any more"'
    who = f'assert ({a["who"].replace("answerer", "by")}), "only who is responsible answers"'
    return f"""
class {name}:
    num_waiting = count(m for m in {message} if m.record == self and m.state in (unread, seen))

    def write_on(text: text):
        {working if a["working"] != "-" else "pass"}
        assert num_waiting < {a["most"]}, "{a["most"]} messages wait for an answer at most"
        new({message}, record=self, text=text, day=today)

    def list_waiting_{name}(since: date):
        return [x for x in {name} if exists(m for m in {message}
                if m.record == x and m.state in (unread, seen) and m.day >= since)]

class {message}(made_by_tools):
    {owner}
    record: {name}
    text: text
    day: date
    reply: optional(text) = none
    answered_by: optional({a["by"]}) = none
    fixed(text, day, reply)
    states(unread, seen, answered, taken_back)
    inside(see, answer)
    see = unread > seen

    def rewrite(text_new: text):
        assert state == unread, "a message is changed until somebody has seen it"
        assert text_new != text, "the message says that already"
        text = text_new

    def take_back():
        unread | seen > taken_back

    def answer(by: {a["by"]}, words: text):
        unread | seen > answered
        {who if a["who"] != "-" else "pass"}
        reply = words
        answered_by = by
"""

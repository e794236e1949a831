"""Schedule: something that falls due again and again; it is done, put off or left out."""

from __future__ import annotations

from ._arguments import take


def schedule(name: str, positional: list[str], named: dict[str, str]) -> str:
    """Write out `schedule(every=..., early=..., most=...)`.

    Args:
        name: The class whose records fall due.
        positional: None.
        named: `every`: days from one time to the next, at first. `least` and `longest`: bounds of
            that. `early`: days before the due one on which it is done at the earliest. `put_off`:
            days by which it is put off at most, `times`: how often. `working`: condition under
            which it is done. `owner`: the way from the record to its person. `done`: name of the
            tool that notes it. `act`: an action that goes with it.
    """
    a = take(positional, named, first=(), rest={
        "every": "30", "least": "7", "longest": "90", "early": "7", "put_off": "14", "times": "2",
        "working": "-", "owner": "-", "done": "note_done", "act": "pass",
    })  # fmt: skip
    turn, words = f"{name}_turn", name.replace("_", " ")
    working = f'assert ({a["working"]}), "nothing falls due for this {words} now"'
    working = working if a["working"] != "-" else "pass"
    owner = f"owner(record.{a['owner']})" if a["owner"] != "-" else "pass"
    return f"""
class {name}:
    next_due: date = today + {a["every"]}
    every: int = {a["every"]}
    put_off: int = 0
    fixed(next_due, every, put_off)
    num_done = count(t for t in {turn} if t.record == self and t.kind == done)
    num_left_out = count(t for t in {turn} if t.record == self and t.kind == left_out)
    never(num_left_out > num_done + 1, "no {words} is left out twice without being done")

    def {a["done"]}():
        {working}
        assert next_due - today <= {a["early"]},\\
            "it is done {a["early"]} days before it falls due at the earliest"
        new({turn}, record=self, kind=done, day=today)
        next_due = today + every
        put_off = 0
        {a["act"]}

    def put_off_due(number: int):
        {working}
        assert number > 0 and number <= {a["put_off"]},\\
            "it is put off by {a["put_off"]} days at most at a time"
        assert put_off < {a["times"]}, "it is put off {a["times"]} times at most in a row"
        next_due = next_due + number
        put_off = put_off + 1

    def leave_out():
        {working}
        assert next_due - today <= {a["put_off"]}, "only what falls due soon is left out"
        new({turn}, record=self, kind=left_out, day=today)
        next_due = next_due + every

    def change_rhythm(rhythm: int):
        {working}
        assert rhythm >= {a["least"]} and rhythm <= {a["longest"]},\\
            "from one time to the next are {a["least"]} to {a["longest"]} days"
        assert rhythm != every, "that is the rhythm already"
        every = rhythm

    def list_due_{name}(until: date):
        return [x for x in {name} if x.next_due <= until]

class {turn}(made_by_tools):
    {owner}
    record: {name}
    kind: enum(done, left_out)
    day: date
"""

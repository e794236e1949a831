"""Calendar: intervals of days on one thing that never overlap."""

from __future__ import annotations

from ._arguments import take


def calendar(name: str, positional: list[str], named: dict[str, str]) -> str:
    """Write out `calendar(thing, interval, live=(states))`.

    Args:
        name: The class whose records take the thing for a time.
        positional: The reference field of the thing and the field of the interval.
        named: `live`: states in which the thing is taken, in parentheses. `free`: name of the
            reader of free things. `move`: name of the tool that changes the interval. `of`: the
            class of the thing, if it is not the field's name. `notice`: days before the first
            one at which it is moved at the latest.
    """
    a = take(positional, named, first=("thing", "interval"), rest={
        "live": "", "move": "reschedule", "of": positional[0] if positional else "", "movable": "-",
        "notice": "0",
    })  # fmt: skip
    thing, days, of = a["thing"], a["interval"], a["of"]
    late = f'"it is moved {a["notice"]} days before at the latest"'
    notice = f"assert first({days}) - today >= {a['notice']}, {late}"
    movable = a["live"] if a["movable"] == "-" else a["movable"]
    return f"""
class {name}:
    never(state in {a["live"]} and exists(o for o in {name}
          if o.{thing} == {thing} and o != self and o.state in {a["live"]}
          and first(o.{days}) < last({days}) and first({days}) < last(o.{days})),
          "one {thing} is not taken twice at a time")
    never(nights({days}) < 1, "an interval has one day at least")

    def {a["move"]}({days}_new: days):
        assert state in {movable} and first({days}) >= today,\\
            "what has begun or ended is not moved"
        {notice if a["notice"] != "0" else "pass"}
        assert first({days}_new) >= today, "nothing is moved into the past"
        {days} = {days}_new

class {of}:
    def find_free_{of}({days}: days):
        return [x for x in {of} if not exists(o for o in {name}
                if o.{thing} == x and o.state in {a["live"]}
                and first(o.{days}) < last({days}) and first({days}) < last(o.{days}))]

    def list_{name}_calendar(thing: {of}):
        return [o for o in {name} if o.{thing} == thing and o.state in {a["live"]}]
"""

"""Hierarchy: records that stand below one another, never in a circle."""

from __future__ import annotations

from ._arguments import take


def hierarchy(name: str, positional: list[str], named: dict[str, str]) -> str:
    """Write out `hierarchy(field)`.

    Args:
        name: The class.
        positional: The optional reference to the record above.
        named: `working`: condition on a record that others stand below. `place`: name of the tool.
    """
    a = take(positional, named, first=("field",), rest={"working": "-", "place": "place_under"})
    field = a["field"]
    working = "true" if a["working"] == "-" else a["working"].replace("boss", "to")
    above = field.replace("_", " ")
    return f"""
class {name}:
    {field}: optional({name}) = none
    num_below = count(b for b in {name} if b.{field} == self)
    never({field} != none and under({field}, self, {field}), "nobody stands below themselves")

    def {a["place"]}(to: {name}):
        assert {field} != to, "that is the {above} already"
        assert ({working}), "nobody is placed below one who is not here"
        assert not under(to, self, {field}), "nobody stands below themselves"
        {field} = to

    def detach():
        assert {field} != none, "there is no {above} to be detached from"
        {field} = none

    def list_below(of: {name}):
        return [x for x in {name} if x != of and under(x, of, {field})]

    def list_above(of: {name}):
        return [x for x in {name} if x != of and under(of, x, {field})]
"""

"""Quota: how much of something one may have at a time; it is extended, returned and passed on."""

from __future__ import annotations

from ._arguments import take


def quota(name: str, positional: list[str], named: dict[str, str]) -> str:
    """Write out `quota(thing, live=(states), base=..., most=...)`.

    Args:
        name: The class whose records have the quota.
        positional: The class of what is counted.
        named: `live`: states in which it counts, in parentheses. `link`: field by which it points
            at who has the quota. `each`: field that is added up, if it is not counted. `base`: what
            one has from the start, `most`: at most. `called`: name of it. `allowed`: condition
            under which it is extended.
    """
    a = take(positional, named, first=("thing",), rest={
        "live": "", "link": name, "each": "-", "base": "3", "most": "8", "allowed": "-",
        "called": (positional[0] if positional else ""),
    })  # fmt: skip
    called, link, thing = a["called"], a["link"], a["thing"]
    words, who = called.replace("_", " "), name.replace("_", " ")
    test = f"for x in {thing} if x.{link} == self and x.state in {a['live']}"
    used = f"count(x {test})" if a["each"] == "-" else f"sum(x.{a['each']} {test})"
    allowed = f'assert ({a["allowed"]}), "the {words} quota is not extended now"'
    return f"""
class {name}:
    {called}_quota: int = {a["base"]}
    fixed({called}_quota)
    {called}_used = {used}
    {called}_left = {called}_quota - {called}_used
    never({called}_used > {called}_quota, "no {who} goes beyond the {words} quota")

    def extend_{called}_quota(number: int):
        {allowed if a["allowed"] != "-" else "pass"}
        assert number > 0, "a quota is extended by one at least"
        assert {called}_quota + number <= {a["most"]}, "a {words} quota is {a["most"]} at most"
        {called}_quota = {called}_quota + number

    def give_up_{called}_quota(number: int):
        assert number > 0, "one at least is given up"
        assert number <= {called}_left, "what is in use is not given up"
        {called}_quota = {called}_quota - number

    def find_{called}_room(at_least: int):
        return [x for x in {name} if x.{called}_left >= at_least]
"""

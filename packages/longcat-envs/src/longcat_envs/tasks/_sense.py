"""Which calls a person would ask for: what they are about, and what makes no sense, though legal.

A call is about the records that it names and those of the person to which they lead: a card's
account, a claim's policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longcat_envs.history import write_argument
from longcat_envs.lang import Spec
from longcat_envs.world import Store, Tool

from ._call import Call

if TYPE_CHECKING:
    from ._chain import Chains

Record = tuple[str, str]
MAX_WAY = 3
"""References that are followed from a record that a call names."""

MOST_OWN = 2
"""Changes of what is written of the person, such as their number, that one task asks for."""


def led_to(spec: Spec, store: Store, record: Record, depth: int = MAX_WAY) -> set[Record]:
    """Return a record and those of the same person to which its references lead."""
    of, identifier = record
    found = {record}
    for field in spec.classes[of].fields.values():
        to = field.type.of if field.type.kind == "ref" else ""
        if depth and to and to != spec.person and spec.classes[to].owner is not None:
            other = store.row(of, identifier)[field.name]
            if other is not None:
                found |= led_to(spec, store, (to, other), depth - 1)
    return found


def about(spec: Spec, store: Store, tool: Tool, arguments: Mapping[str, Any]) -> set[Record]:
    """Return the records that a call is about, in the world as it stands.

    The person's own record is meant only by what changes that record itself.
    """
    found = set[Record]()
    for one in tool.parameters:
        identifier = arguments.get(one.name)
        is_me = one.type.of == spec.person and not (tool.of == spec.person
                                                    and one.name == f"{tool.of}_id")  # fmt: skip
        if one.type.kind != "ref" or identifier is None or is_me:
            continue
        if store.has(one.type.of, identifier):
            found |= led_to(spec, store, (one.type.of, identifier))
    return found


def names_twice(tool: Tool, arguments: Mapping[str, Any]) -> bool:
    """Whether a call names one record twice, such as a payment from an account to itself."""
    ids = [arguments[one.name] for one in tool.parameters if one.type.kind == "ref"]
    ids = [identifier for identifier in ids if identifier is not None]
    return len(set(ids)) < len(ids)


def moves_twice(chains: Chains, one: Call, other: Call) -> bool:
    """Whether two calls move money of one record, in and out, or do the same thing with it."""
    tools = chains.tools[one.tool], chains.tools[other.tool]
    if one.tool == other.tool and chains.own(one) == chains.own(other) and chains.own(one)[1]:
        return not one.tool.startswith("add_")
    if any(tool.part != "ledger" for tool in tools):
        return False
    ids = [
        {call.arguments[p.name] for p in tool.parameters if p.type.of == tool.of}
        for tool, call in zip(tools, (one, other), strict=True)
    ]
    return not ids[0].isdisjoint(ids[1])


def is_asked_again(chains: Chains, chain: Sequence[Call], call: Call) -> bool:
    """Whether a wish is one more of what was asked for: a line or message may be, nothing else.

    Nor does one ask for more than `MOST_OWN` changes of what is written of oneself.
    """
    asked = [one.tool for one in chain if not one.is_helper]
    tool, of = chains.tools[call.tool], chains.setting.spec.person
    own = sum(chains.tools[name].of == of for name in asked)
    most = 2 if tool.name.startswith("add_") else 1
    return asked.count(tool.name) >= most or (tool.of == of and own >= MOST_OWN)


def moves_back(chains: Chains, helper: Call, wish: Call) -> bool:
    """Whether a helper only moves money to where the wish takes it from."""
    one, other = chains.tools[helper.tool], chains.tools[wish.tool]
    key = f"{one.of}_id"
    both = one.part == other.part == "ledger"
    return both and helper.arguments.get(key) == wish.arguments.get(key)


def only_replaces(chains: Chains, helper: Call, wish: Call) -> bool:
    """Whether a helper only ends a record so that the wish can make the same one anew."""
    one, other = chains.tools[helper.tool], chains.tools[wish.tool]
    if other.action is None or one.of != other.of or f"{one.of}_id" not in helper.arguments:
        return False
    row = chains.world.store.row(one.of, helper.arguments[f"{one.of}_id"])
    if other.action.makes_record and not chains.ends(helper):  # given up, and asked for anew
        me = chains.setting.spec.person
        places = [p for p in other.parameters if p.type.kind == "ref" and p.type.of != me]
        moves = any(p.type.kind == "ref" for p in one.parameters[1:])
        held = [row.get(p.name) for p in places]
        wanted = [wish.arguments.get(p.name) for p in places]
        return moves and any(a is not None and a == b for a, b in zip(held, wanted, strict=True))
    if not chains.ends(helper):
        return False
    fields = chains.setting.spec.classes[one.of].fields
    if not other.action.makes_record:  # one is moved to where the other was
        refs = [p.name for p in other.parameters[1:] if p.type.kind == "ref"]
        return any(wish.arguments[name] in row.values() for name in refs)
    made: dict[str, Any] = {}
    for name, _ in other.action.parameters:
        made.update(write_argument(name, fields[name].type, row[name]))
    return all(wish.arguments.get(name) == value for name, value in made.items())

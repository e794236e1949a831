"""Whether all that a person says of a wish matters: with another value, something else happens.

A distance below the free ones, a count that a rule rounds away, or a colleague who is asked to do
what any of them may and leaves no name, may be said, and need not be understood: who calls with
another one is rewarded all the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longcat_envs.lang import Type
from longcat_envs.world import Store, Tool

from ._call import Call
from ._goal import Outcome

if TYPE_CHECKING:
    from ._chain import Chains

_DAYS = "2026-05-01", "2026-09-30"


def other_values(type_: Type, value: Any) -> list[Any]:
    """Return values of a type that are not this one, near ones where there are any."""
    if type_.kind == "money":
        near = float(value) - 0.5 if float(value) > 0.5 else float(value) + 2
        return [f"{float(value) + 1:.2f}", f"{near:.2f}"]
    if type_.kind == "int":
        return [int(value) + 1, int(value) - 1 if int(value) > 0 else int(value) + 2]
    if type_.kind == "flag":
        return [not value]
    if type_.kind == "enum":
        return [option for option in type_.options if option != value]
    if type_.kind == "date":
        return [day for day in _DAYS if day != value]
    return [f"{value}x", f"x{value}"]


def with_other_values(tool: Tool, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the arguments of a call with one value that is no record replaced by another one."""
    for one in tool.parameters:
        if one.type.kind == "ref":
            continue
        if one.type.kind == "days":
            for name in (f"{one.name}_from", f"{one.name}_until"):
                others = (day for day in _DAYS if day != arguments[name])
                yield from ({**arguments, name: day} for day in others)
        else:
            for value in other_values(one.type, arguments[one.name]):
                yield {**arguments, one.name: value}


def with_other_records(
    store: Store, tool: Tool, arguments: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the arguments of a call with a record beside the one acted on replaced by another."""
    for one in tool.parameters:
        if one.type.kind == "ref" and one.name != f"{tool.of}_id":
            given = arguments.get(one.name)
            yield from ({**arguments, one.name: i} for i in store.ids(one.type.of) if i != given)


def has_idle_value(chains: Chains, chain: Sequence[Call], reached: Outcome) -> bool:
    """Whether a chain comes to the same with another value, or record, in one of its calls.

    The world is left where the chain leads.
    """
    store = chains.world.store
    is_idle = any(
        chains.outcome([*chain[:place], Call(call.tool, other), *chain[place + 1 :]]) == reached
        for place, call in enumerate(chain)
        for tool in (chains.tools[call.tool],)
        for other in itertools.chain(
            with_other_values(tool, call.arguments),
            with_other_records(store, tool, call.arguments),
        )
    )
    chains.run(chain)
    return is_idle

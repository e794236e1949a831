"""Numbers of records of which people speak: to hear one, or to have it paid.

An amount that is to be looked up makes sense if the call moves it, and away from where it stands:
nobody asks for a limit of what is on their account, or pays what is on it into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longcat_envs.history import owned
from longcat_envs.lang import Type, show
from longcat_envs.world import Tool

from ._call import Call, Figure

if TYPE_CHECKING:
    from ._chain import Chains


def value_of(chains: Chains, figure: Figure) -> Any:
    """Return a figure in the world as it stands."""
    one = chains.setting.spec.classes[figure.of]
    if figure.name in one.derived:
        return one.derived[figure.name].run(chains.world.store, {"self": figure.id})
    return chains.world.store.row(figure.of, figure.id)[figure.name]


def figures_of(chains: Chains, about: Sequence[Call]) -> list[tuple[Figure, int]]:
    """Return amounts other than zero, of the records that calls name or the person owns."""
    spec, store = chains.setting.spec, chains.world.store
    known = {v for call in about for v in call.arguments.values() if isinstance(v, str)}
    found: list[tuple[Figure, int]] = []
    for key in chains.setting.words.figures:
        of, _, name = key.partition(".")
        one = spec.classes[of]
        type_ = one.fields[name].type if name in one.fields else one.derived[name].type
        for identifier in owned(store, of, chains.person):
            if about and identifier not in known and of != spec.person:
                continue
            value = value_of(chains, Figure(of, identifier, name))
            if type_.kind == "money" and value != 0:
                found.append((Figure(of, identifier, name), value))
    return found


def looked_up(chains: Chains, tool: Tool, call: Call, about: Sequence[Call]) -> Call:
    """Let an amount be a figure of a record that the call or the person knows."""
    for one in tool.parameters:
        if one.type.kind != "money":
            continue
        figures = figures_of(chains, [call, *about])
        figures = [
            (figure, value) for figure, value in figures
            if value > 0 and is_amount(chains.tools, figure)
            and figure.id in chains.world.store.base.rows[figure.of]
        ]  # fmt: skip
        if not figures:
            return call
        figure, value = chains.rng.choice(figures)
        arguments = {**call.arguments, one.name: show(one.type, value)}
        return Call(call.tool, arguments, {one.name: figure})
    return call


def is_amount(tools: Mapping[str, Tool], figure: Figure) -> bool:
    """Whether a figure is something that one can pay: a limit that somebody sets is not."""
    return f"set_{figure.of}_{figure.name}" not in tools


def is_sensible(chains: Chains, call: Call) -> bool:
    """Whether a looked-up amount makes sense, in the world after the call.

    It is moved, and uses up what it is a figure of, or it is the figure of a record of another
    kind, of which the call names one alone.
    """
    tool = chains.tools[call.tool]
    own = call.arguments.get(f"{tool.of}_id")
    for name, figure in call.computed.items():
        if figure.id == own and value_of(chains, figure) != 0:
            return False
        if figure.id != own and figure.of in (tool.of, chains.setting.spec.person):
            return False
        if figure.id != own and sum(p.type.of == figure.of for p in tool.parameters) > 1:
            return False
        if not _is_moved(chains, call.arguments[name]):
            return False
    return True


def _is_moved(chains: Chains, amount: str) -> bool:
    """Whether the last call has added an amount to a record, or taken it from one."""
    for change in chains.done[-1].changes:
        for name in chains.setting.machine.money[change.of]:
            before = change.before[name] if change.before is not None else None
            after = change.after[name]
            is_set = not is_amount(chains.tools, Figure(change.of, change.id, name))
            if before is None or after is None or is_set:
                continue
            if show(Type("money"), abs(after - before)) == amount:
                return True
    return False

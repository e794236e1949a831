"""Tools: what an agent may call, derived from a domain, each with its contract.

    get_x        one record with its derived values        by id
    search_x     records by any of their fields, paged     yields ids
    readers      the domain's own and those of parts       yield ids
    writers      create, set, transitions, actions

A tool *needs* the ids of its reference parameters and *yields* the ids that its result shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from longcat_envs.lang import Action, Query, Spec, Type, json_schema

from ._store import Row

PAGE_SIZE = 10


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a tool; an interval of days is two of them."""

    name: str
    type: Type
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Tool:
    """One function with its contract."""

    name: str
    kind: Literal["get", "search", "query", "write"]
    of: str
    part: str
    description: str
    parameters: tuple[Parameter, ...]
    needs: frozenset[str]
    """Classes whose ids must be known."""
    yields: frozenset[str]
    """Classes whose ids a result reveals."""
    reads: frozenset[str]
    writes: frozenset[str] = frozenset()
    action: Action | None = None
    query: Query | None = None

    @property
    def is_writer(self) -> bool:
        """Whether a call may change the world."""
        return self.kind == "write"

    def schema(self) -> dict[str, Any]:
        """Return the tool as an OpenAI function tool."""
        properties: dict[str, Any] = {}
        required: list[str] = []
        for one in self.parameters:
            for name, type_, words in _arguments(one):
                properties[name] = json_schema(type_, words)
                if one.is_required and not one.type.is_optional:
                    required.append(name)
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object", "properties": properties, "required": required,
                    "additionalProperties": False,
                },
            },
        }  # fmt: skip


def _arguments(one: Parameter) -> list[tuple[str, Type, str]]:
    words = one.name.replace("_", " ")
    if one.type.kind == "days":
        return [
            (f"{one.name}_from", Type("date"), f"First day of the {words}, such as 2026-03-14."),
            (f"{one.name}_until", Type("date"), f"Day after the last day of the {words}."),
        ]
    if one.type.kind == "ref":
        return [(one.name, one.type, f"Id of the {one.type.of.replace('_', ' ')}.")]
    if one.type.kind == "date":
        return [(one.name, one.type, f"The {words}, such as 2026-03-14.")]
    return [(one.name, one.type, f"The {words}.")]


def argument_names(tool: Tool) -> list[str]:
    """Return the names of a tool's arguments as a call has them."""
    return [name for one in tool.parameters for name, _, _ in _arguments(one)]


def derive(spec: Spec) -> dict[str, Tool]:
    """Return the tools of a domain by name, readers first, in the order of the file."""
    tools = [tool for name in spec.classes for tool in _readers(spec, name)]
    tools += [_query(spec, query) for query in spec.queries.values()]
    tools += [_writer(spec, action) for action in spec.actions.values() if not action.is_hidden]
    return {tool.name: tool for tool in tools}


def _plain(name: str) -> str:
    return name.replace("_", " ")


def label_fields(spec: Spec, of: str) -> tuple[str, ...]:
    """Return the fields that a list shows: references, unique fields, kinds, days and state."""
    one = spec.classes[of]
    shown = [
        f.name for f in one.fields.values()
        if f.is_unique or f.type.kind in ("ref", "enum", "days", "date")
    ]  # fmt: skip
    return (*shown, *(["state"] if one.states else []))


def _shown_refs(spec: Spec, of: str) -> frozenset[str]:
    fields = spec.classes[of].fields.values()
    return frozenset({of, *(f.type.of for f in fields if f.type.kind == "ref")})


def _readers(spec: Spec, of: str) -> list[Tool]:
    one, words = spec.classes[of], _plain(of)
    everything = frozenset({f"{of}.{name}" for name in one.fields} | ({f"{of}.state"} if one.states
                           else set()))  # fmt: skip
    derived = frozenset(f"{r.of}.{r.name}" for e in one.derived.values() for r in e.reads
                        if r.of and r.name)  # fmt: skip
    filters = [Parameter(f.name, f.type.plain, False) for f in one.fields.values()
               if f.type.kind not in ("money", "days")]  # fmt: skip
    filters += [Parameter(f.name, f.type, False) for f in one.fields.values()
                if f.type.kind in ("money", "days")]  # fmt: skip
    if one.states:
        filters.append(Parameter("state", Type("state", of, one.states), False))
    filters.append(Parameter("page", Type("int"), False))
    return [
        Tool(
            f"get_{of}", "get", of, "record", f"Show one {words} with all that is known of it.",
            (Parameter(f"{of}_id", Type("ref", of)),), frozenset({of}),
            _shown_refs(spec, of) - {of}, everything | derived,
        ),
        Tool(
            f"search_{of}", "search", of, "record",
            f"Find {words} records by any of their fields; {PAGE_SIZE} a page.",
            tuple(filters), frozenset(), _shown_refs(spec, of), everything,
        ),
    ]  # fmt: skip


def _query(spec: Spec, query: Query) -> Tool:
    reads = frozenset(f"{r.of}.{r.name}" for r in query.condition.reads if r.of and r.name)
    needs = frozenset(t.of for _, t in query.parameters if t.kind == "ref")
    words = _plain(query.name)
    return Tool(
        query.name, "query", query.of, query.part, f"{words[0].upper()}{words[1:]}.",
        tuple(Parameter(name, type_) for name, type_ in query.parameters), needs,
        _shown_refs(spec, query.of), reads, query=query,
    )  # fmt: skip


def _writer(spec: Spec, action: Action) -> Tool:
    parameters = [Parameter(name, type_) for name, type_ in action.parameters]
    if not action.makes_record:
        parameters.insert(0, Parameter(f"{action.of}_id", Type("ref", action.of)))
    needs = frozenset(
        p.type.of for p in parameters if p.type.kind == "ref" and not p.type.is_optional
    )
    return Tool(
        action.name, "write", action.of, action.part, _describe(action), tuple(parameters), needs,
        action.contract.makes, action.contract.reads, action.contract.writes, action,
    )  # fmt: skip


def _describe(action: Action) -> str:
    words = f"{_plain(action.name)[0].upper()}{_plain(action.name)[1:]}."
    if action.makes_record:
        words = f"Make a new {_plain(action.of)}."
    elif action.edits:
        words = f"Change the {_plain(action.edits)} of a {_plain(action.of)}."
    if action.target:
        sources = " or ".join(map(_plain, action.sources))
        words += f" It must be {sources}, and becomes {_plain(action.target)}."
    reasons = dict.fromkeys(g.reason for g in action.guards if not g.is_state)
    if reasons:
        words += " Rules: " + "; ".join(reasons) + "."
    return words


def wanted_row(filters: dict[str, Any], row: Row) -> bool:
    """Whether a row has the values of a search."""
    return all(row[name] == value for name, value in filters.items())

"""What a tool call's argument is, given its text and the tool's schema.

The chat format writes strings as they are and everything else as JSON, so that `5` may be a string
or a number. The schema decides:

- Where only a string is allowed, the text is the value.
- Else the text is read as JSON, then as a Python literal; the value stands if the schema allows its
  type, or allows no string either.
- What JSON cannot say (`...`, `{1, 2}`, `NaN`, `1e999`) stays text.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Kinds = frozenset[str]
"""JSON Schema's types that a value may have; empty where nothing is known."""
Known = dict[tuple[int, int], Kinds]
"""What was found already, by a schema's identity and the depth it was looked at."""

_ALL = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_MAX_DEPTH = 8
"""Of references and alternatives in a schema that are followed."""
_MAX_LITERAL = 100_000
"""Characters that are read as a Python literal, at most."""


def parameter_types(tools: Any) -> dict[tuple[str, str], Kinds]:
    """Return what each parameter of each tool may be, by tool and name; of anything given."""
    found: dict[tuple[str, str], Kinds] = {}
    for tool in tools if isinstance(tools, Sequence) else ():
        function = _get(tool, "function")
        name, parameters = _get(function, "name"), _get(function, "parameters")
        properties = _get(parameters, "properties")
        if isinstance(name, str) and isinstance(properties, Mapping):
            known: Known = {}
            for key, schema in properties.items():
                found[name, key] = kinds_of(schema, parameters, known=known)
    return found


def kinds_of(
    schema: Any, root: Any, depth: int = _MAX_DEPTH, *, known: Known | None = None
) -> Kinds:
    """Return the types that a schema allows.

    Args:
        schema: Of one value; what is no schema allows what nobody knows.
        root: Where references are looked up.
        depth: Of references and alternatives that are followed.
        known: What was found before under the same `root`: without it, alternatives that refer to
            themselves would take time exponential in `depth`.
    """
    if not isinstance(schema, Mapping) or not depth:
        return frozenset()
    known = {} if known is None else known
    place = (id(schema), depth)
    if place not in known:
        known[place] = _kinds_of_schema(schema, root, depth, known)
    return known[place]


def _kinds_of_schema(schema: Mapping[str, Any], root: Any, depth: int, seen: Known) -> Kinds:
    kinds = [_named(schema.get("type"))]
    if "const" in schema:
        kinds.append(_kinds_of_values([schema["const"]]))
    values = schema.get("enum")
    if isinstance(values, list):
        kinds.append(_kinds_of_values(values))
    for key in ("anyOf", "oneOf"):
        parts = schema.get(key)
        if isinstance(parts, list) and parts:
            each = [kinds_of(part, root, depth - 1, known=seen) for part in parts]
            kinds.append(frozenset().union(*each) if all(each) else frozenset())
    parts = schema.get("allOf")
    if isinstance(parts, list):
        kinds += [kinds_of(part, root, depth - 1, known=seen) for part in parts]
    target = _look_up(schema.get("$ref"), root)
    if target is not None:
        kinds.append(kinds_of(target, root, depth - 1, known=seen))
    known = [each for each in kinds if each]
    if not known:
        return frozenset()
    return _ALL.intersection(*map(_widened, known))


def _widened(kinds: Kinds) -> Kinds:
    return kinds | {"integer"} if "number" in kinds else kinds


def _named(kind: Any) -> Kinds:
    kinds = kind if isinstance(kind, list) else [kind]
    return frozenset(k for k in kinds if isinstance(k, str)) & _ALL


def _kinds_of_values(values: Sequence[Any]) -> Kinds:
    return frozenset(kind for value in values for kind in _kinds_of_value(value))


def _kinds_of_value(value: Any) -> Iterator[str]:
    """Yield the types that JSON Schema gives a value."""
    if value is None:
        yield "null"
    elif isinstance(value, bool):
        yield "boolean"
    elif isinstance(value, (int, float)):
        yield "number"
        if isinstance(value, int) or value.is_integer():
            yield "integer"
    elif isinstance(value, str):
        yield "string"
    else:
        yield "array" if isinstance(value, list) else "object"


def _look_up(reference: Any, root: Any) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    for part in reference.split("/")[1:]:
        root = _get(root, part.replace("~1", "/").replace("~0", "~"))
    return root


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def read_value(raw: str, kinds: Kinds | None) -> Any:
    """Return what an argument's text says under a schema that allows `kinds`; never raises."""
    kinds = kinds or frozenset()
    if kinds == {"string"}:
        return raw
    for read in (_read_json, _read_literal):
        try:
            value = read(raw)
            if json.loads(json.dumps(value, allow_nan=False)) != value:
                continue
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError):
            continue
        if "string" not in kinds or kinds.intersection(_kinds_of_value(value)):
            return value
    return raw


def _read_json(raw: str) -> Any:
    return json.loads(raw, parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(f"JSON has no {constant}")


def _read_literal(raw: str) -> Any:
    if len(raw) > _MAX_LITERAL:
        raise ValueError("too long for a literal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of 5or, which is no literal
        return ast.literal_eval(raw)

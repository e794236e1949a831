"""What tau2's sets share: their files and schemas, scenarios, and which records a text leads to."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from longcat_envs._fields import DomainError

from ._overlay import plain
from ._types import Schema, leaves

MAX_STEPS = 4
"""Steps from what a text names to a record that is known by it."""

Finders = Mapping[str, tuple[tuple[str, ...], ...]]
"""By table: fields that together lead to a record whose key is not known."""


def scenario(raw: dict[str, Any]) -> str:
    """Write what the person knows and wants as one message: the scenario, word for word."""
    scenario: dict[str, Any] = raw.get("user_scenario") or {}
    told: Any = scenario.get("instructions") or ""
    if not isinstance(told, dict):
        return str(told)
    known = cast("dict[str, Any]", told)
    names = ("reason_for_call", "known_info", "unknown_info", "task_instructions")
    lines = [str(known[name]).strip() for name in names if known.get(name)]
    return "This is my situation, as I wrote it down for you.\n\n" + "\n\n".join(lines)


def follow(
    tables: Mapping[str, Mapping[str, Any]], texts: Sequence[str],
    found_by: Sequence[tuple[str, set[str]]], *, backwards: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Follow keys of records from texts, and from record to record.

    Args:
        tables: Records by table and key.
        texts: What was said and answered.
        found_by: Keys of records, each with a set of words by which it is found.
        backwards: Whether readers also yield what names a record, such as the accounts of a person.
    """
    words = set(re.findall(r"[\w#@.+-]*\w", "\n".join(texts)))
    low = {word.casefold() for word in words}
    words |= {key for key, values in found_by if values <= low}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for _ in range(MAX_STEPS):
        new = {
            (name, word): cast("dict[str, Any]", plain(table[word]))
            for name, table in tables.items()
            for word in words & table.keys()
            if (name, word) not in found
        }
        if backwards:
            keys = {key for _, key in found | new}
            new |= {
                (name, key): record
                for name, table in tables.items()
                for key, record in table.items()
                if (name, key) not in found and not keys.isdisjoint(map(str, leaves(record)))
            }
        found |= new
        words = {str(leaf) for record in new.values() for leaf in leaves(record)}
    return list(found.values())


def found_by(
    tables: Mapping[str, Mapping[str, Any]], finders: Finders
) -> list[tuple[str, set[str]]]:
    """Return keys of records, each with a set of words by which it is found."""
    found: list[tuple[str, set[str]]] = []
    for name, ways in finders.items():
        for key, record in tables[name].items():
            whole = _merged(plain(record))
            found += [(key, {word for f in way for word in str(whole[f]).casefold().split()})
                      for way in ways if all(f in whole for f in way)]  # fmt: skip
    return found


def _merged(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the fields of what lies right under it."""
    found = dict(record)
    for one in record.values():
        if isinstance(one, dict):
            found |= cast("dict[str, Any]", one)
    return found


def read(folder: Path, name: str) -> Any:
    """Read a JSON file, packed or not.

    Raises:
        DomainError: It is not there, or cannot be read.
    """
    path, packed = folder / name, folder / f"{name}.gz"
    try:
        if path.is_file():
            return json.loads(path.read_text("utf-8"))
        return json.loads(gzip.decompress(packed.read_bytes()))
    except FileNotFoundError:
        raise DomainError(f"a checkout of tau2-bench must hold {path}; there is none") from None
    except (OSError, ValueError) as error:
        raise DomainError(f"cannot read {path}: {error}") from None


def schema_of_tool(one: Any) -> Schema:
    """Turn a tool definition of the port into an OpenAI tool."""
    parameters = one.parameters.model_dump(exclude_none=True)
    function = {"name": one.name, "description": one.description, "parameters": parameters}
    return {"type": "function", "function": function}


def missing_extra(domain: str, error: ImportError) -> DomainError:
    """Return the error of who has not installed the extra."""
    return DomainError(f"tau2:{domain} needs its tools: pip install 'longcat-envs[tau2]' ({error})")

"""Reading recipes: shipped ones, TOML files, `key=value` changes; and what each key means."""

from __future__ import annotations

import ast
import copy
import dataclasses
import difflib
import inspect
import json
import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from .errors import UsageError
from .recipe import Range, Recipe


def shipped_recipes() -> dict[str, str]:
    """Name of each shipped recipe to the first comment of its file."""
    folder = resources.files("longcat_cli") / "recipes"
    found: dict[str, str] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            found[entry.name[:-5]] = entry.read_text("utf-8").splitlines()[0].lstrip("# ")
    return found


def load_recipe(name_or_path: str, changes: Sequence[str] = ()) -> Recipe:
    """Build a recipe from a shipped name or a TOML file and `key=value` changes.

    Raises:
        UsageError: No such recipe, not TOML, an unknown key, a value of the wrong type or range.
    """
    raw = _read(name_or_path)
    for change in changes:
        _set(raw, change)
    return recipe_from_dict(raw)


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """A recipe with `key=value` changes; see `load_recipe` for the errors."""
    raw = copy.deepcopy(recipe_to_dict(recipe))
    for change in changes:
        _set(raw, change)
    return recipe_from_dict(raw)


def mistakes(name_or_path: str) -> list[str]:
    """What is wrong with each key of a recipe, by itself; see `load_recipe` for its absence."""
    return [said for key in _leaves(_read(name_or_path)) if (said := _mistake(key))]


def _leaves(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Recipes that say one key of this one each."""
    for name, value in raw.items():
        if isinstance(value, dict) and name != "groups":
            yield from ({name: {key: item}} for key, item in value.items())
        else:
            yield {name: value}


def _mistake(raw: dict[str, Any]) -> str:
    try:
        recipe_from_dict(raw)
    except UsageError as error:
        return str(error)
    return ""


def recipe_from_dict(raw: dict[str, Any]) -> Recipe:
    """Build a recipe from nested tables; see `load_recipe` for the errors."""
    recipe = _build(Recipe, raw, "")
    if not recipe.groups or not all(recipe.groups.values()):
        raise UsageError("groups must name at least one expert with at least one domain")
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return nested tables that `recipe_from_dict` reads."""
    return dataclasses.asdict(recipe)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a recipe, for people."""

    name: str
    """With its section, such as `rl.steps`."""
    value: Any
    meaning: str
    rule: str
    """Its range or choices; empty for text and switches."""


def as_toml(value: object) -> str:
    """A value as a recipe's file says it."""
    if isinstance(value, dict):
        held = cast("dict[str, object]", value)
        inner = ", ".join(f"{json.dumps(key)} = {as_toml(item)}" for key, item in held.items())
        return f"{{ {inner} }}"
    if isinstance(value, list):
        return f"[{', '.join(as_toml(item) for item in cast('list[object]', value))}]"
    return json.dumps(value)


def keys(recipe: Recipe) -> Iterator[Key]:
    """Every key of a recipe, in order."""
    yield from _keys(recipe, "")


def _keys(section: Any, where: str) -> Iterator[Key]:
    hints, meanings = get_type_hints(type(section)), _meanings(type(section))
    for part in dataclasses.fields(section):
        value = getattr(section, part.name)
        if dataclasses.is_dataclass(value):
            yield from _keys(value, f"{where}{part.name}.")
            continue
        rule = str(part.metadata.get("range", ""))
        if get_origin(hints[part.name]) is Literal:
            rule = " or ".join(get_args(hints[part.name]))
        yield Key(where + part.name, value, meanings.get(part.name, ""), rule)


_GREATEST = 2**62
"""Of numbers: libraries take no greater ones, and stages add to seeds."""


@cache
def _meanings(kind: type) -> dict[str, str]:
    """The string under each field of a class."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            found[ast.unparse(field.target)] = ast.literal_eval(below.value)
    return found


def _read(name_or_path: str) -> dict[str, Any]:
    if name_or_path in shipped_recipes():
        text = (resources.files("longcat_cli") / "recipes" / f"{name_or_path}.toml").read_text(
            "utf-8"
        )
    elif Path(name_or_path).is_file():
        try:
            text = Path(name_or_path).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name_or_path} must be a TOML file in UTF-8: {error}") from error
    else:
        raise UsageError(
            f"a recipe must be one of {', '.join(shipped_recipes())} or a TOML file, "
            f"got {name_or_path!r}"
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name_or_path} must be TOML: {error}") from error


def _set(raw: dict[str, Any], change: str) -> None:
    path, found, text = change.partition("=")
    if not found:
        raise UsageError(f"--set must be key=value, got {change!r}")
    path, value = path.strip(), _value(text)
    if isinstance(value, dict) and path in _SECTIONS:  # its other keys stay
        for inner, held in cast("dict[str, object]", value).items():
            _put(raw, f"{path}.{inner}", held)
        return
    _put(raw, path, text.strip() if path in _TEXTS and not isinstance(value, str) else value)


_SECTIONS = [part.name for part in dataclasses.fields(Recipe)
             if dataclasses.is_dataclass(getattr(Recipe(), part.name))]  # fmt: skip
_TEXTS = ("name", "rl.ray_address")
"""Keys of any text: a number or a date is meant as one there."""


def _put(raw: dict[str, Any], path: str, value: object) -> None:
    *parents, key = path.split(".")
    table = raw
    if parents == ["groups"]:  # one more expert, or another of those that there are
        raw.setdefault("groups", copy.deepcopy(Recipe().groups))
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {path}: {parent!r} is a value, not a section")
    table[key] = value


def _value(text: str) -> Any:
    """As Python writes it, as TOML writes it (true, nan), or a text without quotes."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        pass
    try:
        found = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return found["value"] if found.keys() == {"value"} else text


def _build(kind: type, raw: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    ranges = {part.name: part.metadata.get("range") for part in dataclasses.fields(kind)}
    values = {}
    for key, value in raw.items():
        if key not in hints:
            near = _near(key, where) or [where + name for name in sorted(hints)]
            raise UsageError(f"unknown key {where + key!r}; near it: {', '.join(near)}")
        values[key] = _check(hints[key], value, where + key)
        rule = ranges[key]
        if rule is not None:
            _within(rule, values[key], where + key)
    return kind(**values)


def _near(key: str, where: str) -> list[str]:
    """Keys that may be meant, with their sections: of this one first, else of the same name."""
    known = [known.name for known in keys(Recipe())]
    names = {name.rpartition(".")[2] for name in known}
    sections = [part.name for part in dataclasses.fields(Recipe)]
    inside = [name for name in known if name.startswith(where)] if where else sections
    near = difflib.get_close_matches(where + key, inside, n=3, cutoff=0.6)
    if near:
        return near
    alike = [key] if key in names else difflib.get_close_matches(key, names, n=1)
    return [name for name in known if name.rpartition(".")[2] in alike]


def _within(rule: Range, value: Any, where: str) -> None:
    for number in value if isinstance(value, list) else [value]:
        if not (isinstance(number, int) or math.isfinite(number)):
            raise UsageError(f"{where} must be finite, got {number!r}")
        if not rule.holds(number):
            raise UsageError(f"{where} must be {rule}, got {number!r}")


def _check(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise UsageError(f"{where} must be a section, got {value!r}")
        return _build(kind, value, f"{where}.")
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{where} must be one of {', '.join(get_args(kind))}, got {value!r}")
        return value
    if origin is list and isinstance(value, list | tuple):
        return [_check(get_args(kind)[0], item, where) for item in value]
    if origin is dict and isinstance(value, dict):
        return {str(k): _check(get_args(kind)[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > _GREATEST:
            raise UsageError(f"{where} must be a number of at most {_GREATEST}, got more")
        return float(value)
    if kind is int and isinstance(value, int) and abs(value) > _GREATEST:
        raise UsageError(f"{where} must be a number of at most {_GREATEST}, got more")
    is_switch = isinstance(value, bool)
    if isinstance(kind, type) and isinstance(value, kind) and is_switch == (kind is bool):
        return value
    got = repr(value) if isinstance(value, str) else str(value)
    raise UsageError(f"{where} must be {_KINDS[kind]}, got {got:.60}")


_KINDS: dict[Any, str] = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false",
    list[float]: "a list of numbers", list[str]: "a list of texts",
    dict[str, list[str]]: "a table of lists of texts",
}  # fmt: skip
"""How a recipe's values are called."""

"""Another version of the schema: one field has a new name, and the answer says which."""

from typing import Any, cast

from longcat_noise._kind import READERS, Scene, ToolKind, compact, parse


def act(scene: Scene) -> str | None:
    """Rename one field of an object, or of every object of a list."""
    value: Any = parse(scene.content)
    rows = cast("list[Any]", value) if isinstance(value, list) else [value]
    objects = [cast("dict[str, Any]", row) for row in rows if isinstance(row, dict)]
    names = sorted({name for row in objects for name in row})
    if not names:
        return None
    old: str = scene.choose(names, "rename")
    new = f"{old}_v2"
    while new in names:
        new += "_2"
    changed = [
        {new if key == old else key: item for key, item in cast("dict[str, Any]", row).items()}
        if isinstance(row, dict) else row
        for row in rows
    ]  # fmt: skip
    data: Any = changed if isinstance(value, list) else changed[0]
    return compact({"schema": "v2", "renamed": {new: old}, "data": data})


def undo(value: Any) -> Any:
    """Return the value under its old names, as who reads the note would."""
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != {
        "schema", "renamed", "data",
    }:  # fmt: skip
        return cast("Any", value)
    note = cast("dict[str, Any]", value)
    names, data = note["renamed"], note["data"]
    rows = cast("list[Any]", data) if isinstance(data, list) else [data]
    changed = [
        {names.get(key, key): item for key, item in cast("dict[str, Any]", row).items()}
        if isinstance(row, dict) else row
        for row in rows
    ]  # fmt: skip
    return changed if isinstance(data, list) else changed[0]


RENAMED = ToolKind(
    name="renamed", is_explicit=True, roles=READERS, survival="ignore", extra_turns=0, act=act
)

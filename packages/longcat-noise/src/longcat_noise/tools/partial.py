"""Half of the values of a read are hidden; asking again shows them.

A write is never shown in part: who asks again would do it again.
"""

from typing import Any, cast

from longcat_noise._kind import READERS, Scene, ToolKind, compact, parse

HIDDEN = "..."


def act(scene: Scene) -> str:
    """Hide half of the values of a JSON object, or of each object of a list."""
    value: Any = parse(scene.content)
    if not value:
        return HIDDEN
    rows = cast("list[Any]", value) if isinstance(value, list) else [value]
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or not row:
            rows[index] = HIDDEN
            continue
        fields = cast("dict[str, Any]", row)
        ranked = sorted(fields, key=lambda key: scene.number("hide", index, key))
        for key in ranked[: (len(ranked) + 1) // 2]:
            fields[key] = HIDDEN
    return compact(rows if isinstance(value, list) else rows[0])


PARTIAL = ToolKind(
    name="partial", is_explicit=True, roles=READERS, survival="retry", extra_turns=1, act=act
)

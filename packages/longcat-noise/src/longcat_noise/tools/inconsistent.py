"""One value of a read is wrong, and nothing says so; a second source that never errs settles it.

Only on readers whose fields another reader shows (`Book.settled`), and never on a read by which a
lost acknowledgement is found out. Asked again, the tool contradicts itself.
"""

from typing import Any, cast

from longcat_noise._kind import READERS, Circumstance, Scene, ToolKind, compact, parse


def act(scene: Scene) -> str | None:
    """Change one value: a flag flips, a number moves, a text gets a neighbour's value or a slip."""
    value: Any = parse(scene.content)
    places = [place for place in _places(value) if _wrong(scene, *place) is not None]
    if not places:
        return None
    holder, key = scene.choose(places, "wrong-place")
    holder[key] = _wrong(scene, holder, key)
    return compact(value)


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        for key, item in fields.items():
            found += _places(item) if isinstance(item, dict | list) else [(fields, key)]
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            found += _places(item)
    return found


def _wrong(scene: Scene, holder: Any, key: Any) -> Any:
    old: Any = holder[key]
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float):
        return old + 1 + int(scene.number("wrong-number") * 9)
    if not isinstance(old, str):
        return None
    for at, letter in enumerate(old):
        if letter.isdecimal():
            digit = (int(letter) + 1 + int(scene.number("wrong-digit") * 8)) % 10
            return f"{old[:at]}{digit}{old[at + 1 :]}"
    return f"not {old}" if old else None


def may(at: Circumstance) -> bool:
    """Whether a second source shows the same fields and never errs."""
    if "lost_ack" in at.kinds and at.contract.name in at.checkers:
        return False
    return at.contract.name in at.settled


INCONSISTENT = ToolKind(
    name="inconsistent", is_explicit=False, roles=READERS, survival="re-read", extra_turns=2,
    act=act, may=may,
)  # fmt: skip

"""What models are called where several are asked: as short as tells them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from longcat_cli.errors import UsageError


def tell_apart(names: Sequence[Sequence[str]]) -> list[str]:
    """Of each model's names, short to long, the first that no other model has.

    >>> tell_apart([["a", "x/a"], ["a", "y/a"], ["b"]])
    ['x/a', 'y/a', 'b']

    Raises:
        UsageError: Two have the same longest name.
    """
    places = [0] * len(names)
    while True:
        shown = [known[place] for known, place in zip(names, places, strict=True)]
        twice = [number for number, name in enumerate(shown) if shown.count(name) > 1]
        longer = [number for number in twice if places[number] + 1 < len(names[number])]
        if not longer:
            break
        for number in longer:
            places[number] += 1
    if twice:
        raise asked_twice(shown[twice[0]])
    return shown


def asked_twice(name: str) -> UsageError:
    """That a model was given a second time."""
    return UsageError(f"each model can be asked once, got {name} twice")


def ends_of(folder: Path) -> Iterator[str]:
    """The ends of a folder's path, from its name to the whole.

    >>> list(ends_of(Path("/a/b")))
    ['b', 'a/b', '/a/b']
    """
    parts = folder.resolve().parts
    for first in reversed(range(len(parts))):
        yield str(Path(*parts[first:]))

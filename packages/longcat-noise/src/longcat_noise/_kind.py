"""What a kind of noise is: two forms, for tools and for users, each told in one small file.

Axes: explicit noise announces itself, implicit noise does not; transient noise passes when one asks
again, permanent noise stays. `survival` names the way out, and the certificate's agents take it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from ._contract import Book, Call, Contract, Role
from ._draw import Draw

Survival = Literal["retry", "re-read", "re-route", "ask", "ignore"]
Act = Callable[["Scene"], "str | None"]
May = Callable[["Circumstance"], bool]

ALL_ROLES: frozenset[Role] = frozenset({"reader", "writer", "undeclared"})
READERS: frozenset[Role] = frozenset({"reader"})


@dataclass(frozen=True, slots=True)
class Scene:
    """One disturbed call, as a kind sees it."""

    content: str
    """What the tool answered; empty if it was not called."""
    contract: Contract
    draw: Draw
    name: tuple[object, ...]
    """Names the call: tool, canonical arguments, n-th."""
    earlier: str | None = None
    """What the same call answered before."""

    def number(self, *more: object) -> float:
        """Return a number in [0, 1) of this call."""
        return self.draw(*more, *self.name)

    def choose(self, items: Any, *more: object) -> Any:
        """Return one of the items, by this call."""
        return self.draw.choose(items, *more, *self.name)


@dataclass(frozen=True, slots=True)
class Circumstance:
    """What is known of a call before it happens, by which a kind may act or not."""

    call: Call
    contract: Contract
    book: Book
    chain: tuple[Call, ...]
    kinds: frozenset[str]
    """All kinds that are on."""
    settled: frozenset[str]
    checkers: frozenset[str]


def _always(_: Circumstance) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolKind:
    """One way in which a tool is imperfect."""

    name: str
    is_explicit: bool
    is_permanent: bool = False
    roles: frozenset[Role]
    """On which contracts it may act."""
    is_before: bool = False
    """Whether the call does not happen at all."""
    is_error: bool = False
    survival: Survival
    extra_turns: int
    """Turns that one disturbance costs a sensible agent."""
    act: Act
    may: May = _always


@dataclass(frozen=True, slots=True, kw_only=True)
class UserKind:
    """One way in which a user is imperfect."""

    name: str
    is_explicit: bool
    survival: Survival
    extra_turns: int = 0
    act: Callable[[str, Any, Draw, tuple[object, ...]], str]
    """Takes the text, the protected spans (`Spans`), the draw and a name."""
    is_deferring: bool = False
    """Whether the request itself comes one turn later."""


def compact(value: Any) -> str:
    """Return JSON without blanks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parse(content: str) -> Any:
    """Return the JSON value of an answer that is an object or a list; `None` if it is none."""
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return cast("Any", value) if isinstance(value, dict | list) else None

"""How much noise and of what; and what befalls each call and each turn of one episode.

What always holds:

- a decision is a pure function of (seed, episode, tool, arguments, n-th call with these, kind): the
  order in which other calls come, threads and processes do not matter;
- a tool called with the same arguments is disturbed at most `max_per_tool` times, then it answers;
- where a golden chain is known, at most `allowance` of its calls and turns are disturbed at a cost.
  Which ones is decided by their own numbers before the episode begins.

Source: LongCat-Flash-Thinking-2601 report 3.3.3; kinds after the team's AgentNoiseBench.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

from ._contract import Book, Call, Contract, read_arguments
from ._draw import BETWEEN, Draw, canonical
from ._kind import Circumstance, Scene, ToolKind, UserKind
from ._words import split
from .tools import TOOLS
from .users import USERS

TOOL_KINDS = tuple(TOOLS)
USER_KINDS = tuple(USERS)
Position = Literal["any", "early", "middle", "late"]
POSITIONS: tuple[Position, ...] = ("any", "early", "middle", "late")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """How much, and of what.

    Example:
        >>> NoiseConfig(level=0.3, tool_kinds=("failure",)).max_per_tool
        2
    """

    level: float
    """0 is a perfect world; the chance that a call or a turn is disturbed."""
    tool_kinds: tuple[str, ...] = ("failure", "partial", "padding")
    user_kinds: tuple[str, ...] = ("redundancy", "typo", "casing")
    max_per_tool: int = 2
    """How often a tool that is called with the same arguments is disturbed."""
    seed: int = 0
    position: Position = "any"
    """Third of the golden chain that is disturbed; other than `any`, it needs a chain."""

    def __post_init__(self) -> None:
        if type(self.level) not in (int, float) or not 0 <= self.level <= 1:
            raise ValueError(f"level must be in [0, 1], got {self.level!r}")
        if type(self.seed) is not int:
            raise ValueError(f"seed must be a whole number, got {self.seed!r}")
        for kinds, known in ((self.tool_kinds, TOOL_KINDS), (self.user_kinds, USER_KINDS)):
            for kind in kinds:
                if kind not in known:
                    raise ValueError(f"a kind must be among {', '.join(known)}, got {kind!r}")
            if len(set(kinds)) != len(kinds):
                raise ValueError(f"kinds must be named once each, got {', '.join(kinds)}")
        if type(self.max_per_tool) is not int or self.max_per_tool < 0:
            raise ValueError(f"max_per_tool must be 0 or more, got {self.max_per_tool!r}")
        if self.position not in POSITIONS:
            raise ValueError(
                f"position must be among {', '.join(POSITIONS)}, got {self.position!r}"
            )


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What befalls one call: kinds in order, of which the first that can act does."""

    kinds: tuple[ToolKind, ...]
    name: tuple[object, ...]

    @property
    def kind(self) -> ToolKind:
        """The kind that was drawn."""
        return self.kinds[0]


class EpisodeNoise:
    """The noise of one episode.

    Args:
        config: How much, and of what.
        episode: Names the episode.
        book: What is known of the tools.
        chains: Golden chains, where they are known; a tool that not all of them use may be `gone`.
        allowance: Disturbances with a cost that the chains' calls and the opening may meet in all;
            `None` for no limit.
    """

    def __init__(
        self,
        config: NoiseConfig,
        episode: str,
        *,
        book: Book | None = None,
        chains: Sequence[Sequence[Call]] = (),
        allowance: int | None = None,
    ) -> None:
        if config.position != "any" and not chains:
            raise ValueError(f"position {config.position!r} needs a golden chain, got none")
        if allowance is not None and (allowance < 0 or not chains):
            raise ValueError(f"allowance must be 0 or more and needs a chain, got {allowance}")
        self.config, self.book = config, book or Book()
        self.draw = Draw(config.seed, episode)
        self._level, self._max = config.level, config.max_per_tool
        self._chains = tuple(tuple(chain) for chain in chains)
        self._kinds = frozenset(config.tool_kinds)
        self._settled = frozenset(self.book.settled())
        self._checkers = self.book.checkers()
        self._calls: dict[str, int] = {}
        self._hits: dict[str, int] = {}
        self._lock = Lock()
        self._third = self._thirds() if config.position != "any" else None
        self._has_none = not config.level or not config.tool_kinds or not config.max_per_tool
        self.gone = self._withdrawn()
        self._spared: frozenset[tuple[object, ...]] = frozenset()
        if allowance is not None:
            ranked = sorted(self.expected())
            self._spared = frozenset(name for _, name in ranked[allowance:])

    def restart(self) -> None:
        """Forget the calls that were made; the noise stays the same."""
        with self._lock:
            self._calls.clear()
            self._hits.clear()

    def meet(self, tool: str, arguments: object) -> Disturbance | None:
        """Decide what befalls a call that is made now, and count it."""
        if tool in self.gone:
            return Disturbance((TOOLS["gone"],), (tool,))
        if self._has_none:
            return None
        name = canonical(arguments)
        key = f"{tool}{BETWEEN}{name}"
        with self._lock:
            nth = self._calls.get(key, 0)
            self._calls[key] = nth + 1
            before = self._hits.get(key, 0) if nth else 0
            hit = before < self._max and self._is_hit(key, nth)
            if hit:
                self._hits[key] = before + 1
        if not hit or (tool, name, nth) in self._spared:
            return None
        return self._disturbance(tool, arguments, (tool, name, nth))

    def _is_hit(self, key: str, nth: int) -> bool:
        if self._third is not None and key not in self._third:
            return False
        return self.draw.number(f"tool{BETWEEN}{key}{BETWEEN}{nth}") < self._level

    def _disturbance(self, tool: str, arguments: object, name: Any) -> Disturbance | None:
        contract = self.book[tool]
        call = Call(tool, read_arguments(arguments))
        at = Circumstance(call, contract, self.book, self._known(), self._kinds, self._settled,
                          self._checkers)  # fmt: skip
        can = [TOOLS[k] for k in self.config.tool_kinds if contract.role in TOOLS[k].roles]
        can = [kind for kind in can if kind.may(at)]
        if not can:
            return None
        first, *rest = self.draw.order(can, "tool-kind", *name)
        # Where the first cannot act on what the tool answers, another does that costs no more; one
        # that replaces the call comes too late by then.
        spare = [k for k in rest if not k.is_before and k.extra_turns <= first.extra_turns]
        return Disturbance((first, *spare), name)

    def _known(self) -> tuple[Call, ...]:
        return tuple(call for chain in self._chains for call in chain)

    def expected(self) -> list[tuple[float, tuple[object, ...]]]:
        """Return the disturbances with a cost that the chains' calls meet, with their numbers."""
        found: dict[tuple[object, ...], float] = {}
        kind = self._user_kind(0)
        if kind is not None and kind.extra_turns:
            found[("user", 0)] = self.draw("user", 0)
        for call in self._known() if not self._has_none else ():
            name = canonical(call.arguments)
            num, nth = 0, 0
            while num < self.config.max_per_tool and nth < 4 * (1 + self.config.max_per_tool):
                if self._is_hit(f"{call.tool}{BETWEEN}{name}", nth):
                    num += 1
                    place = (call.tool, name, nth)
                    met = self._disturbance(call.tool, call.arguments, place)
                    if met is not None and met.kind.extra_turns:
                        found[place] = self.draw("tool", *place)
                nth += 1
        return [(number, name) for name, number in found.items()]

    def _withdrawn(self) -> frozenset[str]:
        """Choose the tool that stays away, if any: one that a whole chain does without."""
        if "gone" not in self._kinds or len(self._chains) < 2:
            return frozenset()
        used = [frozenset(call.tool for call in chain) for chain in self._chains]
        some = frozenset[str]().union(*used)
        can = sorted(tool for tool in some if not all(tool in tools for tools in used))
        if not can or self.draw("gone") >= self.config.level:
            return frozenset()
        return frozenset({self.draw.choose(can, "gone-tool")})

    def _thirds(self) -> frozenset[str]:
        third = POSITIONS.index(self.config.position) - 1
        return frozenset(
            f"{call.tool}{BETWEEN}{canonical(call.arguments)}"
            for chain in self._chains
            for index, call in enumerate(chain)
            if index * 3 // len(chain) == third
        )

    def _user_kind(self, nth: int) -> UserKind | None:
        config = self.config
        if not config.user_kinds or self.draw("user", nth) >= config.level:
            return None
        if config.position != "any" and (config.position == "early") != (nth == 0):
            return None
        kinds = [USERS[k] for k in config.user_kinds if nth == 0 or not USERS[k].is_deferring]
        return self.draw.choose(kinds, "user-kind", nth) if kinds else None

    def meet_turn(self, nth: int) -> UserKind | None:
        """Decide what befalls the user's `nth` turn."""
        return None if ("user", nth) in self._spared else self._user_kind(nth)


def disturb_result(kind: str, content: str, draw: Draw, tool: str, nth: int) -> str:
    """Return what an agent sees instead of `content` under one kind of tool noise."""
    scene = Scene(content, Contract(name=tool, is_declared=False), draw, (tool, nth))
    changed = TOOLS[kind].act(scene)
    return content if changed is None else changed


def disturb_request(
    text: str, *, config: NoiseConfig, draw: Draw, protected: Iterable[str], nth: int = 0
) -> str:
    """Return what the user says instead of `text`; protected literals survive letter by letter."""
    if not config.user_kinds or draw("user", nth) >= config.level:
        return text
    return say(USERS[draw.choose(config.user_kinds, "user-kind", nth)], text, draw, protected, nth)


def say(kind: UserKind, text: str, draw: Draw, protected: Iterable[str], nth: int) -> str:
    """Return a turn as one kind of noise leaves it."""
    return kind.act(text, split(text, protected), draw, (nth,)) if text.strip() else text

"""Put a disturbance on one call, whatever carries it: an environment, a function, a session.

A call that is replaced does not happen. One that happens is answered whole, in part or not at all.
An error that the tool itself gave is passed on as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._kind import Scene, ToolKind
from ._noise import Disturbance, EpisodeNoise
from .tools.latency import latency_s


@dataclass(frozen=True, slots=True)
class NoisyResult:
    """A tool result as the agent sees it."""

    content: str
    is_error: bool
    is_noise: bool = True
    kind: str = ""
    """What befell the call."""
    latency_s: float = 0.0
    """Seconds on the virtual clock."""


class Applier:
    """Turns decisions into what is seen, and keeps a record of them.

    Args:
        noise: Decides.
    """

    def __init__(self, noise: EpisodeNoise) -> None:
        self.noise = noise
        self.log: list[dict[str, Any]] = []
        """What was disturbed, in the order in which it was answered."""
        self.elapsed_s = 0.0
        """Latency so far, on the virtual clock."""
        self._keeps = "stale" in noise.config.tool_kinds
        self._answers: dict[tuple[object, ...], str] = {}

    def meet(self, tool: str, arguments: object) -> Disturbance | None:
        """Decide what befalls a call."""
        return self.noise.meet(tool, arguments)

    @property
    def keeps_answers(self) -> bool:
        """Whether undisturbed answers are to be passed through `keep`."""
        return self._keeps

    def keep(self, name: tuple[object, ...], content: str) -> None:
        """Remember what a call answered, for a stale read later on."""
        self._answers[name] = content

    def instead(self, met: Disturbance, tool: str) -> NoisyResult | None:
        """Return what is seen in place of a call; `None` if the call happens."""
        if not met.kind.is_before:
            return None
        scene = Scene("", self.noise.book[tool], self.noise.draw, met.name)
        return self._result(met.kind, str(met.kind.act(scene)), tool, is_error=True)

    def after(self, met: Disturbance, tool: str, content: str) -> NoisyResult | None:
        """Return what is seen of an answer; `None` if no kind can act on it."""
        key = met.name[:2]
        earlier = self._answers.get(key)
        scene = Scene(content, self.noise.book[tool], self.noise.draw, met.name, earlier)
        if self._keeps:
            self.keep(key, content)
        for kind in met.kinds:
            changed = kind.act(scene)
            if changed is not None:
                late = latency_s(scene) if kind.name == "latency" else 0.0
                return self._result(kind, changed, tool, is_error=kind.is_error, late=late)
        return None

    def _result(
        self, kind: ToolKind, content: str, tool: str, *, is_error: bool, late: float = 0.0
    ) -> NoisyResult:
        self.elapsed_s += late
        self.log.append({"tool": tool, "kind": kind.name, "seen": content})
        return NoisyResult(content, is_error, kind=kind.name, latency_s=late)

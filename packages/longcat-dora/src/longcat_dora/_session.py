"""A policy pinned to one version that records exactly what was sampled.

Tokens are extended, never rendered again: the record of a conversation is the engine's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._types import Segment, Worker


class Session:
    """The `Policy` of one trajectory."""

    def __init__(self, worker: Worker, version: int) -> None:
        self.version = version
        self._worker = worker
        self._conversation: int | None = None
        self._num_seen = 0
        self._segment = Segment([], [], [])

    @property
    def segments(self) -> list[Segment]:
        """What was given and sampled so far."""
        return [self._segment] if self._segment.token_ids else []

    async def chat(
        self, messages: list[dict[str, Any]], *, tools: list[dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Answer a conversation that starts fresh or continues the one before.

        Between calls, `messages` must only grow: the last answer, then what came after it.
        """
        renderer = self._worker.renderer
        if renderer is None:
            raise RuntimeError("Policy.chat needs Worker(renderer=...)")
        if self._num_seen == 0:
            ids = renderer.start(messages, tools)
        else:
            ids = renderer.extend(messages[self._num_seen + 1 :])
        self._num_seen = len(messages)
        sampled = await self.generate(ids)
        return renderer.parse(sampled, tools) if sampled else None

    async def generate(self, token_ids: Sequence[int]) -> list[int]:
        """Append tokens and return the sampled continuation; empty when no room is left."""
        engine = self._worker.engine
        if self._conversation is None:
            self._conversation = await engine.open(self.version)
        result = await engine.generate(
            self._conversation,
            token_ids,
            max_tokens=self._worker.max_tokens,
            temperature=self._worker.temperature,
        )
        if result.token_ids:
            self._record(token_ids, sampled=False, log_probs=[0.0] * len(token_ids))
            self._record(result.token_ids, sampled=True, log_probs=result.log_probs)
        return result.token_ids

    async def close(self) -> None:
        """Give the engine's slot back."""
        if self._conversation is not None:
            conversation, self._conversation = self._conversation, None
            await self._worker.engine.close(conversation)

    def _record(self, token_ids: Sequence[int], *, sampled: bool, log_probs: list[float]) -> None:
        self._segment.token_ids.extend(token_ids)
        self._segment.loss_mask.extend([sampled] * len(token_ids))
        self._segment.log_probs.extend(log_probs)

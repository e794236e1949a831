"""Long prompts handed to the prefill process, and what comes back from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from ._prefill import PrefillProcess
from ._request import Conversation
from ._scheduler import Scheduler


class Handover:
    """An engine's side of the prefill process; without one, every prompt is its own to compute.

    Args:
        prefill: The process.
        scheduler: Puts what arrives into blocks.
        conversations: Those that are open.
    """

    def __init__(
        self,
        prefill: PrefillProcess | None,
        scheduler: Scheduler,
        conversations: Mapping[int, Conversation],
    ) -> None:
        self._prefill, self._scheduler = prefill, scheduler
        self._conversations = conversations

    @property
    def is_alive(self) -> bool:
        """Whether there is a process that computes."""
        return self._prefill is not None and self._prefill.is_alive

    def listen(self, wake: Callable[[], None]) -> None:
        """Let the running event loop take what the process sends, and call `wake` each time."""
        if self._prefill is not None and self._prefill.is_alive:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._prefill.connection.fileno(), self._receive, wake)

    def give(self, c: Conversation) -> None:
        """Let the process compute a long prompt, but for what others computed already."""
        prefill = self._prefill
        if prefill is None or not prefill.is_alive or c.num_new < prefill.min_tokens:
            return
        if c.is_scoring:  # what comes back are latents alone
            return
        self._scheduler.share_prefix(c)
        if c.num_new >= prefill.min_tokens:
            c.arrivals = []
            prefill.submit(c.identifier, c.version, c.tokens, c.num_cached)

    def stop(self, c: Conversation) -> None:
        """Await nothing more for a conversation."""
        if c.arrivals is not None and self._prefill is not None:
            c.arrivals = None
            self._prefill.abort(c.identifier)

    def is_done(self, c: Conversation) -> bool:
        """Put what arrived into blocks; return whether the engine itself has to go on."""
        if c.arrivals is None:
            return True
        self._scheduler.accept(c)
        if c.num_new == 1 or not (self.is_alive or c.arrivals):
            c.arrivals = None
            return True
        return False

    def _receive(self, wake: Callable[[], None]) -> None:
        """Take what the process sent; when it died, go on without it."""
        assert self._prefill is not None
        for identifier, start, latents in self._prefill.receive():
            c = self._conversations.get(identifier)
            if c is None or c.arrivals is None:
                continue
            if latents is None:  # it could not: the engine finds out why
                c.arrivals = None
            else:
                c.arrivals.append((start, latents))
        if not self._prefill.is_alive:
            asyncio.get_running_loop().remove_reader(self._prefill.connection.fileno())
        wake()

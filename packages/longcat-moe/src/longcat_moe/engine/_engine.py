"""An asynchronous generation engine for LongCat models.

- Requests that are ready are batched together, whatever their age (continuous batching); long
  prompts are computed in chunks beside them.
- A conversation keeps its latents between turns: the next turn only computes what is new. Whoever
  begins with the same tokens under the same version shares the blocks that are computed.
- Several weight versions are live at once. A conversation stays on the version it was opened with;
  a version is freed when it is retired and its last conversation closes.
- Where the cache is too small for all, whole conversations wait in host memory; nothing is computed
  twice.
- What one request brings in can hurt that request alone: it is checked when it comes, and a step
  that raises fails those who made it raise. If the loop itself ends, `failure` says why and nobody
  waits.

    open ──> generate ──> generate ──> ... ──> close
               │  waits for: its tokens.  woken by: the step loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import torch

from longcat_moe._config import LongcatConfig
from longcat_moe._model import LongcatForCausalLM

from ._cache import Span, make_cache
from ._handover import Handover
from ._loop import StepLoop
from ._models import Versions
from ._prefill import PrefillProcess
from ._request import (
    Conversation,
    Draws,
    EngineStats,
    Generation,
    Request,
    Token,
)
from ._sampling import SamplingParams, merged
from ._scheduler import Scheduler
from ._settings import EngineConfig
from ._slots import Slots
from ._turns import Turns


class Engine:
    """Serves one architecture under several weight versions.

    Args:
        config: The architecture.
        settings: Sizes and habits; the defaults when absent.
        decode: Token ids to text; needed for stop strings alone.
        prefill: A process that computes long prompts, so that they hold up nobody who decodes.
        clock: Seconds, for deadlines.
        changes: Fields of `EngineConfig` by name, in place of `settings` or on top of them.

    Raises:
        TypeError: `changes` holds what is no field.
        ValueError: A size is out of range, or the config has no head to speculate with.
    """

    def __init__(
        self,
        config: LongcatConfig,
        settings: EngineConfig | None = None,
        *,
        decode: Callable[[list[int]], str] | None = None,
        prefill: PrefillProcess | None = None,
        clock: Callable[[], float] = time.monotonic,
        **changes: Any,
    ) -> None:
        settings = dataclasses.replace(settings or EngineConfig(), **changes)
        settings.check_model(config)
        self.config, self.settings, self.stats = config, settings, EngineStats()
        self.max_length, self.max_waiting = settings.max_length, settings.max_waiting
        max_chunk = max(settings.chunk_tokens, 0 if prefill is None else prefill.chunk_tokens)
        self._cache = make_cache(config, settings, max_chunk=max_chunk)
        self._scheduler = Scheduler(
            self._cache, chunk_tokens=settings.chunk_tokens, watermark=settings.watermark,
            stats=self.stats, num_ahead=settings.num_ahead,
        )  # fmt: skip
        self._versions = Versions(config, settings, self._cache, prefill)
        self._models = self._versions.models
        self._conversations: dict[int, Conversation] = {}
        self._turns = Turns(
            config, settings, self._scheduler, self.stats, decode=decode, clock=clock
        )
        self._slots = Slots(settings.num_slots)
        self._handover = Handover(prefill, self._scheduler, self._conversations)
        self._loop = StepLoop(
            self._conversations, scheduler=self._scheduler, versions=self._versions,
            turns=self._turns, handover=self._handover, threaded=settings.threaded,
            on_death=self._slots.fail,
        )  # fmt: skip
        self._ids = itertools.count()

    @property
    def failure(self) -> BaseException | None:
        """Why the engine cannot go on, if so; then all calls raise `EngineDeadError`."""
        return self._loop.failure

    @property
    def on_cached(self) -> Callable[[int, Conversation], None] | None:
        """Called after each step with each conversation that computed something."""
        return self._loop.on_cached

    @on_cached.setter
    def on_cached(self, function: Callable[[int, Conversation], None] | None) -> None:
        self._loop.on_cached = function

    # -- versions ----------------------------------------------------------------------------

    @property
    def versions(self) -> list[int]:
        """Weight versions that are live, oldest first."""
        return sorted(self._models)

    def load_weights(self, version: int, weights: bytes | memoryview) -> None:
        """Make a version available, from safetensors bytes of the model's state dict.

        They are read where they lie, and may be in memory that another process shares.

        Raises:
            ValueError: They are not safetensors, or not those of this architecture.
        """
        self._versions.load(version, weights)

    def add_model(self, version: int, model: LongcatForCausalLM) -> None:
        """Make a version available.

        The model is used as it is; on CPU, its matrices are read now, unless `pack` is off.

        Raises:
            ValueError: It is of another architecture, dtype or kind of device than the engine.
        """
        self._versions.add(version, model)

    def retire(self, version: int) -> None:
        """Free a version as soon as its last conversation closes."""
        self._versions.retire(version)
        self._free(version)

    def _free(self, version: int) -> None:
        if not any(c.version == version for c in self._conversations.values()):
            self._versions.free(version)

    # -- conversations -----------------------------------------------------------------------

    @property
    def num_open(self) -> int:
        """Conversations that are open or wait for a slot."""
        return len(self._conversations)

    @property
    def num_waiting(self) -> int:
        """Conversations that wait for a slot."""
        return self._slots.num_waiting

    @property
    def cache_usage(self) -> float:
        """Share of the cache's blocks that are in use, in [0, 1]."""
        return self._scheduler.pool.num_used / self._scheduler.pool.num_blocks

    async def open(self, version: int, *, seed: int | None = None) -> int:
        """Reserve a slot on a version; waits while all slots are taken.

        Args:
            version: The weights that answer, until the conversation closes.
            seed: Of what is sampled; the engine's own and the order of opening when absent.

        Raises:
            KeyError: The version is not live.
            EngineFullError: `max_waiting` others wait already.
            EngineDeadError: The engine cannot go on.
        """
        self._loop.check_alive()
        if version not in self._models:
            raise KeyError(f"version {version} must be live, live are {self.versions}")
        self._slots.check(self.max_waiting)
        identifier = next(self._ids)
        source = f"{self.settings.seed}:{identifier}" if seed is None else f"request:{seed}"
        # From here on the version is held.
        self._conversations[identifier] = Conversation(version, Draws(source), identifier)
        try:
            await self._slots.take()
        except BaseException:
            del self._conversations[identifier]
            self._free(version)
            raise
        return identifier

    async def close(self, identifier: int) -> None:
        """Give the slot back; a running request is cancelled."""
        conversation = self._conversations.pop(identifier)
        self._loop.give_up(conversation)
        conversation.is_closed = True
        if not conversation.is_computing:  # else when its step ends
            self._scheduler.release(conversation)
        self._slots.give()
        self._free(conversation.version)

    # -- requests ----------------------------------------------------------------------------

    async def generate(
        self,
        identifier: int,
        token_ids: Sequence[int],
        params: SamplingParams | None = None,
        **options: Any,
    ) -> Generation:
        """Append `token_ids` to a conversation and sample its continuation.

        Sampled tokens belong to the conversation. With no room left, nothing is sampled and the
        finish reason is `length`. Cancelling the call ends the request.

        Args:
            identifier: From `open`.
            token_ids: What was said since the last turn.
            params: How much is sampled, and how.
            options: Fields of `SamplingParams` by name, in place of `params` or on top of them.

        Raises:
            RuntimeError: The conversation is answering another request.
            ValueError: A parameter is out of range.
            RequestFailedError: It could not be computed; the conversation is as before.
            EngineDeadError: The engine cannot go on.
        """
        request = self._submit(identifier, token_ids, merged(params, options))
        if request is None:
            return Generation([], [], "length")
        try:
            return await request.future
        finally:
            self._drop(identifier, request)

    async def stream(
        self,
        identifier: int,
        token_ids: Sequence[int],
        params: SamplingParams | None = None,
        **options: Any,
    ) -> AsyncGenerator[Token, None]:
        """Like `generate`, token by token; nothing comes when no room is left.

        Leaving the loop early ends the request when the iterator is closed.
        """
        request = self._submit(identifier, token_ids, merged(params, options))
        if request is None:
            return
        request.stream = asyncio.Queue()
        try:
            while (token := await request.stream.get()) is not None:
                if isinstance(token, BaseException):
                    raise token
                yield token
        finally:
            self._drop(identifier, request)

    def _submit(
        self, identifier: int, token_ids: Sequence[int], params: SamplingParams
    ) -> Request | None:
        self._loop.check_alive()
        conversation = self._conversations[identifier]
        request = self._turns.begin(conversation, token_ids, params)
        if request is not None:
            self._handover.give(conversation)
            self._loop.wake()
        return request

    def _drop(self, identifier: int, request: Request) -> None:
        """End a request that nobody waits for any more."""
        conversation = self._conversations.get(identifier)
        if conversation is not None and conversation.request is request:
            self._loop.give_up(conversation)

    def interrupt(self, identifier: int) -> None:
        """End a running request with what it has, with the finish reason `interrupted`."""
        self._loop.end(self._conversations[identifier], "interrupted")

    def step(self) -> bool:
        """Compute one batch of one version; return whether there was any work."""
        return self._loop.step()

    def latents_of(self, c: Conversation, start: int, end: int) -> torch.Tensor:
        """Return the latents (attentions, tokens, width) of a conversation's tokens."""
        return self._cache.get(Span(c.blocks, start, end - start, c.near))

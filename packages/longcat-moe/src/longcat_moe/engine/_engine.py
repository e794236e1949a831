"""An asynchronous generation engine for LongCat models.

- Requests that are ready are batched together, whatever their age (continuous batching); long prompts
  are computed in chunks beside them.
- A conversation keeps its latents between turns: the next turn only computes what is new. Whoever
  begins with the same tokens under the same version shares the blocks that are computed.
- Several weight versions are live at once. A conversation stays on the version it was opened with;
  a version is freed when it is retired and its last conversation closes.
- Where the cache is too small for all, whole conversations wait in host memory; nothing is computed
  twice.
- What one request brings in can hurt that request alone: it is checked when it comes, and a step that
  raises fails those who made it raise. If the loop itself ends, `failure` says why and nobody waits.

    open ──> generate ──> generate ──> ... ──> close
               │  waits for: its tokens.  woken by: the step loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import itertools
import operator
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import torch

from longcat_moe._config import LongcatConfig
from longcat_moe._experts import Router
from longcat_moe._mapped import map_weights
from longcat_moe._model import LongcatForCausalLM
from longcat_moe._packed import pack

from ._attempt import Attempt, attempt, explain
from ._cache import LatentCache, Span, num_near_blocks
from ._graphs import StaticDecoder
from ._models import check_model
from ._prefill import PrefillProcess
from ._request import (
    Conversation,
    Draws,
    EngineDeadError,
    EngineFullError,
    EngineStats,
    Generation,
    Request,
    RequestFailedError,
    Scored,
    Token,
)
from ._sampling import SamplingParams
from ._scheduler import Scheduler, Work
from ._settings import EngineConfig
from ._slots import Slots
from ._step import Outcome, compute

_STOP_TAIL = 8
"""Tokens of text that are decoded anew for each character that a stop string has, at most."""


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
        self.failure: BaseException | None = None
        """Why the engine cannot go on, if so; then all calls raise `EngineDeadError`."""
        self.on_cached: Callable[[int, Conversation], None] | None = None
        """Called after each step with a conversation that computed something."""
        self._decode, self._prefill, self._clock = decode, prefill, clock
        self._cache = _make_cache(config, settings, prefill)
        self._scheduler = Scheduler(
            self._cache,
            chunk_tokens=settings.chunk_tokens,
            watermark=settings.watermark,
            stats=self.stats,
        )
        self._scheduler.num_ahead = settings.num_ahead
        self._models: dict[int, LongcatForCausalLM] = {}
        self._decoders: dict[int, StaticDecoder] = {}
        self._retired: set[int] = set()
        self._conversations: dict[int, Conversation] = {}
        self._slots = Slots(settings.num_slots)
        self._ids, self._orders, self._turn = (
            itertools.count(),
            itertools.count(),
            itertools.count(),
        )
        self._work = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "longcat-engine")
        """Computes the steps of a threaded engine; begun when it is first used."""

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
        with torch.device("meta"):
            model = LongcatForCausalLM(self.config)
        state = map_weights(weights, model.state_dict())
        model.to_empty(device=self.settings.device).to(self.settings.dtype)
        for (
            module
        ) in model.modules():  # in float32 whatever the engine's dtype, as in `from_pretrained`
            if isinstance(module, Router):
                module.float()
        model.load_state_dict(state)
        self.add_model(version, model)

    def add_model(self, version: int, model: LongcatForCausalLM) -> None:
        """Make a version available.

        The model is used as it is; on CPU, its matrices are read now, unless `pack` is off.

        Raises:
            ValueError: It is of another architecture, dtype or kind of device than the engine.
        """
        check_model(model, self.config, self.settings)
        model = model.eval().requires_grad_(False)
        if self._prefill is not None:
            self._prefill.add_model(version, model)
        self._models[version] = pack(model) if self.settings.pack else model
        if self.settings.num_ahead:
            self._decoders[version] = StaticDecoder(
                self._models[version], self._cache, max_steps=self.settings.num_ahead
            )
        self._retired.discard(version)

    def retire(self, version: int) -> None:
        """Free a version as soon as its last conversation closes."""
        self._retired.add(version)
        self._collect(version)

    def _collect(self, version: int) -> None:
        in_use = any(c.version == version for c in self._conversations.values())
        if version in self._retired and not in_use:
            self._models.pop(version, None)
            self._decoders.pop(version, None)
            self._retired.discard(version)
            if self._prefill is not None:
                self._prefill.retire(version)

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
        self._check_alive()
        if version not in self._models:
            raise KeyError(f"version {version} must be live, live are {self.versions}")
        limit = self.max_waiting
        if limit is not None and not self._slots.num_free and self.num_waiting >= limit:
            raise EngineFullError(
                f"at most max_waiting={limit} conversations may wait for a slot, "
                f"{self.num_waiting} do"
            )
        identifier = next(self._ids)
        source = f"{self.settings.seed}:{identifier}" if seed is None else f"request:{seed}"
        conversation = Conversation(version, Draws(source))
        self._conversations[identifier] = conversation  # from here on the version is held
        try:
            await self._slots.take()
        except BaseException:
            del self._conversations[identifier]
            self._collect(version)
            raise
        return identifier

    async def close(self, identifier: int) -> None:
        """Give the slot back; a running request is cancelled."""
        conversation = self._conversations.pop(identifier)
        self._abort(identifier, conversation)
        conversation.is_closed = True
        if not conversation.is_computing:  # else when its step ends
            self._scheduler.release(conversation)
        self._slots.give()
        self._collect(conversation.version)

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
        request = self._submit(identifier, token_ids, _params(params, options))
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
        request = self._submit(identifier, token_ids, _params(params, options))
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
        self._check_alive()
        conversation = self._conversations[identifier]
        if conversation.request is not None or conversation.is_computing:
            raise RuntimeError("a conversation answers one request at a time")
        if params.stop and self._decode is None:
            raise ValueError("stop strings need an Engine(decode=...)")
        token_ids = self._check_ids(token_ids)
        begin = len(conversation.tokens)
        room = self.max_length - begin - len(token_ids) - (params.max_tokens > 0)
        if room < min(1, params.max_tokens) or not token_ids:
            return None
        self.stats.num_requests += 1
        self.stats.num_reused += conversation.num_cached
        conversation.tokens += token_ids
        conversation.draft = None
        request = conversation.request = Request(
            order=next(self._orders),
            params=params,
            future=asyncio.get_running_loop().create_future(),
            stop_ids=frozenset(
                (self.config.eos_token_id,) if params.stop_ids is None else params.stop_ids
            ),
            max_tokens=min(params.max_tokens, room),
            begin=begin,
            num_given=len(token_ids),
            deadline=None if params.timeout_s is None else self._clock() + params.timeout_s,
        )
        if params.prompt_log_probs is not None and begin <= conversation.num_cached:
            request.prompt.append(Scored(None, []))  # what predicts the first is nothing, or gone
        self._hand_over(identifier, conversation)
        self._wake()
        return request

    def _check_ids(self, token_ids: Sequence[int]) -> list[int]:
        found, words = [operator.index(token) for token in token_ids], self.config.vocab_size
        outside = next((token for token in found if not 0 <= token < words), None)
        if outside is not None:
            raise ValueError(f"token ids must be in [0, {words}), got {outside}")
        return found

    def interrupt(self, identifier: int) -> None:
        """End a running request with what it has, with the finish reason `interrupted`."""
        c = self._conversations[identifier]
        if c.request is not None:
            self._stop_awaiting(identifier, c)
            self._finish(c, c.request, "interrupted")

    # -- the prefill process -----------------------------------------------------------------

    def _hand_over(self, identifier: int, c: Conversation) -> None:
        """Let the prefill process compute a long prompt, but for what others computed already."""
        prefill = self._prefill
        if prefill is None or not prefill.is_alive or c.num_new < prefill.min_tokens:
            return
        if c.is_scoring:  # what comes back are latents alone
            return
        self._scheduler.share_prefix(c)
        if c.num_new >= prefill.min_tokens:
            c.arrivals = []
            prefill.submit(identifier, c.version, c.tokens, c.num_cached)

    def _stop_awaiting(self, identifier: int, c: Conversation) -> None:
        if c.arrivals is not None and self._prefill is not None:
            c.arrivals = None
            self._prefill.abort(identifier)

    def _receive(self) -> None:
        """Take what the prefill process sent; when it died, go on without it."""
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
        self._work.set()

    def latents_of(self, c: Conversation, start: int, end: int) -> torch.Tensor:
        """Return the latents (attentions, tokens, width) of a conversation's tokens."""
        return self._cache.get(Span(c.blocks, start, end - start, c.near))

    def _is_ready(self, c: Conversation) -> bool:
        """Whether the engine itself has something to compute for a conversation."""
        if c.arrivals is None:
            return True
        self._scheduler.accept(c)
        alive = self._prefill is not None and self._prefill.is_alive
        if c.num_new == 1 or not (alive or c.arrivals):
            c.arrivals = None
            return True
        return False

    def _drop(self, identifier: int, request: Request) -> None:
        """End a request that nobody waits for any more."""
        conversation = self._conversations.get(identifier)
        if conversation is not None and conversation.request is request:
            self._abort(identifier, conversation)

    def _abort(self, identifier: int, conversation: Conversation) -> None:
        request, conversation.request = conversation.request, None
        self._stop_awaiting(identifier, conversation)
        if request is not None:
            request.future.cancel()
            if request.stream is not None:
                request.stream.put_nowait(None)

    # -- the step loop -----------------------------------------------------------------------

    def _wake(self) -> None:
        if self._loop is None or self._loop.done():
            self._work = asyncio.Event()  # of the loop that runs now; an engine may outlive one
            loop = asyncio.get_running_loop()
            self._loop = loop.create_task(self._run())
            if self._prefill is not None and self._prefill.is_alive:
                loop.add_reader(self._prefill.connection.fileno(), self._receive)
        self._work.set()

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise EngineDeadError(f"the engine has ended: {self.failure!r}")

    async def _run(self) -> None:
        """Takes: requests. Gives: tokens. Stops: never, sleeps while there is no work."""
        try:
            while True:
                while (batch := self._plan()) is not None:
                    if self.settings.threaded:
                        self._commit(await self._in_thread(batch))
                    else:
                        self._commit(self._attempt(batch))
                        await asyncio.sleep(0)
                self._work.clear()
                await self._work.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._die(error)
            if not isinstance(error, Exception):
                raise

    async def _in_thread(self, batch: list[Work]) -> Attempt:
        step = self._thread.submit(self._attempt, batch)
        try:
            return await asyncio.wrap_future(step)
        except asyncio.CancelledError:  # the event loop ends: the step must not write on
            concurrent.futures.wait([step])
            for work in batch:
                self._leave(work.conversation)
            raise

    def step(self) -> bool:
        """Compute one batch of one version; return whether there was any work."""
        batch = self._plan()
        if batch is None:
            return False
        self._commit(self._attempt(batch))
        return True

    def _plan(self) -> list[Work] | None:
        """Choose a version and its batch; nothing when nobody asks."""
        try:
            return self._choose()
        except Exception as error:  # whoever brought it in is not known
            for c in list(self._conversations.values()):
                c.is_computing = False
                if c.request is not None:
                    self._fail(c, error)
            return None

    def _choose(self) -> list[Work] | None:
        self._expire()
        everyone = self._conversations.values()
        self._scheduler.look_at(everyone)
        active = [c for c in everyone if c.request is not None and self._is_ready(c)]
        if not active:
            return None
        versions = sorted({c.version for c in active})
        version = versions[next(self._turn) % len(versions)]
        mine = [c for c in active if c.version == version]
        self.stats.num_steps += 1
        return self._scheduler.plan(mine)

    def _attempt(self, batch: list[Work]) -> Attempt:
        return attempt(batch, self._compute)

    def _compute(self, batch: list[Work]) -> list[Outcome]:
        version = batch[0].conversation.version
        model, decoder = self._models[version], self._decoders.get(version)
        if decoder is not None and decoder.can_run(batch):
            return decoder.run(batch)
        return compute(model, self._cache, batch, speculate=self.settings.speculate)

    def _commit(self, result: Attempt) -> None:
        for outcome in result.outcomes:
            c = outcome.work.conversation
            c.rng.keep()
            if not self._leave(c):
                continue
            try:
                self._note(c, outcome)
                if self.on_cached is not None:
                    self.on_cached(self._identifier_of(c), c)
            except Exception as error:
                self._fail(c, error)
        for work, error in result.failures:
            if self._leave(work.conversation):
                self._fail(work.conversation, error)

    def _leave(self, c: Conversation) -> bool:
        """Note that a step is over; return whether the conversation is still open."""
        c.is_computing = False
        if c.is_closed:
            self._scheduler.drop(c)
        return not c.is_closed

    def _fail(self, c: Conversation, error: BaseException) -> None:
        """End a request that could not be computed, and leave the conversation as before it."""
        r, c.request, c.draft, c.arrivals = c.request, None, None, None
        self._scheduler.drop(c)
        c.rng.keep()
        if r is None:  # given up meanwhile
            return
        del c.tokens[r.begin :]
        self.stats.num_failed += 1
        if isinstance(error, EngineDeadError):
            failure: RuntimeError = error
        else:
            failure = RequestFailedError(explain(error, self._models.get(c.version)))
            failure.__cause__ = error
        if r.stream is not None:
            r.stream.put_nowait(failure)
            r.future.cancel()
        elif not r.future.done():
            r.future.set_exception(failure)

    def _die(self, error: BaseException) -> None:
        """End all that wait; nothing can be computed any more."""
        self.failure = error
        dead = EngineDeadError(f"the engine has ended: {error!r}")
        self._slots.fail(dead)
        for c in list(self._conversations.values()):
            c.is_computing = False
            if c.request is not None:
                self._fail(c, dead)

    def _identifier_of(self, c: Conversation) -> int:
        return next(i for i, other in self._conversations.items() if other is c)

    def _note(self, c: Conversation, outcome: Outcome) -> None:
        """Write down what a step gave one conversation."""
        num = len(outcome.work.token_ids)
        self.stats.num_prefilled += num if num > 1 + outcome.work.has_draft else 0
        self.stats.num_drafted += outcome.work.has_draft
        self.stats.num_accepted += outcome.work.has_draft and len(outcome.token_ids) > 1
        if c.request is None:  # given up meanwhile: keep what was computed of the prompt
            self._scheduler.confirm(c, c.num_cached + num - outcome.work.has_draft)
            return
        c.draft = outcome.draft
        self._take(c, c.request, outcome)

    def _take(self, c: Conversation, r: Request, outcome: Outcome) -> None:
        """Append sampled tokens one by one, until something stops the request."""
        end = c.num_cached + outcome.num_confirmed
        r.prompt += outcome.scored
        if outcome.token_ids and not r.max_tokens:  # only the prompt was to be scored
            self._scheduler.confirm(c, end)
            self._finish(c, r, "length")
            return
        tops = outcome.top or itertools.repeat([], len(outcome.token_ids))
        for token, log_prob, top in zip(outcome.token_ids, outcome.log_probs, tops, strict=True):
            c.tokens.append(token)
            r.token_ids.append(token)
            r.log_probs.append(log_prob)
            if outcome.top:
                r.top_log_probs.append(top)
            self.stats.num_sampled += 1
            reason = self._why_stop(r, token)
            if r.stream is not None:
                r.stream.put_nowait(Token(token, log_prob, reason, top))
            if reason is not None:
                self._scheduler.confirm(c, min(end, len(c.tokens) - 1))
                self._finish(c, r, reason)
                return
        self._scheduler.confirm(c, end)

    def _why_stop(self, r: Request, token: int) -> str | None:
        if token in r.stop_ids or (r.params.stop and self._has_stop(r)):
            return "stop"
        return "length" if len(r.token_ids) >= r.max_tokens else None

    def _has_stop(self, r: Request) -> bool:
        assert self._decode is not None
        stops = r.params.stop
        text = self._decode(r.token_ids[-_STOP_TAIL * max(map(len, stops)) :])
        return any(stop in text for stop in stops)

    def _finish(self, c: Conversation, r: Request, reason: str) -> None:
        c.request, c.draft = None, None
        if r.stream is not None:
            r.stream.put_nowait(None)
        if not r.future.done():
            r.future.set_result(r.answer(reason))

    def _expire(self) -> None:
        """End requests whose time is over, with what they have."""
        late = [
            c for c in self._conversations.values()
            if c.request is not None and c.request.deadline is not None and not c.is_computing
        ]  # fmt: skip
        now = self._clock() if late else 0.0
        for c in late:
            assert c.request is not None
            assert c.request.deadline is not None
            if now >= c.request.deadline:
                self._stop_awaiting(self._identifier_of(c), c)
                self._finish(c, c.request, "timeout")


def _params(params: SamplingParams | None, options: dict[str, Any]) -> SamplingParams:
    if params is None:
        return SamplingParams(**options)
    return dataclasses.replace(params, **options) if options else params


def _make_cache(
    config: LongcatConfig, settings: EngineConfig, prefill: PrefillProcess | None
) -> LatentCache:
    num_slots, size, num_blocks = settings.num_slots, settings.block_size, settings.num_blocks
    at_once = max(settings.chunk_tokens, 0 if prefill is None else prefill.chunk_tokens)
    num_near = num_slots * num_near_blocks(config, size) + at_once // size
    return LatentCache(
        config,
        num_blocks=num_blocks,
        num_near=min(num_blocks, num_near + num_slots),
        block_size=size,
        dtype=settings.dtype,
        device=settings.device,
    )

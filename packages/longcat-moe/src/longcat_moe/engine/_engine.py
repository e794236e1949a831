"""An asynchronous generation engine for LongCat models.

- Requests that are ready are batched together, whatever their age (continuous batching); long prompts
  are computed in chunks beside them.
- A conversation keeps its latents between turns: the next turn only computes what is new. Whoever
  begins with the same tokens under the same version shares the blocks that are computed.
- Several weight versions are live at once. A conversation stays on the version it was opened with;
  a version is freed when it is retired and its last conversation closes.
- Where the cache is too small for all, whole conversations wait in host memory; nothing is computed
  twice.

    open ──> generate ──> generate ──> ... ──> close
               │  waits for: its tokens.  woken by: the step loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random

import torch

from longcat_moe._checkpoint import map_safetensors
from longcat_moe._config import LongcatConfig
from longcat_moe._model import LongcatForCausalLM
from longcat_moe._packed import pack

from ._cache import LatentCache, Span, num_near_blocks
from ._prefill import PrefillProcess
from ._request import Conversation, EngineFullError, EngineStats, Generation, Request, Token
from ._sampling import SamplingParams
from ._scheduler import Scheduler, Work
from ._step import Outcome, compute

_STOP_TAIL = 8
"""Tokens of text that are decoded anew for each character that a stop string has, at most."""


class Engine:
    """Serves one architecture under several weight versions.

    Args:
        config: The architecture.
        num_slots: Conversations open at once; further ones wait.
        max_length: Tokens of a conversation, prompt included.
        seed: With the same requests in the same order, the same tokens.
        cache_tokens: Tokens that the cache holds; enough for all slots when absent. With less,
            conversations are moved to host memory and back. Sparse attentions always have room for
            the windows of all slots, and never more than this.
        watermark: Share of the cache above which nobody begins or comes back, in (0, 1].
        block_size: Tokens that are shared, and moved, together.
        chunk_tokens: Prompt tokens computed in one step.
        max_waiting: Conversations that may wait for a slot; any number when absent.
        speculate: Let the multi-token prediction head guess, and the model check: same distribution,
            fewer steps.
        pack: Keep a second, packed copy of the matrices on CPU, which is faster (see `pack`).
        decode: Token ids to text; needed for stop strings alone.
        prefill: A process that computes long prompts, so that they hold up nobody who decodes.
        device: Where the cache and loaded weights live.
        threaded: Compute in a thread, so that the event loop stays free: for servers.
        clock: Seconds, for deadlines.

    Raises:
        ValueError: A size is out of range, or the config has no head to speculate with.
    """

    def __init__(
        self,
        config: LongcatConfig,
        *,
        num_slots: int = 32,
        max_length: int = 1024,
        seed: int = 0,
        cache_tokens: int | None = None,
        watermark: float = 0.95,
        block_size: int = 16,
        chunk_tokens: int = 2048,
        max_waiting: int | None = None,
        speculate: bool = False,
        pack: bool = True,
        decode: Callable[[list[int]], str] | None = None,
        prefill: PrefillProcess | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        threaded: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if num_slots < 1 or max_length < 2 or block_size < 1 or chunk_tokens < 1:
            raise ValueError(
                "need num_slots, block_size, chunk_tokens >= 1 and max_length >= 2, got "
                f"{num_slots}, {block_size}, {chunk_tokens} and {max_length}"
            )
        if not 0 < watermark <= 1:
            raise ValueError(f"watermark must be in (0, 1], got {watermark}")
        if speculate and not config.num_nextn_predict_layers:
            raise ValueError("speculate needs a config with num_nextn_predict_layers=1, got 0")
        per_slot = -(-max_length // block_size)
        num_blocks = num_slots * per_slot if cache_tokens is None else cache_tokens // block_size
        if num_blocks < per_slot:
            raise ValueError(
                f"cache_tokens must hold one conversation, {per_slot * block_size} tokens, got "
                f"{cache_tokens}"
            )
        self.config, self.stats = config, EngineStats()
        self.max_length, self.max_waiting = max_length, max_waiting
        at_once = max(chunk_tokens, 0 if prefill is None else prefill.chunk_tokens)
        num_near = num_slots * num_near_blocks(config, block_size) + at_once // block_size
        self._cache = LatentCache(
            config,
            num_blocks=num_blocks,
            num_near=min(num_blocks, num_near + num_slots),
            block_size=block_size,
            dtype=dtype,
            device=device,
        )
        self._scheduler = Scheduler(
            self._cache, chunk_tokens=chunk_tokens, watermark=watermark, stats=self.stats
        )
        self._seed, self._speculate, self._pack, self._decode = seed, speculate, pack, decode
        self._device, self._dtype, self._threaded, self._clock = device, dtype, threaded, clock
        self._prefill = prefill
        self.on_cached: Callable[[int, Conversation], None] | None = None
        """Called after each step with a conversation that computed something."""
        self._models: dict[int, LongcatForCausalLM] = {}
        self._retired: set[int] = set()
        self._conversations: dict[int, Conversation] = {}
        self._free_slots = num_slots
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ids, self._orders, self._turn = (
            itertools.count(),
            itertools.count(),
            itertools.count(),
        )
        self._work = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    # -- versions ----------------------------------------------------------------------------

    @property
    def versions(self) -> list[int]:
        """Weight versions that are live, oldest first."""
        return sorted(self._models)

    def load_weights(self, version: int, weights: bytes | memoryview) -> None:
        """Make a version available, from safetensors bytes of the model's state dict.

        They are read where they lie, and may be in memory that another process shares.
        """
        with torch.device("meta"):
            model = LongcatForCausalLM(self.config)
        model.to_empty(device=self._device).to(self._dtype)
        model.load_state_dict(map_safetensors(weights))
        self.add_model(version, model)

    def add_model(self, version: int, model: LongcatForCausalLM) -> None:
        """Make a version available.

        The model is used as it is; on CPU, its matrices are read now, unless `pack` is off.
        """
        model = model.eval().requires_grad_(False)
        if self._prefill is not None:
            self._prefill.add_model(version, model)
        self._models[version] = pack(model) if self._pack else model
        self._retired.discard(version)

    def retire(self, version: int) -> None:
        """Free a version as soon as its last conversation closes."""
        self._retired.add(version)
        self._collect(version)

    def _collect(self, version: int) -> None:
        in_use = any(c.version == version for c in self._conversations.values())
        if version in self._retired and not in_use:
            self._models.pop(version, None)
            self._retired.discard(version)
            if self._prefill is not None:
                self._prefill.retire(version)

    # -- conversations -----------------------------------------------------------------------

    @property
    def num_open(self) -> int:
        """Conversations that are open or wait for a slot."""
        return len(self._conversations)

    async def open(self, version: int, *, seed: int | None = None) -> int:
        """Reserve a slot on a version; waits while all slots are taken.

        Args:
            version: The weights that answer, until the conversation closes.
            seed: Of what is sampled; the engine's own and the order of opening when absent.

        Raises:
            KeyError: The version is not live.
            EngineFullError: `max_waiting` others wait already.
        """
        if version not in self._models:
            raise KeyError(f"version {version} must be live, live are {self.versions}")
        limit = self.max_waiting
        if limit is not None and not self._free_slots and len(self._waiting) >= limit:
            raise EngineFullError(
                f"at most max_waiting={limit} conversations may wait for a slot, "
                f"{len(self._waiting)} do"
            )
        identifier = next(self._ids)
        source = f"{self._seed}:{identifier}" if seed is None else f"request:{seed}"
        conversation = Conversation(version, Random(source))
        self._conversations[identifier] = conversation  # from here on the version is held
        try:
            await self._take_slot()
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
        self._give_slot()
        self._collect(conversation.version)

    async def _take_slot(self) -> None:
        if self._free_slots:
            self._free_slots -= 1
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # given at the same moment
                self._give_slot()
            raise
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def _give_slot(self) -> None:
        """Hand a slot to whoever has waited longest, else keep it."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._free_slots += 1

    # -- requests ----------------------------------------------------------------------------

    async def generate(
        self,
        identifier: int,
        token_ids: Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        stop_ids: Sequence[int] | None = None,
        stop: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Generation:
        """Append `token_ids` to a conversation and sample its continuation.

        Sampled tokens belong to the conversation. With no room left, nothing is sampled and the
        finish reason is `length`. Cancelling the call ends the request.

        Args:
            identifier: From `open`.
            token_ids: What was said since the last turn.
            max_tokens: Sampled at most.
            temperature: 0 is greedy.
            top_p: Draw from the fewest tokens that have this mass.
            top_k: Draw from this many tokens; 0 for all.
            stop_ids: End after one of these; the config's end of turn when absent.
            stop: End when one of these strings was written; its tokens are kept.
            timeout_s: End after this long with what there is.

        Raises:
            RuntimeError: The conversation is answering another request.
            ValueError: A parameter is out of range.
        """
        request = self._submit(
            identifier,
            token_ids,
            SamplingParams(
                max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k
            ),
            stop_ids,
            stop,
            timeout_s,
        )
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
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        stop_ids: Sequence[int] | None = None,
        stop: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> AsyncIterator[Token]:
        """Like `generate`, token by token; nothing comes when no room is left.

        Leaving the loop early ends the request when the iterator is closed.
        """
        request = self._submit(
            identifier,
            token_ids,
            SamplingParams(
                max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k
            ),
            stop_ids,
            stop,
            timeout_s,
        )
        if request is None:
            return
        request.stream = asyncio.Queue()
        try:
            while (token := await request.stream.get()) is not None:
                yield token
        finally:
            self._drop(identifier, request)

    def _submit(
        self,
        identifier: int,
        token_ids: Sequence[int],
        params: SamplingParams,
        stop_ids: Sequence[int] | None,
        stop: Sequence[str],
        timeout_s: float | None,
    ) -> Request | None:
        conversation = self._conversations[identifier]
        if conversation.request is not None or conversation.is_computing:
            raise RuntimeError("a conversation answers one request at a time")
        if stop and self._decode is None:
            raise ValueError("stop strings need an Engine(decode=...)")
        room = self.max_length - len(conversation.tokens) - len(token_ids) - 1
        if room < 1 or not token_ids:
            return None
        outside = [t for t in token_ids if not 0 <= t < self.config.vocab_size]
        if outside:
            raise ValueError(
                f"token ids must be in [0, {self.config.vocab_size}), got {outside[0]}"
            )
        params = dataclasses.replace(params, max_tokens=min(params.max_tokens, room))
        self.stats.num_reused += conversation.num_cached
        conversation.tokens += token_ids
        conversation.draft = None
        conversation.request = Request(
            next(self._orders),
            params,
            asyncio.get_running_loop().create_future(),
            frozenset((self.config.eos_token_id,) if stop_ids is None else stop_ids),
            tuple(stop),
            None if timeout_s is None else self._clock() + timeout_s,
        )
        self._hand_over(identifier, conversation)
        self._wake()
        return conversation.request

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
            if c is not None and c.arrivals is not None:
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

    async def _run(self) -> None:
        """Takes: requests. Gives: tokens. Stops: never, sleeps while there is no work."""
        while True:
            while (batch := self._plan()) is not None:
                if self._threaded:
                    self._commit(await asyncio.to_thread(self._compute, batch))
                else:
                    self._commit(self._compute(batch))
                    await asyncio.sleep(0)
            self._work.clear()
            await self._work.wait()

    def step(self) -> bool:
        """Compute one batch of one version; return whether there was any work."""
        batch = self._plan()
        if batch is None:
            return False
        self._commit(self._compute(batch))
        return True

    def _plan(self) -> list[Work] | None:
        """Choose a version and its batch; nothing when nobody asks."""
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

    def _compute(self, batch: list[Work]) -> list[Outcome]:
        if not batch:
            return []
        model = self._models[batch[0].conversation.version]
        return compute(model, self._cache, batch, speculate=self._speculate)

    def _commit(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            c = outcome.work.conversation
            c.is_computing = False
            if c.is_closed:
                self._scheduler.release(c)
                continue
            self._note(c, outcome)
            if self.on_cached is not None:
                self.on_cached(self._identifier_of(c), c)

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
        for token, log_prob in zip(outcome.token_ids, outcome.log_probs, strict=True):
            c.tokens.append(token)
            r.token_ids.append(token)
            r.log_probs.append(log_prob)
            self.stats.num_sampled += 1
            reason = self._why_stop(r, token)
            if r.stream is not None:
                r.stream.put_nowait(Token(token, log_prob, reason))
            if reason is not None:
                self._scheduler.confirm(c, min(end, len(c.tokens) - 1))
                self._finish(c, r, reason)
                return
        self._scheduler.confirm(c, end)

    def _why_stop(self, r: Request, token: int) -> str | None:
        if token in r.stop_ids or (r.stop and self._has_stop(r)):
            return "stop"
        return "length" if len(r.token_ids) >= r.params.max_tokens else None

    def _has_stop(self, r: Request) -> bool:
        assert self._decode is not None
        tail = r.token_ids[-_STOP_TAIL * max(map(len, r.stop)) :]
        text = self._decode(tail)
        return any(stop in text for stop in r.stop)

    def _finish(self, c: Conversation, r: Request, reason: str) -> None:
        c.request, c.draft = None, None
        if r.stream is not None:
            r.stream.put_nowait(None)
        if not r.future.done():
            r.future.set_result(Generation(r.token_ids, r.log_probs, reason))

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

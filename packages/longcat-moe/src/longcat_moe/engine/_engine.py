"""An asynchronous generation engine for LongCat models.

- Requests that are ready are batched together, whatever their age (continuous batching).
- A conversation keeps its slot between turns: the next turn only computes what is new. A new
  conversation copies the longest prefix that another one of its version has already computed.
- Several weight versions are live at once. A conversation stays on the version it was opened with;
  a version is freed when it is retired and its last conversation closes.

The compute runs on the event loop, one batch at a time, and yields between batches.

    open ──> generate ──> generate ──> ... ──> close
               │  waits for: its tokens.  woken by: the step loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from safetensors.torch import load as load_safetensors

from longcat_moe._config import LongcatConfig
from longcat_moe._model import LongcatForCausalLM
from longcat_moe._ngram import neighbours

from ._cache import LatentCache
from ._sampling import SamplingParams, sample

PREFILL_TOKENS = 2048
"""A step takes at most this many prompt tokens, padding included (or one conversation)."""
MIN_SHARED_PREFIX = 16


@dataclass(frozen=True, slots=True)
class Generation:
    """What was sampled."""

    token_ids: list[int]
    log_probs: list[float]
    finish_reason: str
    """`stop` (end of turn) or `length` (no room or no tokens left)."""


@dataclass(slots=True)
class EngineStats:
    """Counters since the start."""

    num_steps: int = 0
    num_prefilled: int = 0
    num_reused: int = 0
    """Prompt tokens that were not computed again."""
    num_sampled: int = 0


@dataclass(slots=True)
class _Conversation:
    version: int
    slot: int
    rng: Random
    tokens: list[int] = field(default_factory=list)
    num_cached: int = 0
    request: _Request | None = None


@dataclass(slots=True)
class _Request:
    params: SamplingParams
    future: asyncio.Future[Generation]
    stop_ids: frozenset[int]
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)


class Engine:
    """Serves one architecture under several weight versions.

    Args:
        config: The architecture.
        num_slots: Conversations open at once; further ones wait.
        max_length: Tokens of a conversation, prompt included.
        seed: With the same requests in the same order, the same tokens.
    """

    def __init__(
        self, config: LongcatConfig, *, num_slots: int = 32, max_length: int = 1024, seed: int = 0
    ) -> None:
        if num_slots < 1 or max_length < 2:
            raise ValueError(f"need num_slots >= 1, max_length >= 2: {num_slots}, {max_length}")
        self.config, self.stats = config, EngineStats()
        self._cache = LatentCache(
            config, num_slots=num_slots, max_length=max_length, dtype=torch.float32
        )
        self._seed = seed
        self._models: dict[int, LongcatForCausalLM] = {}
        self._retired: set[int] = set()
        self._conversations: dict[int, _Conversation] = {}
        self._free = deque(range(num_slots))
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._ids = itertools.count()
        self._turn = itertools.count()
        self._work = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    # -- versions ----------------------------------------------------------------------------

    @property
    def versions(self) -> list[int]:
        """Weight versions that are live, oldest first."""
        return sorted(self._models)

    def load_weights(self, version: int, weights: bytes) -> None:
        """Make a version available, from safetensors bytes of the model's state dict."""
        with torch.device("meta"):
            model = LongcatForCausalLM(self.config)
        model.to_empty(device="cpu")
        model.load_state_dict(load_safetensors(weights))
        self.add_model(version, model)

    def add_model(self, version: int, model: LongcatForCausalLM) -> None:
        """Make a version available; the model is used as it is, not copied."""
        self._models[version] = model.eval().requires_grad_(False)
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

    # -- conversations -----------------------------------------------------------------------

    async def open(self, version: int, *, seed: int | None = None) -> int:
        """Reserve a slot on a version; waits while all slots are taken.

        Raises:
            KeyError: The version is not live.
        """
        if version not in self._models:
            raise KeyError(f"version {version} must be live, live are {self.versions}")
        identifier = next(self._ids)
        conversation = _Conversation(version, -1, Random(f"{self._seed}:{seed or identifier}"))
        self._conversations[identifier] = conversation  # from here on the version is held
        try:
            conversation.slot = await self._take_slot()
        except BaseException:
            del self._conversations[identifier]
            self._collect(version)
            raise
        return identifier

    async def close(self, identifier: int) -> None:
        """Give the slot back; a running request is cancelled."""
        conversation = self._conversations.pop(identifier)
        if conversation.request is not None:
            conversation.request.future.cancel()
        self._give_slot(conversation.slot)
        self._collect(conversation.version)

    async def _take_slot(self) -> int:
        if self._free:
            return self._free.popleft()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # given at the same moment
                self._give_slot(future.result())
            raise

    def _give_slot(self, slot: int) -> None:
        """Hand a slot to whoever has waited longest, else keep it."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(slot)
                return
        self._free.append(slot)

    async def generate(
        self,
        identifier: int,
        token_ids: Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop_ids: Sequence[int] | None = None,
    ) -> Generation:
        """Append `token_ids` to a conversation and sample its continuation.

        Sampled tokens belong to the conversation. With no room left, nothing is sampled and the
        finish reason is `length`.
        """
        conversation = self._conversations[identifier]
        if conversation.request is not None:
            raise RuntimeError("a conversation answers one request at a time")
        room = self._cache.max_length - len(conversation.tokens) - len(token_ids) - 1
        if room < 1 or not token_ids:
            return Generation([], [], "length")
        conversation.tokens += token_ids
        params = SamplingParams(
            max_tokens=min(max_tokens, room), temperature=temperature, top_p=top_p
        )
        stops = (self.config.eos_token_id,) if stop_ids is None else stop_ids
        future: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        conversation.request = _Request(params, future, frozenset(stops))
        self._share_prefix(conversation)
        self._wake()
        return await future

    def _share_prefix(self, conversation: _Conversation) -> None:
        if conversation.num_cached:
            self.stats.num_reused += conversation.num_cached
            return
        best, length = None, MIN_SHARED_PREFIX - 1
        for other in self._conversations.values():
            if other is conversation or other.version != conversation.version:
                continue
            limit = min(other.num_cached, len(conversation.tokens) - 1)
            if limit <= length or other.tokens[:length] != conversation.tokens[:length]:
                continue  # cannot be longer than the best so far
            shared = _common(other.tokens, conversation.tokens, limit)
            if shared > length:
                best, length = other, shared
        if best is not None:
            self._cache.copy_prefix(best.slot, conversation.slot, length)
            conversation.num_cached = length
            self.stats.num_reused += length

    # -- the step loop -----------------------------------------------------------------------

    def _wake(self) -> None:
        if self._loop is None or self._loop.done():
            self._work = asyncio.Event()  # of the loop that runs now; an engine may outlive one
            self._loop = asyncio.get_running_loop().create_task(self._run())
        self._work.set()

    async def _run(self) -> None:
        """Takes: requests. Gives: generations. Stops: never, sleeps while there is no work."""
        while True:
            while self.step():  # noqa: ASYNC110 - yields between batches, never polls
                await asyncio.sleep(0)
            self._work.clear()
            await self._work.wait()

    def step(self) -> bool:
        """Compute one batch of one version; return whether there was any work."""
        active = [c for c in self._conversations.values() if c.request is not None]
        if not active:
            return False
        versions = sorted({c.version for c in active})
        version = versions[next(self._turn) % len(versions)]
        mine = [c for c in active if c.version == version]
        prefill = [c for c in mine if len(c.tokens) - c.num_cached > 1]
        decode = [c for c in mine if len(c.tokens) - c.num_cached == 1]
        self._forward(self._models[version], decode + _prefill_batch(prefill))
        self.stats.num_steps += 1
        return True

    @torch.inference_mode()
    def _forward(self, model: LongcatForCausalLM, batch: list[_Conversation]) -> None:
        news = [c.tokens[c.num_cached :] for c in batch]
        view = self._cache.view(
            [c.slot for c in batch], [c.num_cached for c in batch], [len(new) for new in news]
        )
        ids = torch.tensor([[token for new in news for token in new]])
        hidden = model.model(ids, None, view.positions_P[None], view, self._before(batch))
        for conversation, new in zip(batch, news, strict=True):
            conversation.num_cached += len(new)
            self.stats.num_prefilled += len(new) if len(new) > 1 else 0
        self._sample(batch, model.lm_head(hidden[0, view.last_B]))

    def _before(self, batch: list[_Conversation]) -> torch.Tensor | None:
        """What stands before each new token, for n-gram embeddings: (1, P, N - 1)."""
        if not self.config.has_ngrams:
            return None
        num, eos = self.config.emb_neighbor_num - 1, self.config.eos_token_id
        found: list[torch.Tensor] = []
        for c in batch:
            seen = torch.tensor([c.tokens[max(0, c.num_cached - num) :]])
            found.append(neighbours(seen, num=num, eos=eos)[:, -(len(c.tokens) - c.num_cached) :])
        return torch.cat(found, dim=1)

    def _sample(self, batch: list[_Conversation], logits: torch.Tensor) -> None:
        requests = [c.request for c in batch if c.request is not None]
        tokens, log_probs = sample(
            logits, [r.params for r in requests], [c.rng.random() for c in batch]
        )
        for c, r, token, log_prob in zip(batch, requests, tokens, log_probs, strict=True):
            c.tokens.append(token)
            r.token_ids.append(token)
            r.log_probs.append(log_prob)
            self.stats.num_sampled += 1
            stopped = token in r.stop_ids
            if stopped or len(r.token_ids) >= r.params.max_tokens:
                c.request = None
                if not r.future.done():
                    reason = "stop" if stopped else "length"
                    r.future.set_result(Generation(r.token_ids, r.log_probs, reason))


def _prefill_batch(waiting: list[_Conversation]) -> list[_Conversation]:
    """Take conversations with the fewest new tokens first, up to the token budget.

    They cannot starve: whoever decodes comes to an end.
    """
    waiting = sorted(waiting, key=lambda c: len(c.tokens) - c.num_cached)
    batch = waiting[:1]
    for conversation in waiting[1:]:
        width = len(conversation.tokens) - conversation.num_cached
        if width * (len(batch) + 1) > PREFILL_TOKENS:
            break
        batch.append(conversation)
    return batch


def _common(left: list[int], right: list[int], limit: int) -> int:
    for place in range(limit):
        if left[place] != right[place]:
            return place
    return max(limit, 0)

"""One engine made of several replicas, of which each holds the weights of one version at a time.

    open(version) ──> generate ──> a replica that holds the version ──> generate ──> ... ──> close
                          │  waits for: such a replica.  woken by: a replica that has changed, or
                          has room.

- How many hold which version follows the conversations that are open, or their tokens where it is
  known how many a replica can keep (DORA, algorithm 1). They are dealt anew when a version comes,
  when one has nobody left, when somebody finds no replica, or none with room for its past, and
  periodically.
- A replica changes its version when nobody generates there, so that what one request samples is of
  one version. A conversation is of one version, whichever replicas its turns meet; it goes back to
  where it was before, whose cache knows it, unless others are much less busy.
- A replica that is lost is tried again from time to time; its requests are made anew elsewhere.

`longcat_moe.Engine` holds several versions itself and needs none of this. vLLM and servers do.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from longcat_dora._books.balance import assign_replicas, plan_moves
from longcat_dora._types import LongcatDoraError, Sampled

_STAY = 2
"""Requests that a conversation's last replica may be busier by, before it goes elsewhere."""


class ReplicaLostError(LongcatDoraError):
    """A replica cannot be reached, for now."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a replica sampled."""

    token_ids: list[int]
    log_probs: list[float]
    finish_reason: str = "stop"


class Replica(Protocol):
    """An engine with one set of weights. Raises `ReplicaLostError` where another may do better."""

    async def load_weights(self, version: int, weights: Any) -> None:
        """Replace the weights; nobody generates meanwhile."""
        ...

    async def complete(
        self, token_ids: Sequence[int], *, max_tokens: int, temperature: float, seed: int | None
    ) -> Sampled:
        """Sample what follows; log-probs are those of temperature 1."""
        ...


@dataclass(slots=True)
class _Host:
    """A replica, and what it is doing."""

    replica: Replica
    version: int | None = None
    moving_to: int | None = None
    load: int = 0
    tokens: int = 0
    """That its requests may come to have."""
    is_lost: bool = False
    mover: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Conversation:
    version: int
    seed: int | None
    tokens: list[int] = field(default_factory=list[int])
    num_turns: int = 0
    last: _Host | None = None


class ReplicatedEngine:
    """Implements `Engine` over replicas.

    Several may be servers elsewhere, actors, or cards of this machine.

    Args:
        replicas: At least one. With fewer than live versions, newer ones wait until older ones are
            done.
        max_length: Tokens of a conversation, prompt included.
        cache_tokens: Of a replica's cache. Requests go where there is room; where none is, replicas
            are dealt anew, by tokens.
        rebalance_s: Seconds between two looks at how the conversations are spread.
        retry_s: Seconds until a lost replica is tried again.
        load_s: Until a replica must have taken weights; one that has not is lost, and so are its
            weights' tries after `max_slow_loads` in a row: then requests fail and say so.
        max_slow_loads: See `load_s`.

    Raises:
        ValueError: There is no replica.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        max_length: int = 32_768,
        cache_tokens: int | None = None,
        rebalance_s: float = 2.0,
        retry_s: float = 1.0,
        load_s: float = 600.0,
        max_slow_loads: int = 3,
    ) -> None:
        if not replicas:
            raise ValueError("need at least one replica, got none")
        self.max_length, self.rebalance_s, self.retry_s = max_length, rebalance_s, retry_s
        self.cache_tokens = cache_tokens
        self.load_s, self.max_slow_loads = load_s, max_slow_loads
        self._num_slow_loads = 0
        """In a row."""
        self._hosts = [_Host(replica) for replica in replicas]
        self._weights: dict[int, Any] = {}
        self._retired: set[int] = set()
        self._conversations: dict[int, _Conversation] = {}
        self._ids = itertools.count()
        self._waiting: list[asyncio.Future[None]] = []
        self._looked_at = float("-inf")
        self._failure: Exception | None = None
        self.num_moves = 0
        """Times that a replica took other weights."""

    @property
    def holding(self) -> list[int | None]:
        """The version that each replica holds, or `None` while it changes or is lost."""
        return [h.version if h.moving_to is None else None for h in self._hosts]

    # -- Engine ------------------------------------------------------------------------------

    def load_weights(self, version: int, weights: Any) -> None:
        """Make a version available; replicas go over to it in the background."""
        self._weights[version] = weights
        self._rebalance()

    def retire(self, version: int) -> None:
        """Free a version once its last conversation has closed."""
        self._retired.add(version)
        self._collect(version)

    async def open(self, version: int, *, seed: int | None = None) -> int:
        """Begin a conversation.

        Raises:
            KeyError: The version is not live.
        """
        if version not in self._weights:
            raise KeyError(f"version {version} must be live, live are {sorted(self._weights)}")
        identifier = next(self._ids)
        self._conversations[identifier] = _Conversation(version, seed)
        if time.monotonic() - self._looked_at > self.rebalance_s:
            self._rebalance()
        return identifier

    async def generate(
        self, identifier: int, token_ids: Sequence[int], *, max_tokens: int, temperature: float
    ) -> Sampled:
        """Append tokens to a conversation and sample its continuation."""
        c = self._conversations[identifier]
        room = self.max_length - len(c.tokens) - len(token_ids)
        if room < 1:
            return Completion([], [], "length")
        prompt = [*c.tokens, *token_ids]
        seed = None if c.seed is None else zlib.crc32(f"{c.seed}:{c.num_turns}".encode())
        need = len(prompt) + min(max_tokens, room)
        while True:
            host = await self._find(c, need)
            host.load += 1
            host.tokens += need
            try:
                result = await host.replica.complete(
                    prompt, max_tokens=min(max_tokens, room), temperature=temperature, seed=seed
                )
            except ReplicaLostError:
                self._lose(host)
            else:
                break
            finally:
                host.load -= 1
                host.tokens -= need
                self._wake()
        c.tokens, c.last = [*prompt, *result.token_ids], host
        c.num_turns += 1
        return result

    async def close(self, identifier: int) -> None:
        """End a conversation."""
        version = self._conversations.pop(identifier).version
        if self._num_open()[version] == 0:
            self._collect(version)
            self._rebalance()

    async def stop(self) -> None:
        """Let no replica change any more, and close those that can be closed."""
        movers = [h.mover for h in self._hosts if h.mover is not None]
        for mover in movers:
            mover.cancel()
        await asyncio.gather(*movers, return_exceptions=True)
        for host in self._hosts:
            if (close := getattr(host.replica, "close", None)) is not None:
                await close()

    # -- who serves whom ---------------------------------------------------------------------

    async def _find(self, c: _Conversation, need: int) -> _Host:
        """Wait for a replica that holds the conversation's version.

        With room for its tokens, if there is one.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            hosts = self._holders(c.version)
            roomy = [h for h in hosts if self._has_room(h, need)]
            if hosts and not roomy:
                self._rebalance()  # which may send some of them elsewhere
                hosts = self._holders(c.version)
            hosts = roomy or hosts
            if hosts:
                idlest = min(hosts, key=lambda h: h.load)
                if c.last in hosts and c.last.load <= idlest.load + _STAY:
                    return c.last
                return idlest
            if not any(h.moving_to == c.version for h in self._hosts):
                self._rebalance()
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def _holders(self, version: int) -> list[_Host]:
        return [h for h in self._hosts if h.version == version and h.moving_to is None]

    def _has_room(self, host: _Host, need: int) -> bool:
        return self.cache_tokens is None or host.tokens + need <= self.cache_tokens

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _num_open(self) -> Counter[int]:
        return Counter(c.version for c in self._conversations.values())

    def _num_tokens(self) -> Counter[int]:
        counts: Counter[int] = Counter()
        for c in self._conversations.values():
            counts[c.version] += max(1, len(c.tokens))
        return counts

    def _collect(self, version: int) -> None:
        if version in self._retired and not self._num_open()[version]:
            self._weights.pop(version, None)
            self._retired.discard(version)

    def _rebalance(self) -> None:
        """Deal the replicas anew; those with the fewest requests change first."""
        self._looked_at = time.monotonic()
        asked = self._num_open() if self.cache_tokens is None else self._num_tokens()
        newest = max(self._weights, default=None)
        if newest is not None:  # whoever starts now starts there
            asked[newest] = max(1, asked[newest])
        hosts = sorted((h for h in self._hosts if not h.is_lost), key=lambda h: -h.load)
        if not hosts or not asked:
            return
        holding = [h.version if h.moving_to is None else h.moving_to for h in hosts]
        for index, version in plan_moves(holding, assign_replicas(len(hosts), asked)).items():
            self._move(hosts[index], version)

    # -- changes -----------------------------------------------------------------------------

    def _move(self, host: _Host, version: int) -> None:
        host.moving_to = version
        if host.mover is None or host.mover.done():
            host.mover = asyncio.get_running_loop().create_task(self._change(host))

    async def _change(self, host: _Host) -> None:
        """Takes: a replica. Waits for: its last request. Gives: it with other weights."""
        try:
            while (version := host.moving_to) is not None:
                while host.load:
                    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiting.append(future)
                    await future
                if host.moving_to != version:
                    continue
                if version != host.version and version in self._weights:
                    host.version = None
                    await self._load(host, version)
                    self.num_moves += 1
                    host.version = version
                if host.moving_to == version:
                    host.moving_to = None
        except ReplicaLostError:
            self._lose(host)
        except Exception as error:
            self._failure = error
        finally:
            self._wake()

    async def _load(self, host: _Host, version: int) -> None:
        """Have a replica take weights, within its time."""
        try:
            async with asyncio.timeout(self.load_s):
                await host.replica.load_weights(version, self._weights[version])
        except TimeoutError as error:
            self._num_slow_loads += 1
            number = self._hosts.index(host)
            told = (
                f"replica {number} had not taken the weights of version {version} after"
                f" load_s={self.load_s:g} s"
            )
            if self._num_slow_loads >= self.max_slow_loads:
                raise LongcatDoraError(
                    f"{told}, the {self._num_slow_loads}th time in a row"
                ) from error
            raise ReplicaLostError(told) from error
        self._num_slow_loads = 0

    def _lose(self, host: _Host) -> None:
        """Do without a replica for a while."""
        host.version, host.moving_to = None, None
        if not host.is_lost:
            host.is_lost = True
            asyncio.get_running_loop().call_later(self.retry_s, self._try_again, host)
            self._rebalance()

    def _try_again(self, host: _Host) -> None:
        host.is_lost = False
        self._rebalance()

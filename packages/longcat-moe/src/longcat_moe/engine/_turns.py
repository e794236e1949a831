"""A turn of a conversation: how it begins, what each step adds, and every way in which it ends."""

from __future__ import annotations

import asyncio
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence

from longcat_moe._config import LongcatConfig
from longcat_moe._model import LongcatForCausalLM

from ._attempt import explain
from ._request import (
    Conversation,
    EngineDeadError,
    EngineStats,
    Request,
    RequestFailedError,
    Scored,
    Token,
)
from ._sampling import SamplingParams
from ._scheduler import Scheduler
from ._settings import EngineConfig
from ._step import Outcome

_STOP_TAIL = 8
"""Tokens of text that are decoded anew for each character that a stop string has, at most."""


class Turns:
    """Writes requests into conversations, and out of them what was sampled.

    Args:
        config: The architecture.
        settings: For the longest conversation.
        scheduler: Is told what is computed and what is given up.
        stats: Counted in.
        decode: Token ids to text, for stop strings.
        clock: Seconds, for deadlines.
    """

    def __init__(
        self,
        config: LongcatConfig,
        settings: EngineConfig,
        scheduler: Scheduler,
        stats: EngineStats,
        *,
        decode: Callable[[list[int]], str] | None,
        clock: Callable[[], float],
    ) -> None:
        self.config, self.max_length, self.stats = config, settings.max_length, stats
        self._scheduler, self._decode, self._clock = scheduler, decode, clock
        self._orders = itertools.count()

    def begin(
        self, conversation: Conversation, token_ids: Sequence[int], params: SamplingParams
    ) -> Request | None:
        """Append a turn's prompt; return its request, or nothing where there is no room.

        Raises:
            RuntimeError: The conversation is answering another request.
            ValueError: A token id is out of range, or a stop string cannot be looked for.
        """
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
        return request

    def _check_ids(self, token_ids: Sequence[int]) -> list[int]:
        found, words = [operator.index(token) for token in token_ids], self.config.vocab_size
        outside = next((token for token in found if not 0 <= token < words), None)
        if outside is not None:
            raise ValueError(f"token ids must be in [0, {words}), got {outside}")
        return found

    def note(self, c: Conversation, outcome: Outcome) -> None:
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
            self.finish(c, r, "length")
            return
        num, reason = self._until(r, outcome.token_ids)
        tokens, log_probs = outcome.token_ids[:num], outcome.log_probs[:num]
        c.tokens += tokens
        r.token_ids += tokens
        r.log_probs += log_probs
        r.top_log_probs += outcome.top[:num]
        self.stats.num_sampled += num
        if r.stream is not None:
            tops = outcome.top[:num] or [[] for _ in tokens]
            reasons = [*[None] * (num - 1), reason]
            for token in map(Token, tokens, log_probs, reasons, tops):
                r.stream.put_nowait(token)
        if reason is None:
            self._scheduler.confirm(c, end)
            return
        self._scheduler.confirm(c, min(end, len(c.tokens) - 1))
        self.finish(c, r, reason)

    def _until(self, r: Request, tokens: list[int]) -> tuple[int, str | None]:
        """Return how many tokens belong to a request, and why it ends there if it does."""
        num, reason = len(tokens), None
        if tokens and len(r.token_ids) + num >= r.max_tokens:
            num, reason = max(0, r.max_tokens - len(r.token_ids)), "length"
        if not r.stop_ids.isdisjoint(tokens[:num]):
            num = next(k + 1 for k, token in enumerate(tokens) if token in r.stop_ids)
            reason = "stop"
        if r.params.stop:
            ends = (k for k in range(1, num + 1) if self._has_stop(r, tokens[:k]))
            found = next(ends, 0)
            return (found, "stop") if found else (num, reason)
        return num, reason

    def _has_stop(self, r: Request, new: list[int]) -> bool:
        assert self._decode is not None
        stops = r.params.stop
        text = self._decode([*r.token_ids, *new][-_STOP_TAIL * max(map(len, stops)) :])
        return any(stop in text for stop in stops)

    def finish(self, c: Conversation, r: Request, reason: str) -> None:
        """Answer with what was sampled until now, and say why no more."""
        c.request, c.draft = None, None
        if r.stream is not None:
            r.stream.put_nowait(None)
        if not r.future.done():
            r.future.set_result(r.answer(reason))

    def fail(self, c: Conversation, error: BaseException, model: LongcatForCausalLM | None) -> None:
        """End a request that could not be computed, and leave the conversation as before it.

        Args:
            c: Its conversation.
            error: Why.
            model: Its weights, which may hold the reason.
        """
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
            failure = RequestFailedError(explain(error, model))
            failure.__cause__ = error
        if r.stream is not None:
            r.stream.put_nowait(failure)
            r.future.cancel()
        elif not r.future.done():
            r.future.set_exception(failure)

    def give_up(self, c: Conversation) -> None:
        """End a request that nobody waits for any more."""
        request, c.request = c.request, None
        if request is not None:
            request.future.cancel()
            if request.stream is not None:
                request.stream.put_nowait(None)

    def late(self, conversations: Iterable[Conversation]) -> list[Conversation]:
        """Return those whose request has no time left, and that no step computes."""
        timed = [
            (c, c.request.deadline) for c in conversations
            if c.request is not None and c.request.deadline is not None and not c.is_computing
        ]  # fmt: skip
        now = self._clock() if timed else 0.0
        return [c for c, deadline in timed if now >= deadline]

"""`POST /v1/completions`, from text or token ids; what trainers and evaluations ask for.

- `echo` with `logprobs` scores a text: with `max_tokens` 0 nothing else is done.
- With `return_token_ids` an answer tells the ids of the prompt and of what was sampled, as vLLM's
  does, so that nothing is lost in turning them into text and back. `system_fingerprint` names the
  weights.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from longcat_moe.engine import Generation, SamplingParams, Scored

from ._body import ENTRY_CHARS, off_loop, read_json, unless_left
from ._errors import ApiError, shown
from ._fields import (
    MAX_CHOICES,
    SAMPLING,
    STREAMING,
    boolean,
    check_known,
    number,
    sampling,
    streaming,
    usage,
)
from ._served import EventStream, Fan, Served, gather, merge
from ._shown import TextStream, cut_at, safe

_KNOWN = {
    *SAMPLING, *STREAMING, "prompt", "max_tokens", "logprobs", "prompt_logprobs", "echo", "best_of",
    "return_token_ids", "return_tokens_as_token_ids", "skip_special_tokens",
}  # fmt: skip
_ONLY: dict[str, tuple[Any, ...]] = {"suffix": ("",), "response_format": ({"type": "text"},)}
_MAX_PROMPTS = 1024
_MAX_TOP = 64


@dataclass(frozen=True, slots=True)
class Ask:
    """A checked request."""

    prompts: list[list[int]]
    params: SamplingParams
    seed: int | None
    num_choices: int
    """Of each prompt."""
    num_top: int | None
    """`logprobs`: tokens told beside each, or none at all."""
    with_prompt_log_probs: bool
    is_echo: bool
    is_stream: bool
    with_usage: bool
    with_ids: bool
    ids_as_tokens: bool
    skip_special: bool

    @property
    def jobs(self) -> list[tuple[int, list[int], int | None]]:
        """Index, prompt and seed of each choice."""
        return [
            (p * self.num_choices + i, prompt, None if self.seed is None else self.seed + i)
            for p, prompt in enumerate(self.prompts)
            for i in range(self.num_choices)
        ]

    @property
    def num_prompt_tokens(self) -> int:
        """Of all prompts, each once."""
        return sum(map(len, self.prompts))


class Completions:
    """Checks and answers, whole or as a stream."""

    def __init__(self, served: Served) -> None:
        self.served = served

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        served = self.served
        body = await read_json(request, served.max_body_bytes)
        served.check_model(body)
        ask = await self._read(body)
        head = {
            "id": served.new_id("cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.model,
            "system_fingerprint": f"weights-{served.label}",
        }
        if ask.is_stream:
            begun = asyncio.ensure_future(EventStream(self._events(ask, head)).begin())
            return await unless_left(request, begun)
        answer = asyncio.ensure_future(self._whole(ask, head))
        return JSONResponse(await unless_left(request, answer))

    # -- asking ------------------------------------------------------------------------------

    async def _read(self, body: Mapping[str, Any]) -> Ask:
        served = self.served
        check_known(body, _KNOWN, _ONLY)
        num = number(body, ("n",), 1, least=1, most=MAX_CHOICES, whole=True)
        if number(body, ("best_of",), num, whole=True) != num:
            raise ApiError(f"best_of must be n={num}, got {shown(body['best_of'])}", "best_of")
        is_echo = boolean(body, "echo")
        num_top = number(body, ("logprobs",), None, least=0, most=_MAX_TOP, whole=True)
        scored = number(body, ("prompt_logprobs",), None, least=0, most=_MAX_TOP, whole=True)
        max_tokens = number(body, ("max_tokens",), 16, least=0, whole=True)
        options = sampling(
            body, served.engine.config, max_tokens=max_tokens, timeout_s=served.timeout_s
        )
        prompt_top = max(
            (n for n in (scored, num_top if is_echo else None) if n is not None), default=None
        )
        if max_tokens == 0:
            prompt_top = prompt_top or 0
        is_stream, with_usage = streaming(body)
        return Ask(
            prompts=await self._prompts(body.get("prompt"), room=min(1, max_tokens)),
            params=SamplingParams(
                **options, num_top_log_probs=num_top or 0, prompt_log_probs=prompt_top
            ),
            seed=number(body, ("seed",), None, whole=True),
            num_choices=num,
            num_top=num_top,
            with_prompt_log_probs=scored is not None,
            is_echo=is_echo,
            is_stream=is_stream,
            with_usage=with_usage,
            with_ids=boolean(body, "return_token_ids"),
            ids_as_tokens=boolean(body, "return_tokens_as_token_ids"),
            skip_special=boolean(body, "skip_special_tokens", True),
        )

    async def _prompts(self, value: Any, *, room: int) -> list[list[int]]:
        """Return the tokens of a text, of ids, or of a list of either."""
        is_one = isinstance(value, str) or (
            isinstance(value, list) and bool(value) and all(type(i) is int for i in value)
        )
        values = [value] if is_one else value
        if not isinstance(values, list) or not 0 < len(values) <= _MAX_PROMPTS:
            raise ApiError(
                f"prompt must be text, token ids, or a list of 1 to {_MAX_PROMPTS} of these, got "
                f"{shown(value)}",
                "prompt",
            )
        size = sum(len(each) for each in values if isinstance(each, str | list))
        prompts: list[list[int]] = await off_loop(size, self._encode, values)
        for prompt in prompts:
            if not prompt:
                raise ApiError("prompt must have 1 token at least, it has 0", "prompt")
            self.served.check_length(prompt, "prompt", room=room)
        return prompts

    def _encode(self, values: list[Any]) -> list[list[int]]:
        return [self._prompt(value) for value in values]

    def _prompt(self, value: Any) -> list[int]:
        if isinstance(value, str):
            self.served.check_chars(len(value), "prompt")
            return self.served.chat.encode(value)
        words = self.served.engine.config.vocab_size
        if not isinstance(value, list) or not all(type(i) is int and 0 <= i < words for i in value):
            raise ApiError(
                f"prompt must be text, or token ids in [0, {words}), got {shown(value)}", "prompt"
            )
        return value

    # -- answering ---------------------------------------------------------------------------

    async def _whole(self, ask: Ask, head: dict[str, Any]) -> dict[str, Any]:
        fan = Fan(self.served)
        results = await gather(
            [partial(self._generate, ask, fan, prompt, seed) for _, prompt, seed in ask.jobs]
        )
        choices = [
            await off_loop(_size(ask, result), self._choice, ask, index, prompt, result)
            for (index, prompt, _), result in zip(ask.jobs, results, strict=True)
        ]
        num = sum(len(result.token_ids) for result in results)
        return {**head, "choices": choices, "usage": usage(ask.num_prompt_tokens, num)}

    async def _generate(
        self, ask: Ask, fan: Fan, prompt: list[int], seed: int | None
    ) -> Generation:
        async with fan.conversation(seed) as c:
            return await fan.engine.generate(c, prompt, params=ask.params)

    def _choice(
        self, ask: Ask, index: int, prompt: list[int], result: Generation
    ) -> dict[str, Any]:
        ids = result.token_ids
        text = self.served.decode(ids, skip_special=ask.skip_special)
        if result.finish_reason == "stop":
            text = cut_at(text, ask.params.stop)
        if ask.is_echo:
            text = self.served.decode(prompt, skip_special=ask.skip_special) + text
        choice: dict[str, Any] = {
            "index": index,
            "text": text,
            "logprobs": self._log_probs(ask, prompt, result),
            "finish_reason": "stop" if result.finish_reason == "stop" else "length",
        }
        if ask.with_prompt_log_probs:
            choice["prompt_logprobs"] = [
                self._scored(token, scored)
                for token, scored in zip(prompt, result.prompt, strict=True)
            ]
        if ask.with_ids:
            choice |= {"token_ids": ids, "prompt_token_ids": prompt}
        return choice

    async def _events(self, ask: Ask, head: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        fan, num = Fan(self.served), 0
        # What the prompt scored is known at the end alone: such choices come in one piece.
        one = self._in_one if ask.params.prompt_log_probs is not None else self._token_by_token
        sources = [one(ask, fan, *job) for job in ask.jobs]
        async with aclosing(merge(sources)) as events:
            async for choice, num_new in events:
                num += num_new
                yield {**head, "choices": [choice]}
        if ask.with_usage:
            yield {**head, "choices": [], "usage": usage(ask.num_prompt_tokens, num)}

    async def _in_one(
        self, ask: Ask, fan: Fan, index: int, prompt: list[int], seed: int | None
    ) -> AsyncGenerator[tuple[dict[str, Any], int], None]:
        result = await self._generate(ask, fan, prompt, seed)
        choice = await off_loop(_size(ask, result), self._choice, ask, index, prompt, result)
        yield choice, len(result.token_ids)

    async def _token_by_token(
        self, ask: Ask, fan: Fan, index: int, prompt: list[int], seed: int | None
    ) -> AsyncGenerator[tuple[dict[str, Any], int], None]:
        decode = partial(self.served.decode, skip_special=ask.skip_special)
        text, sent, reason, place = TextStream(decode), 0, None, 0
        async with fan.conversation(seed) as c:
            if ask.is_echo:
                yield _chunk(index, decode(prompt)), 0
            stream = fan.engine.stream(c, prompt, params=ask.params)
            async with aclosing(stream) as tokens:
                async for token in tokens:
                    reason = token.finish_reason
                    whole = text.add(token.token_id)
                    if reason:
                        ready = cut_at(text.end(), ask.params.stop if reason == "stop" else ())
                    else:
                        ready = safe(cut_at(whole, ask.params.stop), ask.params.stop)
                    chunk = _chunk(index, ready[sent:])
                    sent = max(sent, len(ready))
                    if ask.num_top is not None:
                        entry = Generation(
                            [token.token_id], [token.log_prob], "", [token.top_log_probs]
                        )
                        chunk["logprobs"] = self._log_probs(ask, [], entry, place)
                        place += len(self._token(ask, token.token_id))
                    if ask.with_ids:
                        chunk["token_ids"] = [token.token_id]
                    if reason:
                        chunk["finish_reason"] = "stop" if reason == "stop" else "length"
                    yield chunk, 1
        if reason is None:  # no room for a single token
            yield {**_chunk(index, ""), "finish_reason": "length"}, 0

    # -- log-probabilities -------------------------------------------------------------------

    def _log_probs(
        self, ask: Ask, prompt: list[int], result: Generation, place: int = 0
    ) -> dict[str, Any] | None:
        """Return `logprobs` of a choice; with `echo` the prompt's come first."""
        if ask.num_top is None:
            return None
        ids: list[int] = list(result.token_ids)
        log_probs: list[float | None] = list(result.log_probs)
        tops: list[Sequence[tuple[int, float]] | None] = list(
            result.top_log_probs or [()] * len(ids)
        )
        if ask.is_echo:
            ids = [*prompt, *ids]
            log_probs = [*(scored.log_prob for scored in result.prompt), *log_probs]
            first = [
                scored.top if scored.log_prob is not None else None for scored in result.prompt
            ]
            tops = [*first, *tops]
        tokens = [self._token(ask, token) for token in ids]
        offsets: list[int] = []
        for token in tokens:
            offsets.append(place)
            place += len(token)
        told = [
            None if top is None else self._top(ask, token, log_prob, top)
            for token, log_prob, top in zip(ids, log_probs, tops, strict=True)
        ]
        return {
            "tokens": tokens,
            "token_logprobs": log_probs,
            "top_logprobs": told if ask.num_top else None,
            "text_offset": offsets,
        }

    def _top(
        self, ask: Ask, token: int, log_prob: float | None, top: Sequence[tuple[int, float]]
    ) -> dict[str, float]:
        """Return the most probable tokens by text, and the one that stands there."""
        found: dict[str, float] = {}
        for other, value in top[: ask.num_top]:
            found.setdefault(self._token(ask, other), value)
        if log_prob is not None:
            found.setdefault(self._token(ask, token), log_prob)
        return found

    def _token(self, ask: Ask, token: int) -> str:
        return f"token_id:{token}" if ask.ids_as_tokens else self.served.decode([token])

    def _scored(self, token: int, scored: Scored) -> dict[str, Any] | None:
        """Return an entry of `prompt_logprobs`, as vLLM's."""
        if scored.log_prob is None:
            return None
        ranked = {i: (p, rank) for rank, (i, p) in enumerate(scored.top, start=1)}
        ranked.setdefault(token, (scored.log_prob, None))  # pyright: ignore[reportArgumentType]
        return {
            str(i): {"logprob": p, "rank": rank, "decoded_token": self.served.decode([i])}
            for i, (p, rank) in ranked.items()
        }


def _size(ask: Ask, result: Generation) -> int:
    """Return how many characters are told of a choice, about: log-probs are most of them."""
    num_top = max(ask.num_top or 0, ask.params.prompt_log_probs or 0)
    return ENTRY_CHARS * (1 + num_top) * (len(result.prompt) + len(result.token_ids))


def _chunk(index: int, text: str) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

"""The small routes: health, models, metrics, tokens, weights."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from longcat_moe._presets import count_parameters

from ._body import ENTRY_CHARS, off_loop, read_bytes, read_json
from ._errors import ApiError, shown, unknown_model
from ._fields import boolean, check_known
from ._messages import read_messages, read_tools
from ._served import Served

_HEADER_BYTES = 1 << 24
"""Of safetensors, for all names and shapes."""
_VERSION_DIGITS = 18


class Meter:
    """Counts answers, for `/metrics`."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.began = time.time()

    def count(self, route: str, status: int, seconds: float) -> None:
        """Note an answer, or the beginning of a stream."""
        self.answers[route, status] += 1
        self.seconds[route] += seconds  # pyright: ignore[reportArgumentType]


class Small:
    """Routes that ask little of the engine."""

    def __init__(self, served: Served, meter: Meter) -> None:
        self.served, self.meter = served, meter

    async def health(self, _: Request) -> Response:
        """Say whether requests are answered."""
        engine = self.served.engine
        failure = engine.failure
        state = {"status": "ok" if failure is None else "failed", "open": engine.num_open}
        state |= {"waiting": engine.num_waiting, "sampled_tokens": engine.stats.num_sampled}
        if failure is not None:
            state["reason"] = shown(failure)
        return JSONResponse(state, 200 if failure is None else 503)

    async def models(self, _: Request) -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        """Describe the model."""
        name = request.path_params["name"]
        if name != self.served.model:
            raise unknown_model(name, self.served.model)
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {
            "id": self.served.model,
            "object": "model",
            "created": self.served.created,
            "owned_by": "longcat",
            "max_model_len": self.served.engine.max_length,
        }

    async def metrics(self, _: Request) -> Response:
        """Write counters in Prometheus' text format."""
        text = "\n".join(self._metrics()) + "\n"
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    def _metrics(self) -> Iterator[str]:
        engine, stats = self.served.engine, self.served.engine.stats
        yield from _family("longcat_up", "gauge", int(engine.failure is None))
        yield from _family("longcat_conversations_open", "gauge", engine.num_open)
        yield from _family("longcat_conversations_waiting", "gauge", engine.num_waiting)
        yield from _family("longcat_cache_usage_ratio", "gauge", engine.cache_usage)
        yield from _family("longcat_steps_total", "counter", stats.num_steps)
        yield from _family("longcat_requests_total", "counter", stats.num_requests)
        yield from _family("longcat_requests_failed_total", "counter", stats.num_failed)
        yield from _family("longcat_sampled_tokens_total", "counter", stats.num_sampled)
        yield from _family("longcat_prefilled_tokens_total", "counter", stats.num_prefilled)
        yield from _family("longcat_reused_tokens_total", "counter", stats.num_reused)
        yield from _family("longcat_drafted_tokens_total", "counter", stats.num_drafted)
        yield from _family("longcat_accepted_tokens_total", "counter", stats.num_accepted)
        yield from _family("process_start_time_seconds", "gauge", self.meter.began)
        yield "# TYPE longcat_http_answers_total counter"
        for (route, status), num in sorted(self.meter.answers.items()):
            yield f'longcat_http_answers_total{{route="{route}",status="{status}"}} {num}'
        yield "# TYPE longcat_http_seconds_total counter"
        for route, seconds in sorted(self.meter.seconds.items()):
            yield f'longcat_http_seconds_total{{route="{route}"}} {seconds:.6f}'

    async def tokenize(self, request: Request) -> Response:
        """Return the tokens of a text or of a chat, as vLLM's route does."""
        served = self.served
        body = await read_json(request, served.max_body_bytes)
        served.check_model(body)
        check_known(body, {"prompt", "messages", "tools", "return_token_strs"}, {})
        if body.get("messages") is not None:
            messages, tools = read_messages(body["messages"]), read_tools(body.get("tools"))
            ids = await served.encode_chat(messages, tools)
        elif isinstance(body.get("prompt"), str):
            ids = await served.encode(body["prompt"], "prompt")
        else:
            raise ApiError(f"prompt must be text, got {shown(body.get('prompt'))}", "prompt")
        answer = {"count": len(ids), "max_model_len": served.engine.max_length, "tokens": ids}
        strings = None
        if boolean(body, "return_token_strs"):
            strings = await off_loop(ENTRY_CHARS * len(ids), served.decode_each, ids)
        return JSONResponse({**answer, "token_strs": strings})

    async def detokenize(self, request: Request) -> Response:
        """Return the text of tokens."""
        served = self.served
        body = await read_json(request, served.max_body_bytes)
        served.check_model(body)
        check_known(body, {"tokens"}, {})
        ids, words = body.get("tokens"), served.engine.config.vocab_size
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < words for i in ids):
            raise ApiError(f"tokens must be token ids in [0, {words}), got {shown(ids)}", "tokens")
        return JSONResponse({"prompt": await off_loop(ENTRY_CHARS * len(ids), served.decode, ids)})

    async def weights(self, request: Request) -> Response:
        """Take new weights, which all requests that come after are answered by."""
        served = self.served
        engine, told = served.engine, request.path_params["version"]
        if not (told.isascii() and told.isdecimal() and len(told) <= _VERSION_DIGITS):
            raise ApiError(
                f"the version must be a whole number of at most {_VERSION_DIGITS} digits, got "
                f"{shown(told)}",
                "version",
            )
        label = int(told)
        # In float64, at most.
        data = await read_bytes(request, 8 * count_parameters(engine.config) + _HEADER_BYTES)
        served.newest += 1  # the engine's own number: a client may begin to count anew
        version = served.newest
        try:
            await asyncio.to_thread(engine.load_weights, version, data)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ApiError(f"the weights do not fit: {error}", "weights") from error
        served.label, served.version, before = label, version, served.version
        engine.retire(before)
        return JSONResponse({"version": label})


def _family(name: str, kind: str, value: float) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    yield f"{name} {value}"

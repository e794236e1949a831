"""What the server's routes have in common: reading a request, and saying what is wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from .engine import EngineFullError


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


async def read_body(request: Request) -> Mapping[str, Any]:
    """Return a request's JSON object."""
    try:
        body = await request.json()
    except ValueError as error:
        raise AskedWrong(f"the body must be JSON: {error}") from error
    if not isinstance(body, dict):
        raise AskedWrong(f"the body must be a JSON object, got {type(body).__name__}")
    return body


async def unless_left(request: Request, answer: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
    """Wait for an answer; give it up when the client hangs up."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.ensure_future(left())
    try:
        await asyncio.wait({answer, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientLeftError
        return answer.result()
    except* EngineFullError as group:
        raise EngineFullError(str(group.exceptions[0])) from None
    except* ValueError as group:
        raise AskedWrong(str(group.exceptions[0])) from None
    finally:
        for task in (answer, watch):
            task.cancel()
        await asyncio.gather(answer, watch, return_exceptions=True)


class AskedWrong(Exception):
    """A request that cannot be answered; the message goes to the client."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def number(
    body: Mapping[str, Any],
    keys: tuple[str, ...],
    default: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    whole: bool = False,
) -> Any:
    """Return the first of some fields that is there, checked; the default where none is."""
    for key in keys:
        value = body.get(key)
        if value is None:
            continue
        kinds = int if whole else (int, float)
        is_right = isinstance(value, kinds) and not isinstance(value, bool)
        if is_right and (least is None or value >= least) and (most is None or value <= most):
            return value
        span = f" in [{least}, {'inf' if most is None else most}]" if least is not None else ""
        raise AskedWrong(f"{key} must be a {'whole ' * whole}number{span}, got {value!r}", key)
    return default


def sampling_options(
    body: Mapping[str, Any], *, keys: tuple[str, ...], max_tokens: int, timeout_s: float | None
) -> dict[str, Any]:
    """Return what a request says of sampling, as `Engine.generate` takes it; `keys` name its length."""
    stop = body.get("stop") or []
    return {
        "max_tokens": number(body, keys, max_tokens, least=1, whole=True),
        "temperature": number(body, ("temperature",), 1.0, least=0),
        "top_p": number(body, ("top_p",), 1.0, least=1e-9, most=1),
        "top_k": max(0, number(body, ("top_k",), 0, least=-1, whole=True)),
        "stop": [stop] if isinstance(stop, str) else list(stop),
        "timeout_s": timeout_s,
    }


def usage(prompt: list[int], num: int) -> dict[str, int]:
    """Return tokens given and sampled, as OpenAI counts them."""
    return {
        "prompt_tokens": len(prompt), "completion_tokens": num, "total_tokens": len(prompt) + num,
    }  # fmt: skip


def error_answer(message: str, status: int, param: str | None) -> JSONResponse:
    """Return an error as OpenAI's clients read it."""
    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    body = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": body}, status_code=status)

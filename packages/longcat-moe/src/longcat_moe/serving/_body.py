"""Read a request's body: its size first, then its JSON; it blocks nobody who is served."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ._errors import ApiError

IDLE_S = 30.0
"""Time without a byte of a body after which a client is sent away."""
_WORTH_A_THREAD = 1 << 15
ENTRY_CHARS = 32
"""Of an answer, for each token that is told, about."""


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


async def read_bytes(request: Request, limit: int) -> bytes:
    """Return the body.

    Raises:
        ApiError: It is longer than `limit` (said before anything is read where the client tells its
            length), or no byte came for long.
    """
    told = request.headers.get("content-length", "0")
    if not told.isdecimal():
        raise ApiError("content-length must be a number")
    if len(told) > 18 or int(told) > limit:
        raise _too_large(limit)
    data = bytearray()
    chunks = request.stream().__aiter__()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(chunks), IDLE_S)
        except StopAsyncIteration:
            return bytes(data)
        except TimeoutError:
            raise ApiError(
                f"the body must go on within {IDLE_S:g} s", status=408, headers=_CLOSE
            ) from None
        except ClientDisconnect:
            raise ClientLeftError from None
        data += chunk
        if len(data) > limit:
            raise _too_large(limit)


_CLOSE = {"Connection": "close"}


def _too_large(limit: int) -> ApiError:
    return ApiError(
        f"the body must have at most {limit} bytes",
        status=413,
        code="request_too_large",
        headers=_CLOSE,
    )


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """Return the body's JSON object.

    Raises:
        ApiError: It is too long, no JSON object, or holds text that is no Unicode.
    """
    data = await read_bytes(request, limit)
    return await off_loop(len(data), parse, data)


async def off_loop(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, in a thread where what it reads or writes has many characters."""
    if size < _WORTH_A_THREAD:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)


def parse(data: bytes) -> dict[str, Any]:
    """Return a JSON object from bytes; see `read_json`."""
    try:
        text = data.decode(json.detect_encoding(data))  # strictly, as `json.loads` does not
        body = json.loads(text.removeprefix("\ufeff"), **STRICT)
        if "\\ud" in text.lower():  # half a character, which no UTF-8 can say
            json.dumps(body, ensure_ascii=False).encode()
    except RecursionError:
        raise ApiError("the body must not be nested so deeply", code="invalid_json") from None
    except UnicodeError as error:
        raise ApiError(f"text must be Unicode: {error}", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(f"the body must be JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(f"the body must be a JSON object, got {type(body).__name__}")
    return body


def _refuse(constant: str) -> Any:
    raise ValueError(f"JSON has no {constant}")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"numbers must be below 1.8e308, got {digits[:40]}")
    return number


STRICT: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _finite}
"""For `json.loads`: what is read can be written as JSON again."""


async def unless_left(request: Request, answer: asyncio.Future[Any]) -> Any:
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
    finally:
        for task in (answer, watch):
            task.cancel()
        await asyncio.gather(answer, watch, return_exceptions=True)

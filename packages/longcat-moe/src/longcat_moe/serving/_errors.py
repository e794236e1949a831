"""Errors as OpenAI's clients read them: a status, a code, the field, and one sentence."""

from __future__ import annotations

import json
import logging
from typing import Any

from starlette.responses import Response

from longcat_moe.engine import EngineDeadError, EngineFullError, RequestFailedError

logger = logging.getLogger("longcat_moe.server")

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is not answered; the message goes to the client."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.code, self.headers = param, status, code, headers

    def body(self) -> dict[str, Any]:
        """Return what clients read."""
        kind = _KINDS.get(self.status)
        if kind is None:
            kind = "server_error" if self.status >= 500 else "invalid_request_error"
        what = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": what}

    def response(self) -> Response:
        """Return the answer; text that is no Unicode is escaped."""
        content = json.dumps(self.body()).encode()
        return Response(content, self.status, self.headers, media_type="application/json")


class FormError(ValueError):
    """An answer of the form that was asked for cannot be given."""


def unknown_model(name: Any, served: str) -> ApiError:
    """Return what is said where another model is asked for."""
    message = f"the model must be {served!r}, {shown(name)} does not exist here"
    return ApiError(message, "model", status=404, code="model_not_found")


def too_long(num: int, limit: int, param: str, *, at_least: bool = False) -> ApiError:
    """Return what is said where a prompt has no room; clients know its code and first words."""
    return ApiError(
        f"This model's maximum context length is {limit} tokens, and a prompt must leave room for "
        f"an answer: yours has {'at least ' * at_least}{num} tokens. Please reduce its length.",
        param,
        code="context_length_exceeded",
    )


def as_api_error(error: Exception) -> ApiError:
    """Return what a client is told of an exception; what nobody foresaw is logged."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineFullError):
        return ApiError(
            str(error), status=429, code="rate_limit_exceeded", headers={"Retry-After": "1"}
        )
    if isinstance(error, EngineDeadError):
        return ApiError(str(error), status=503, code="engine_failed")
    if isinstance(error.__cause__, FormError):
        return ApiError(str(error.__cause__), code="unsupported_value")
    if isinstance(error, RequestFailedError):
        return ApiError(str(error), status=500, code="request_failed")
    if isinstance(error, RecursionError):
        return ApiError("the request must not be nested so deeply", code="invalid_json")
    if isinstance(error, ValueError):
        return ApiError(str(error))
    logger.error("a request failed", exc_info=error)
    return ApiError("the server failed at this request", status=500, code="internal_error")


def shown(value: Any) -> str:
    """Return a value for a message, cut short."""
    try:
        text = repr(value)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= 80 else f"{text[:77]}..."

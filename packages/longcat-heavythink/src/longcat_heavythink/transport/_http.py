"""The client library's words in ours: bodies, exceptions, redirects, proxies, lists of models."""

from __future__ import annotations

import json
import os
import ssl
import time
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from longcat_heavythink._replies import Failure, FailureKind

from ._watch import Watched

MAX_BODY_BYTES = 64 * 2**20


def proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for an address (`HTTPS_PROXY`, `NO_PROXY`)."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)


async def read_body(
    response: aiohttp.ClientResponse, url: str, log: Watched | None = None
) -> bytes:
    """Return the body; each piece that comes tells the watch that the server is alive."""
    if response.content.is_eof():
        return await response.read()
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        if log is not None:
            log.heard_s = time.monotonic()
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise ValueError(f"{url} sent more than {MAX_BODY_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def redirected(failure: Failure, response: aiohttp.ClientResponse) -> Failure:
    """Return the failure, with the address that a redirection names."""
    if not 300 <= response.status < 400:
        return failure
    where = response.headers.get("Location", "elsewhere")
    return replace(failure, message=f"{failure.message} (it redirects to {where})")


def failure_of(error: BaseException, url: str, timeout_s: float) -> Failure:
    """Return the failure that an exception of the client means."""
    words = _words(error)
    message = f"{url} must answer, but: {words}"
    if isinstance(error, aiohttp.ClientConnectorError):
        permanent = isinstance(error, aiohttp.ClientConnectorCertificateError)
        return Failure(FailureKind.UNREACHABLE, message, permanent=permanent)
    if isinstance(error, TimeoutError):
        message = f"{url} must answer, but: nothing came for {timeout_s:g} s"
        return Failure(FailureKind.TIMEOUT, message)
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return Failure(FailureKind.MALFORMED, message)
    return Failure(FailureKind.CUT, message)


def _words(error: BaseException) -> str:
    """Say why; of a server that is not there, what the system says instead of the client."""
    words = str(error) or type(error).__name__
    is_certificate = isinstance(error, aiohttp.ClientConnectorCertificateError)
    if not isinstance(error, aiohttp.ClientConnectorError) or is_certificate:
        return words
    why = error.os_error
    number = why.errno or 0
    if number > 0 and not isinstance(why, ssl.SSLError):  # its numbers are of another table
        return os.strerror(number).lower()
    return why.strerror or str(why) or words


def model_names(raw: bytes, url: str) -> tuple[Failure | None, list[str]]:
    """Return the names that a body of `/models` lists, or why it lists none."""
    names = read_model_names(raw)
    if names is None:
        shown = " ".join(raw[:200].decode("utf-8", "replace").split())
        return Failure(FailureKind.MALFORMED, f"{url} must list models, got: {shown}", 200), []
    return None, names


def read_model_names(raw: bytes) -> list[str] | None:
    """Return the names in the body of `/models`, `None` where it is no such list."""
    try:
        data: Any = json.loads(raw)
        return [str(item["id"]) for item in data["data"]]
    except (ValueError, KeyError, TypeError):
        return None

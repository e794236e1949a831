"""An OpenAI-compatible server over the engine.

    pip install 'longcat-moe[serve]'
    app = create_app(engine, ChatFormat(tokenizer), model="mine")     # any ASGI server runs it
    serve(app, host="127.0.0.1", port=8000)                           # uvicorn does

- Chat completions with tools (free, forced, named), JSON by schema, streams, several choices,
  log-probs; completions from texts or token ids, `echo`, log-probs of prompts; models, tokens,
  health, Prometheus.
- What is asked for and not done is refused by name, never ignored.
- Each choice is one conversation of the engine, closed when it is answered or when the client
  leaves.
- What came before is shared block by block, so that the next turn of a chat computes what is new
  alone.
- A body is read up to `max_body_bytes`, its size is looked at first; no text is tokenised that is
  too long for sure, and none on the event loop if it is long.
- With a given form (JSON, a forced call) the model answers without thinking first, unless
  `chat_template_kwargs={"enable_thinking": true}` asks for it.

Not there: images and sound, beam search, `suffix`, files and batches. TLS is a proxy's.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Awaitable, Callable

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
except ImportError as error:  # pragma: no cover
    raise ImportError("longcat_moe.server needs: pip install 'longcat-moe[serve]'") from error

from ._chat import ChatFormat
from .engine import Engine
from .serving._body import ClientLeftError
from .serving._chat_api import ChatCompletions
from .serving._completions_api import Completions
from .serving._errors import ApiError, as_api_error
from .serving._grammar import Grammars
from .serving._keys import Door, Keys, check_local, is_loopback
from .serving._served import EventStream, Served
from .serving._small_api import Meter, Small

logger = logging.getLogger("longcat_moe.server")
Endpoint = Callable[[Request], Awaitable[Response]]

_LEAST_BODY_BYTES, _BODY_BYTES_A_TOKEN = 1 << 20, 16


def _local(endpoint: Endpoint) -> Endpoint:
    """Let those alone who ask from this machine."""

    async def only_local(request: Request) -> Response:
        check_local(request)
        return await endpoint(request)

    return only_local


def create_app(
    engine: Engine,
    chat: ChatFormat,
    *,
    model: str,
    version: int = 0,
    max_tokens: int = 1024,
    timeout_s: float | None = None,
    takes_weights: bool = False,
    api_keys: Keys = (),
    max_body_bytes: int | None = None,
) -> Starlette:
    """Return an ASGI application.

    Args:
        engine: `threaded`, so that answers flow while it computes, and with `decode`, for stop
            strings.
        chat: Renders and parses.
        model: The name clients see and may ask for.
        version: Of the engine's weights.
        max_tokens: Of an answer, where the client says nothing.
        timeout_s: After which an answer is cut, finish reason `length`.
        takes_weights: Whether clients may replace the weights: `PUT /v1/weights/{version}` with
            safetensors, which all requests that come after it are answered by. With an API key, or
            from this machine.
        api_keys: Who may ask; anybody where there are none. A mapping says how many requests each
            key may have under way.
        max_body_bytes: Of a request; 1 MB and 16 bytes for each token of `max_length` when absent.
    """
    if max_body_bytes is None:
        max_body_bytes = _LEAST_BODY_BYTES + _BODY_BYTES_A_TOKEN * engine.max_length
    served = Served(engine, chat, model, version, max_tokens, timeout_s, max_body_bytes)
    meter, door = Meter(), Door(api_keys)
    small = Small(served, meter)

    def route(path: str, endpoint: Endpoint, method: str, *, is_open: bool = False) -> Route:
        guarded = _guard(endpoint, path, meter, Door(()) if is_open else door)
        return Route(path, guarded, methods=[method])

    routes = [
        route("/health", small.health, "GET", is_open=True),
        route("/metrics", small.metrics, "GET", is_open=True),
        route("/v1/models", small.models, "GET"),
        route("/v1/models/{name:path}", small.model, "GET"),
        route("/v1/chat/completions", ChatCompletions(served, Grammars(served)), "POST"),
        route("/v1/completions", Completions(served), "POST"),
        route("/tokenize", small.tokenize, "POST"),
        route("/detokenize", small.detokenize, "POST"),
    ]
    if takes_weights:
        weights = _local(small.weights) if door.is_open else small.weights
        routes.append(route("/v1/weights/{version}", weights, "PUT"))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
    app.state.has_keys = not door.is_open
    return app


def serve(app: Starlette, *, host: str, port: int) -> None:
    """Run until interrupted; open answers are given a moment to end.

    Whoever can reach `host` may ask where the application has no API keys: beyond this machine that
    is warned of.
    """
    import uvicorn  # noqa: PLC0415 - only who serves needs it

    if not is_loopback(host) and not getattr(app.state, "has_keys", True):
        warnings.warn(
            f"{host} is reached from other machines, and no API key is asked for: anybody may ask",
            stacklevel=2,
        )
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)


def _guard(endpoint: Endpoint, path: str, meter: Meter, door: Door) -> Endpoint:
    """Turn whatever is raised into an answer, so that the connection lives; count and log it.

    Requests are logged without what they hold.
    """

    async def guarded(request: Request) -> Response:
        began = time.perf_counter()
        response = Response(status_code=499)
        leave = None
        try:
            leave = door.enter(request)
            response = await endpoint(request)
        except ClientLeftError:
            pass
        except Exception as error:
            response = as_api_error(error).response()
        finally:
            if isinstance(response, EventStream):
                response.on_end = leave
            elif leave is not None:
                leave()
        seconds = time.perf_counter() - began
        meter.count(path, response.status_code, seconds)
        logger.info("%s %s %d %.3f s", request.method, path, response.status_code, seconds)
        return response

    return guarded


async def _no_route(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = "this route is not there" if status == 404 else "this method is not there"
    return ApiError(detail, status=status, code="not_found").response()

"""For tests: a server that answers as an OpenAI-compatible one does, and models of a few lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any

from .attacks import Say, golden_acts
from .tasks import WorldTask

Answer = Callable[[dict[str, Any]], tuple[int, Any]]
"""From the body of a request to a status, and a message, another JSON value, or raw bytes."""


class FakeServer:
    """A server on a free port of this machine, in threads; `url` is its base URL.

    Example:
        >>> with FakeServer(lambda body: (200, {"content": "Hello."})) as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, answer: Answer) -> None:
        self.bodies: list[dict[str, Any]] = []
        """Bodies of the requests, in order."""
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.headers.append(dict(self.headers))
                status, found = answer(body)
                data = found if isinstance(found, bytes) else json.dumps(found).encode()
                if status == 200 and isinstance(found, dict):
                    data = b'{"choices": [{"message": ' + data + b"}]}"
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # the client has gone
                    return

            def log_message(self, format: str, *args: Any) -> None:
                """Write nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def golden_model(tasks: Iterable[WorldTask]) -> Answer:
    """Return a model that does the golden chain of the task whose opening it is shown."""
    acts = {task.opening: golden_acts(task) for task in tasks}

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        messages = body["messages"]
        opening = next(m["content"] for m in messages if m["role"] == "user")
        act = acts[opening][sum(m["role"] == "assistant" for m in messages)]
        if isinstance(act, Say):
            return 200, {"role": "assistant", "content": act.text}
        function = {"name": act.tool, "arguments": json.dumps(act.arguments)}
        calls = [{"id": "c", "type": "function", "function": function}]
        return 200, {"role": "assistant", "content": None, "tool_calls": calls}

    return answer

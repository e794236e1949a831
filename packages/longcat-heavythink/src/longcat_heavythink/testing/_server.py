"""An HTTP server that misbehaves as it is told, and counts what clients do to it.

It runs in a thread with a loop of its own, so that tests may block, hang or be interrupted. Its own
counts are the judge: a call is in flight from its last byte read to its answer's last byte sent, or
to the moment in which the client hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

from ._answers import Answer, Script, count_of_thinkers, respond, script_of


@dataclass(slots=True)
class Stats:
    """Counts of a server since it started."""

    num_requests: int = 0
    """Chat completions asked for."""
    num_answered: int = 0
    num_left: int = 0
    """Given up by the client before the answer was whole."""
    in_flight: int = 0
    max_in_flight: int = 0
    connections: int = 0
    max_connections: int = 0
    total_connections: int = 0
    modes: list[str] = field(default_factory=list[str])
    """Of each request, in order."""


class FaultServer:
    """Answers chat completions, well or badly.

    Args:
        modes: Of the first requests, in order; or a function of a request's number and body.
        default: The mode of all others.
        answer: What good answers say.
        admits: More than that many in flight are refused with 429 at once.
        models: What `/v1/models` lists.
    """

    def __init__(
        self,
        modes: Sequence[str] | Callable[[int, dict[str, Any]], str] = (),
        *,
        default: str = "ok",
        answer: Answer = count_of_thinkers,
        admits: int | None = None,
        models: Sequence[str] = ("fault",),
        port: int = 0,
    ) -> None:
        self._modes, self._default, self._answer = modes, default, answer
        self._admits, self._models, self._port = admits, list(models), port
        self._stats = Stats()
        self.requests: list[dict[str, Any]] = []
        """Bodies of all requests."""
        self.headers: list[dict[str, str]] = []
        """Headers of all requests, names in lower case."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def stats(self) -> Stats:
        """Return the counts so far."""
        return Stats(**asdict(self._stats))

    def wait_for(self, test: Callable[[Stats], bool], timeout_s: float = 20.0) -> Stats:
        """Wait until the counts pass a test.

        Raises:
            TimeoutError: They never did; the message shows them.
        """
        tick = threading.Event()
        for _ in range(int(timeout_s / 0.01)):
            if test(self.stats()):
                return self.stats()
            tick.wait(0.01)
        raise TimeoutError(f"the server's counts are {self.stats()}")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
            ):
                await self._connection(reader, writer)
            tasks.discard(task)

        server = await asyncio.start_server(accept, "127.0.0.1", self._port, backlog=2048)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stats = self._stats
        stats.connections += 1
        stats.total_connections += 1
        stats.max_connections = max(stats.max_connections, stats.connections)
        try:
            while await self._request(reader, writer):
                pass
        finally:
            stats.connections -= 1
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        if not path.endswith("/chat/completions"):
            writer.write(respond(200, json.dumps(self._page(path)).encode()))
            await writer.drain()
            return True
        try:
            body = json.loads(raw)
        except ValueError as error:  # the client's fault, which no script foresees
            writer.write(respond(400, json.dumps({"error": {"message": str(error)}}).encode()))
            await writer.drain()
            return True
        self.requests.append(body)
        self.headers.append(headers)
        script = self._script(body)
        return await self._answer_with(script, reader, writer)

    def _page(self, path: str) -> Any:
        if path.endswith("/models"):
            return {"object": "list", "data": [{"id": name} for name in self._models]}
        return asdict(self._stats)

    def _script(self, body: dict[str, Any]) -> Script:
        number = self._stats.num_requests
        self._stats.num_requests += 1
        if self._admits is not None and self._stats.in_flight >= self._admits:
            mode = "429"
        elif callable(self._modes):
            mode = self._modes(number, body)
        else:
            mode = self._modes[number] if number < len(self._modes) else self._default
        self._stats.modes.append(mode)
        answer = self._answer(body)
        message = answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
        return script_of(mode, message, body)

    async def _answer_with(
        self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        stats = self._stats
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
        gone = asyncio.ensure_future(reader.read(1))
        try:
            for piece in script.pieces:
                if script.pause_s and await _ended(gone, script.pause_s):
                    stats.num_left += 1
                    return False
                writer.write(piece)
                await writer.drain()
            if script.hangs:
                await gone
                stats.num_left += 1
                return False
            stats.num_answered += 1
            if script.resets:
                writer.transport.abort()
            return not (script.closes or script.resets)
        except ConnectionError:
            stats.num_left += 1
            return False
        finally:
            stats.in_flight -= 1
            if not gone.done():
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone


async def _ended(gone: asyncio.Future[bytes], seconds: float) -> bool:
    done, _ = await asyncio.wait([gone], timeout=seconds)
    return bool(done)

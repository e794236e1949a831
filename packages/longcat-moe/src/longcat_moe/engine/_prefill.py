"""Prefill in a process of its own, so that a long prompt never holds up those who decode.

    decode engine ── prompt ──> prefill process
                  <── latents of a chunk ──      while the next chunk is being computed
                  <── latents of a chunk ──
                  decodes from the last token on

- The prefill process is an engine too: prompts are batched, and prefixes shared, there.
- What arrives is put into the decode engine's blocks chunk by chunk; nothing is computed twice.
- When the process dies, prompts that are under way are computed by the decode engine, from where
  the last chunk that arrived ends.

Source: LongCat-Flash-Thinking-2601 report, section 3.2 (prefill and decode on separate groups,
chunks transferred while later ones are computed).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from longcat_moe._config import LongcatConfig
from longcat_moe._model import LongcatForCausalLM

from ._request import Conversation


class PrefillProcess:
    """A process that computes prompts for an `Engine(prefill=...)`.

    Args:
        config: The engine's.
        max_length: The engine's.
        num_slots: Prompts computed at once.
        chunk_tokens: Prompt tokens computed, and sent, together.
        num_threads: That it computes with; torch's own choice when absent.
        speculate: As the engine, so that the prediction head's latents come along.
        min_tokens: Shorter prompts are not worth the way.
    """

    def __init__(
        self,
        config: LongcatConfig,
        *,
        max_length: int,
        num_slots: int = 4,
        chunk_tokens: int = 256,
        num_threads: int | None = None,
        speculate: bool = False,
        min_tokens: int = 64,
    ) -> None:
        self.min_tokens, self.chunk_tokens, self.is_alive = min_tokens, chunk_tokens, True
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        options = {
            "num_slots": num_slots, "max_length": max_length, "chunk_tokens": chunk_tokens,
            "speculate": speculate,
        }  # fmt: skip
        self.process = context.Process(
            target=_main, args=(theirs, config, options, num_threads), daemon=True
        )
        self.process.start()
        theirs.close()

    def add_model(self, version: int, model: LongcatForCausalLM) -> None:
        """Give it a version's weights."""
        weights = {key: value.contiguous() for key, value in model.state_dict().items()}
        self._send("weights", version, save_safetensors(weights))

    def retire(self, version: int) -> None:
        """Let it free a version when the last prompt of it is computed."""
        self._send("retire", version)

    def submit(self, identifier: int, version: int, tokens: list[int], start: int) -> None:
        """Ask for the latents of tokens from `start` on, all but the last one's."""
        self._send("prefill", identifier, version, tokens, start)

    def abort(self, identifier: int) -> None:
        """Give a prompt up."""
        self._send("abort", identifier)

    def receive(self) -> list[tuple[int, int, Tensor | None]]:
        """Return what came: identifier, first position, latents (attentions, tokens, width).

        No latents where a prompt could not be computed there.
        """
        found: list[tuple[int, int, Tensor | None]] = []
        try:
            while self.connection.poll():
                identifier, start, shape = self.connection.recv()
                if shape is None:
                    found.append((identifier, start, None))
                    continue
                data = np.frombuffer(self.connection.recv_bytes(), dtype=np.float32)
                found.append((identifier, start, torch.tensor(data).view(shape)))
        except (EOFError, OSError):
            self.is_alive = False
        return found

    def close(self) -> None:
        """End the process."""
        self._send("stop")
        self.process.join(5)
        self.connection.close()

    def _send(self, *message: Any) -> None:
        try:
            self.connection.send(message)
        except (BrokenPipeError, OSError):
            self.is_alive = False


def _main(
    connection: Connection, config: LongcatConfig, options: dict[str, Any], num_threads: int | None
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the engine's process decides
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    asyncio.run(_Worker(connection, config, options).run())


class _Worker:
    """Takes: weights and prompts, over a pipe. Gives: latents. Stops: when told, or at its end."""

    def __init__(
        self, connection: Connection, config: LongcatConfig, options: dict[str, Any]
    ) -> None:
        from ._engine import Engine  # noqa: PLC0415 - it imports this module

        self.connection = connection
        self.engine = Engine(config, **options)
        self.engine.on_cached = self._export
        self.stopped = asyncio.Event()
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.sent: dict[int, list[int]] = {}
        """By conversation: the request it is for, and up to where latents were sent."""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self.connection.fileno(), self._read)
        await self.stopped.wait()
        loop.remove_reader(self.connection.fileno())

    def _read(self) -> None:
        try:
            while self.connection.poll():
                self._obey(*self.connection.recv())
        except (EOFError, OSError):
            self.stopped.set()

    def _obey(self, order: str, *arguments: Any) -> None:
        if order == "prefill":
            task = asyncio.get_running_loop().create_task(self._prefill(*arguments))
            self.tasks[arguments[0]] = task
            task.add_done_callback(lambda _: self.tasks.pop(arguments[0], None))
        elif order == "abort":
            if arguments[0] in self.tasks:
                self.tasks[arguments[0]].cancel()
        elif order == "weights":
            self.engine.load_weights(*arguments)
        elif order == "retire":
            self.engine.retire(*arguments)
        else:
            self.stopped.set()

    async def _prefill(self, request: int, version: int, tokens: list[int], start: int) -> None:
        try:
            conversation = await self.engine.open(version)
            self.sent[conversation] = [request, start]
            try:
                # The last token is the decode engine's: its step is where sampling begins.
                await self.engine.generate(conversation, tokens[:-1], max_tokens=1, stop_ids=())
            finally:
                del self.sent[conversation]
                await self.engine.close(conversation)
        except Exception:  # the decode engine computes it, and meets the reason itself
            self._say((request, start, None))

    def _export(self, conversation: int, c: Conversation) -> None:
        """Send what was computed since the last time."""
        if conversation not in self.sent:
            return
        request, begin = self.sent[conversation]
        if c.num_cached <= begin:
            return
        latents = self.engine.latents_of(c, begin, c.num_cached)
        self.sent[conversation][1] = c.num_cached
        data = latents.float().contiguous().numpy().tobytes()
        self._say((request, begin, tuple(latents.shape)), data)

    def _say(self, message: tuple[int, int, tuple[int, ...] | None], data: bytes = b"") -> None:
        try:
            self.connection.send(message)
            if data:
                self.connection.send_bytes(data)
        except (BrokenPipeError, OSError):
            self.stopped.set()

"""Plain completions, from text or token ids; what trainers and evaluations ask for.

With `return_token_ids` an answer tells the ids of the prompt and of what was sampled, as vLLM's does, so that
nothing is lost in turning them into text and back. `system_fingerprint` names the weights that answered.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ._chat import ChatFormat
from ._http import (
    AskedWrong,
    ClientLeftError,
    error_answer,
    number,
    read_body,
    sampling_options,
    unless_left,
    usage,
)
from .engine import Engine, EngineFullError, Generation


class Served(Protocol):
    """What is served, and under which weights now."""

    engine: Engine
    chat: ChatFormat
    model: str
    version: int
    """Of the engine."""
    label: int
    """What clients call it."""
    timeout_s: float | None


class Completions:
    """`POST /v1/completions`."""

    def __init__(self, served: Served) -> None:
        self.served, self.ids = served, itertools.count()

    async def completions(self, request: Request) -> Response:
        """Answer one request."""
        try:
            body = await read_body(request)
            prompt = self._prompt(body)
            answer = asyncio.ensure_future(self._answer(body, prompt))
            return JSONResponse(await unless_left(request, answer))
        except AskedWrong as error:
            return error_answer(str(error), 400, error.param)
        except EngineFullError as error:
            return error_answer(str(error), 429, None)
        except ClientLeftError:
            return Response(status_code=499)

    def _prompt(self, body: Mapping[str, Any]) -> list[int]:
        served = self.served
        if body.get("model") not in (None, served.model):
            raise AskedWrong(f"model must be {served.model!r}, got {body['model']!r}", "model")
        for key, allowed in (
            ("stream", (None, False)),
            ("echo", (None, False)),
            ("suffix", (None,)),
        ):
            if body.get(key) not in allowed:
                raise AskedWrong(f"{key} is not there, got {body[key]!r}", key)
        prompt = body.get("prompt")
        if isinstance(prompt, str):
            prompt = served.chat.tokenizer.encode(prompt, add_special_tokens=False).ids
        words = served.engine.config.vocab_size
        if not isinstance(prompt, list) or not all(
            type(i) is int and 0 <= i < words for i in prompt
        ):
            raise AskedWrong(f"prompt must be text, or token ids in [0, {words})", "prompt")
        if not 0 < len(prompt) <= served.engine.max_length - 2:
            raise AskedWrong(
                f"prompt must have 1 to {served.engine.max_length - 2} tokens, it has {len(prompt)}",
                "prompt",
            )
        return prompt

    async def _answer(self, body: Mapping[str, Any], prompt: list[int]) -> dict[str, Any]:
        options = sampling_options(
            body, keys=("max_tokens",), max_tokens=16, timeout_s=self.served.timeout_s
        )
        seed = number(body, ("seed",), None, whole=True)
        num = number(body, ("n",), 1, least=1, most=128, whole=True)
        # Of all choices, whatever weights come meanwhile.
        version, label = self.served.version, self.served.label

        async def one(index: int) -> Generation:
            engine = self.served.engine
            conversation = await engine.open(version, seed=None if seed is None else seed + index)
            try:
                return await engine.generate(conversation, prompt, **options)
            finally:
                await engine.close(conversation)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(index)) for index in range(num)]
        results = [task.result() for task in tasks]
        choices = [
            self._choice(body, prompt, index, result) for index, result in enumerate(results)
        ]
        return {
            "id": f"cmpl-{next(self.ids)}", "object": "text_completion", "created": int(time.time()),
            "model": self.served.model, "system_fingerprint": f"weights-{label}", "choices": choices,
            "usage": usage(prompt, sum(len(result.token_ids) for result in results)),
        }  # fmt: skip

    def _choice(
        self, body: Mapping[str, Any], prompt: list[int], index: int, result: Generation
    ) -> dict[str, Any]:
        decode = self.served.chat.tokenizer.decode
        keep = not body.get("skip_special_tokens", True)
        choice: dict[str, Any] = {
            "index": index,
            "text": decode(result.token_ids, skip_special_tokens=not keep),
            "finish_reason": "stop" if result.finish_reason == "stop" else "length",
            "logprobs": None,
        }
        if body.get("logprobs") is not None:
            choice["logprobs"] = {
                "tokens": [decode([i], skip_special_tokens=False) for i in result.token_ids],
                "token_logprobs": result.log_probs, "top_logprobs": None, "text_offset": None,
            }  # fmt: skip
        if body.get("return_token_ids"):
            choice |= {"token_ids": result.token_ids, "prompt_token_ids": prompt}
        return choice

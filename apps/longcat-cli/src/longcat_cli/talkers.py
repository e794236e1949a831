"""Whatever can answer a conversation: a server, a Hugging Face model, or one of ours."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import httpx

from .errors import UsageError
from .folder import read_json
from .models import SOURCES, get_model, is_here, models_root

Message = dict[str, Any]


class Talker(Protocol):
    """Streams an answer."""

    def stream(
        self, messages: list[Message], *, max_tokens: int, temperature: float, tools: list[Any]
    ) -> AsyncIterator[str]:
        """Yield the text of an answer as it comes."""
        ...


async def complete(
    talker: Talker, messages: list[Message], *, max_tokens: int, temperature: float,
    tools: list[Any],
) -> str:  # fmt: skip
    """Return a whole answer."""
    parts = talker.stream(messages, max_tokens=max_tokens, temperature=temperature, tools=tools)
    return "".join([part async for part in parts])


def make_talker(model: str, *, api_key_env: str, server_model: str) -> Talker:
    """Choose by what `model` is: a URL, a folder, or the name of a model that can be fetched.

    Raises:
        UsageError: It is none of these, or the folder holds no model.
    """
    if model.startswith(("http://", "https://")):
        return ServerTalker(model, os.environ.get(api_key_env, ""), server_model)
    if model in SOURCES:
        return TransformersTalker(models_root() / model if is_here(model) else get_model(model))
    folder = Path(model)
    config = folder / "config.json"
    if not config.is_file():
        raise UsageError(
            f"--model must be a checkpoint folder, a URL, or one of {', '.join(SOURCES)}; "
            f"{model!r} is none"
        )
    kind = read_json(config).get("model_type")
    return (
        LongcatTalker(folder)
        if str(kind).startswith("longcat_flash")
        else TransformersTalker(folder)
    )


class ServerTalker:
    """Any OpenAI-compatible server."""

    def __init__(self, url: str, api_key: str, model: str) -> None:
        self.url, self.model = url.rstrip("/"), model
        if not self.url.endswith("/v1"):
            self.url += "/v1"
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def stream(
        self, messages: list[Message], *, max_tokens: int, temperature: float, tools: list[Any]
    ) -> AsyncIterator[str]:
        """Yield the deltas of a streamed chat completion."""
        body: dict[str, Any] = {
            "model": self.model, "messages": messages, "max_tokens": max_tokens,
            "temperature": temperature, "stream": True,
        }  # fmt: skip
        if tools:
            body["tools"] = tools
        address = f"{self.url}/chat/completions"
        try:
            async with (
                httpx.AsyncClient(
                    timeout=httpx.Timeout(120, connect=10), headers=self.headers
                ) as client,
                client.stream("POST", address, json=body) as response,
            ):
                if response.status_code != 200:
                    text = (await response.aread()).decode(errors="replace")[:300]
                    raise UsageError(f"{self.url} answered {response.status_code}: {text}")
                async for line in response.aiter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        choices = json.loads(line[6:]).get("choices") or [{}]
                        delta = choices[0].get("delta", {})
                        yield delta.get("content") or ""
                        for call in delta.get("tool_calls") or ():
                            yield json.dumps(call.get("function", {}))
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise UsageError(f"{self.url} must answer, but: {why}") from error


class TransformersTalker:
    """Any Hugging Face causal language model in a folder."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
            self.model: Any = AutoModelForCausalLM.from_pretrained(str(folder)).eval()
        except Exception as error:
            first = (
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            )
            raise UsageError(f"{folder} must hold a whole model: {first[:300]}") from error

    async def stream(
        self, messages: list[Message], *, max_tokens: int, temperature: float, tools: list[Any]
    ) -> AsyncIterator[str]:
        """Yield text as the model generates it in a thread."""
        from transformers import TextIteratorStreamer

        inputs = self.tokenizer.apply_chat_template(
            messages, tools=tools or None, add_generation_prompt=True, return_tensors="pt",
            return_dict=True,
        )  # fmt: skip
        streamer = TextIteratorStreamer(
            self.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=300
        )
        options: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            options["temperature"] = temperature
        thread = threading.Thread(
            target=self.model.generate,
            kwargs={**inputs, **options, "max_new_tokens": max_tokens, "streamer": streamer},
            daemon=True,
        )
        thread.start()
        pieces = iter(streamer)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece
        thread.join()


class LongcatTalker:
    """A model of ours, on its own engine."""

    def __init__(self, folder: Path) -> None:
        from longcat_moe import Engine, LongcatForCausalLM, load_chat_format

        model = LongcatForCausalLM.from_pretrained(folder)
        limit = min(model.config.max_position_embeddings, 4096)
        self.chat = load_chat_format(folder)
        self.engine = Engine(model.config, num_slots=8, max_length=limit)
        self.engine.add_model(0, model)

    async def stream(
        self, messages: list[Message], *, max_tokens: int, temperature: float, tools: list[Any]
    ) -> AsyncIterator[str]:
        """Yield the answer once it is whole: its end decides what was thought and what was said."""
        conversation = await self.engine.open(0)
        try:
            result = await self.engine.generate(
                conversation, self.chat.start(messages, tools), max_tokens=max_tokens,
                temperature=temperature,
            )  # fmt: skip
        finally:
            await self.engine.close(conversation)
        message = self.chat.parse(result.token_ids, tools)
        for call in message.get("tool_calls") or ():
            yield f"{call['function']['name']} {call['function']['arguments']}\n"
        yield message["content"]

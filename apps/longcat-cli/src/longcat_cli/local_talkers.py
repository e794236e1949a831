"""A conversation with a model in this process: any Hugging Face one, or one of ours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from .errors import UsageError
from .talkers import Call, Message, Piece


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
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(f"{folder} must hold a whole model: {first[:300]}") from error

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        tools: Sequence[Any],
    ) -> AsyncIterator[Piece | Call]:
        """Yield text as the model generates it in a thread, which ends when nobody listens."""
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        inputs = self.tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, add_generation_prompt=True,
            return_tensors="pt", return_dict=True,
        )  # fmt: skip
        streamer = TextIteratorStreamer(
            self.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=300
        )
        options: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            options["temperature"] = temperature
        is_stopped, failure = threading.Event(), list[BaseException]()

        def generate() -> None:
            try:
                self.model.generate(
                    **inputs, **options, max_new_tokens=max_tokens, streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([lambda *_, **__: is_stopped.is_set()]),
                )  # fmt: skip
            except BaseException as error:
                failure.append(error)
            finally:
                streamer.end()

        thread = threading.Thread(target=generate)
        thread.start()
        try:
            pieces = iter(streamer)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield Piece(piece)
        finally:
            is_stopped.set()
            thread.join()
        if failure:
            raise UsageError(f"the model failed: {failure[0]}") from failure[0]


class LongcatTalker:
    """A model of ours, on its own engine."""

    def __init__(self, folder: Path) -> None:
        from longcat_moe import Engine, LongcatForCausalLM, load_chat_format

        model = LongcatForCausalLM.from_pretrained(folder)
        self.limit = min(model.config.max_position_embeddings, 4096)
        self.chat = load_chat_format(folder)
        self.engine = Engine(model.config, num_slots=8, max_length=self.limit)
        self.engine.add_model(0, model)

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        tools: Sequence[Any],
    ) -> AsyncIterator[Piece | Call]:
        """Yield the answer once it is whole: its end decides what was thought and what was said."""
        prompt = self.chat.start(list(messages), list(tools))
        if len(prompt) >= self.limit:
            raise UsageError(
                f"the conversation has {len(prompt)} tokens and must have fewer than {self.limit}; "
                f"/reset forgets it"
            )
        conversation = await self.engine.open(0)
        try:
            result = await self.engine.generate(
                conversation, prompt, max_tokens=max_tokens, temperature=temperature
            )
        finally:
            await self.engine.close(conversation)
        message = self.chat.parse(result.token_ids, list(tools))
        if message.get("reasoning_content"):
            yield Piece(message["reasoning_content"], "thought")
        yield Piece(message["content"])
        for call in message.get("tool_calls") or ():
            yield Call(call["id"], call["function"]["name"], call["function"]["arguments"])

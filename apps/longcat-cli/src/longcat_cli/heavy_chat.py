"""`longcat chat --heavy K`: each answer is thought about K times, then once about the answers.

A server is asked through `longcat_heavythink.Endpoint`: one client, retries, cut streams as
failures. Any other talker is a function that gives an answer.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from longcat_heavythink import (
    Conversation,
    Endpoint,
    EndpointConfig,
    HeavyAnswer,
    HeavyConfig,
    HeavyThinkError,
    Panel,
    Reply,
    ToolCall,
    strip_thoughts,
)

from .errors import UsageError
from .server_talker import ServerTalker
from .talkers import Message, Talker, answer_of
from .tool_programs import ToolPrograms

if TYPE_CHECKING:
    from .chat import ChatOptions

LEAST_TEMPERATURE = 0.7
"""Of the thinkers: alike answers are one answer."""


class HeavyTalk:
    """A conversation in which only the final answers are remembered.

    Args:
        talker: Who thinks.
        options: Of the conversation; `heavy` is how many think.
        tools: Offered to thinkers and summary alike; only the final answer's calls are run.
    """

    def __init__(self, talker: Talker, options: ChatOptions, tools: ToolPrograms) -> None:
        self._options, self._tools = options, tools
        self._model = _model_of(talker, options, tools)
        self._panel = Panel(sys.stderr, sys.stdout)
        self.reset()

    def reset(self) -> None:
        """Forget all but the system prompt."""
        options = self._options
        config = HeavyConfig(
            width=options.heavy, temperature=max(options.temperature, LEAST_TEMPERATURE),
            summary_temperature=options.temperature, max_tokens=options.max_tokens,
            stream="all" if sys.stderr.isatty() else "last",
        )  # fmt: skip
        self._conversation = Conversation(
            self._model, system=options.system, config=config, tools=self._tools.tools,
            call_tool=self._call if self._tools.can_act else None, on_event=self._show,
        )  # fmt: skip

    @property
    def messages(self) -> list[Message]:
        """What is remembered."""
        return self._conversation.messages

    async def ask(self, text: str) -> str:
        """Say something; return what is still to be shown of the answer, as the rest was streamed.

        Raises:
            HeavyThinkError: Nobody gave a good answer; nothing is remembered.
            UsageError: No answer came for all the tools that were called.
        """
        self._panel = Panel(sys.stderr, sys.stdout)
        try:
            answer = await self._conversation.ask(text)
        except HeavyThinkError:
            raise
        except RuntimeError as error:  # tools were called again and again
            raise UsageError(str(error)) from error
        for call in answer.reply.tool_calls:
            print(f"  call {call.name} {call.arguments}", file=sys.stderr)
        return "" if self._is_streamed(answer) else answer.answer

    def _is_streamed(self, answer: HeavyAnswer) -> bool:
        return self._panel.has_answered and not answer.fell_back

    def _show(self, event: Any) -> None:
        self._panel(event)

    async def _call(self, call: ToolCall) -> str:
        print(f"  call {call.name} {call.arguments}", file=sys.stderr)
        result = await self._tools.call(call.name, call.arguments)
        print(f"  gives {result[:200]}", file=sys.stderr)
        return result


def _model_of(talker: Talker, options: ChatOptions, tools: ToolPrograms) -> Any:
    if isinstance(talker, ServerTalker):
        return Endpoint(
            EndpointConfig(
                url=talker.url, model=talker.model or "", max_tokens=options.max_tokens,
                api_key=os.environ.get(options.api_key_env, ""),
            )
        )  # fmt: skip

    async def answer(messages: list[Message], temperature: float) -> str | Reply:
        pieces = talker.stream(
            messages, max_tokens=options.max_tokens, temperature=temperature, tools=tools.tools
        )
        message = await answer_of(pieces)
        calls = tuple(
            ToolCall(call["function"]["name"], call["function"]["arguments"], call["id"])
            for call in message.get("tool_calls") or ()
        )
        text = strip_thoughts(message["content"])
        return Reply(text=text, tool_calls=calls) if calls else message["content"]

    return answer

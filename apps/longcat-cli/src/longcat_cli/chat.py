"""`longcat chat --model WHAT`: a conversation in a terminal, or one answer in a pipe."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat_heavythink import HeavyThinkError
from rich.console import Console
from rich.markup import escape

from .errors import UsageError
from .heavy_chat import HeavyTalk
from .line_input import LineInput, help_text, history_file, is_command, is_mistyped
from .talkers import Call, Message, Piece, Talker, answer_of, make_talker
from .tool_programs import ToolPrograms, read_tools

MAX_CALLS = 16
"""Rounds of tool calls in one answer."""


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Options of a plain conversation."""

    system: str = ""
    tools: str = "none"
    heavy: int = 0
    max_tokens: int = 256
    temperature: float = 0.7
    api_key_env: str = "OPENAI_API_KEY"
    server_model: str | None = None


def plain_chat(model: str, options: ChatOptions) -> None:
    """Talk until the input ends."""
    tools = read_tools(options.tools)
    talker = make_talker(model, api_key_env=options.api_key_env, server_model=options.server_model)
    conversation = Conversation(talker, options, tools)
    with asyncio.Runner() as runner:  # one loop for all answers: engines and connections live in it
        if sys.stdin is None:
            raise UsageError("standard input must hold a question, it is closed")
        if sys.stdin.isatty():
            _talk(model, conversation, runner)
        else:
            try:
                question = sys.stdin.read().strip()
            except UnicodeDecodeError as error:
                raise UsageError(f"standard input must be text: {error}") from error
            if not question:
                raise UsageError("standard input must hold a question, it is empty")
            runner.run(conversation.ask(question, show=_write))
            print()


def _talk(model: str, conversation: Conversation, runner: asyncio.Runner) -> None:
    console = Console(highlight=False)
    console.print(
        f"[bold]{escape(model)}[/]  /help shows what can be typed; Ctrl-C stops an answer"
    )
    lines = LineInput(history_file())
    while (text := lines.ask()) is not None:
        if is_command(text) or is_mistyped(text):
            if not command(text, conversation.messages, conversation.reset, console):
                return
        elif text:
            try:
                runner.run(conversation.ask(text, show=_write))
                print()
            except KeyboardInterrupt:
                console.print("\n[dim](stopped)[/]")
            except (UsageError, HeavyThinkError, ValueError) as error:
                console.print(f"\n[red]{escape(str(error))}[/]", markup=True, highlight=False)


def command(text: str, messages: list[Message], reset: Any, console: Console) -> bool:
    """Obey a `/` command, or say that it is none; return whether the conversation goes on."""
    name, _, argument = text.partition(" ")
    if name == "/quit":
        return False
    if name == "/reset":
        reset()
        console.print("[dim]forgotten[/]")
    elif name == "/save":
        path = Path(argument.strip() or "conversation.json")
        try:
            path.write_text(json.dumps(messages, indent=2, ensure_ascii=False) + "\n", "utf-8")
            console.print(f"[dim]saved {escape(str(path))}[/]")
        except (OSError, ValueError) as error:  # half a character is no text, either
            why = getattr(error, "strerror", None) or error
            console.print(f"[red]{escape(f'{path} cannot be written: {why}')}[/]")
    elif name == "/help":
        console.print(help_text(), highlight=False)
    else:
        console.print(f"[red]no command {escape(text)}; /help lists them[/]")
    return True


def _write(piece: Piece | Call) -> None:
    """Text goes to standard output; thoughts and calls beside it."""
    if isinstance(piece, Piece) and piece.kind == "text":
        sys.stdout.write(piece.text)
        sys.stdout.flush()
    elif isinstance(piece, Call):
        print(f"  call {piece.name} {piece.arguments}", file=sys.stderr)
    elif sys.stderr.isatty():
        sys.stderr.write(f"\x1b[2m{piece.text}\x1b[0m")


class Conversation:
    """What was said, and how it goes on."""

    def __init__(self, talker: Talker, options: ChatOptions, tools: ToolPrograms) -> None:
        self.talker, self.options, self.tools = talker, options, tools
        self.messages: list[Message] = []
        self._heavy = HeavyTalk(talker, options, tools) if options.heavy else None
        self.reset()

    def reset(self) -> None:
        """Forget all but the system prompt."""
        self.messages[:] = (
            [{"role": "system", "content": self.options.system}] if self.options.system else []
        )
        if self._heavy is not None:
            self._heavy.reset()

    async def ask(self, text: str, *, show: Any) -> None:
        """Say something and take the answer in; without one the question is forgotten too."""
        if self._heavy is not None:
            show(Piece(await self._heavy.ask(text)))
            self.messages[:] = self._heavy.messages
            return
        before = len(self.messages)
        self.messages.append({"role": "user", "content": text})
        try:
            await self._plain(show)
        except BaseException:
            del self.messages[before:]
            raise

    async def _plain(self, show: Any) -> None:
        """Answer, with tools that have a program really called, until the model speaks."""
        for _ in range(MAX_CALLS):
            message = await answer_of(self._stream(self.messages, self.options.temperature), show)
            self.messages.append(message)
            calls = message.get("tool_calls") or ()
            if not calls or not self.tools.can_act:
                return
            for call in calls:
                function = call["function"]
                result = await self.tools.call(function["name"], function["arguments"])
                print(f"  gives {result[:200]}", file=sys.stderr)
                self.messages.append(
                    {"role": "tool", "tool_call_id": call["id"], "content": result}
                )
        raise UsageError(f"the model called tools {MAX_CALLS} times without an answer")

    def _stream(self, messages: Any, temperature: float) -> Any:
        return self.talker.stream(
            messages, max_tokens=self.options.max_tokens, temperature=temperature,
            tools=self.tools.tools,
        )  # fmt: skip

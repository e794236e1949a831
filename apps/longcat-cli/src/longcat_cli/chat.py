"""`longcat chat --model WHAT`: a conversation in a terminal, or one answer in a pipe."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat_heavythink import HeavyConfig, strip_thoughts, think
from rich.console import Console

from .errors import UsageError
from .folder import read_json
from .talkers import Message, Talker, complete, make_talker

HELP = """/help        this list
/reset       forget the conversation
/save FILE   write the conversation as JSON
/quit        leave (so does end of input)"""


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Options of a plain conversation."""

    system: str
    tools: str
    heavy: int
    max_tokens: int
    temperature: float
    api_key_env: str
    server_model: str


def plain_chat(model: str, options: ChatOptions) -> None:
    """Talk until the input ends."""
    tools = read_tools(options.tools)
    talker = make_talker(model, api_key_env=options.api_key_env, server_model=options.server_model)
    conversation = _Conversation(talker, options, tools)
    if not sys.stdin.isatty():
        question = sys.stdin.read().strip()
        if not question:
            raise UsageError("standard input must hold a question, it is empty")
        asyncio.run(conversation.ask(question, show=_write))
        print()
        return
    console = Console()
    console.print(f"[bold]{model}[/]  /help shows what can be typed")
    while True:
        try:
            text = console.input("[cyan]you[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if text.startswith("/"):
            if not command(text, conversation.messages, conversation.reset, console):
                return
        elif text:
            try:
                asyncio.run(conversation.ask(text, show=_write))
            except KeyboardInterrupt:
                console.print("\n[dim](stopped)[/]")
            print()


def command(text: str, messages: list[Message], reset: Any, console: Console) -> bool:
    """Obey a `/` command; return whether the conversation goes on."""
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
            console.print(f"[dim]saved {path}[/]")
        except OSError as error:
            console.print(f"[red]{path} cannot be written: {error.strerror}[/]")
    else:
        console.print(HELP, highlight=False)
    return True


def read_tools(name: str) -> list[dict[str, Any]]:
    """Read a JSON list of OpenAI function tools; `none` is an empty one."""
    if name == "none":
        return []
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"--tools must be none or a JSON file, got {name!r}")
    tools = read_json(path)
    if not isinstance(tools, list) or not all(
        isinstance(t, dict) and "function" in t for t in tools
    ):
        raise UsageError(f"{path} must be a list of OpenAI function tools")
    return tools


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class _Conversation:
    def __init__(self, talker: Talker, options: ChatOptions, tools: list[Any]) -> None:
        self.talker, self.options, self.tools = talker, options, tools
        self.messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        self.messages[:] = (
            [{"role": "system", "content": self.options.system}] if self.options.system else []
        )

    async def ask(self, text: str, *, show: Any) -> None:
        self.messages.append({"role": "user", "content": text})
        try:
            answer = await (self._heavy(show) if self.options.heavy else self._plain(show))
        except BaseException:
            self.messages.pop()  # an answer that did not come leaves no question behind
            raise
        self.messages.append({"role": "assistant", "content": answer})

    async def _plain(self, show: Any) -> str:
        answer = ""
        async for piece in self.talker.stream(
            self.messages, max_tokens=self.options.max_tokens,
            temperature=self.options.temperature, tools=self.tools,
        ):  # fmt: skip
            answer += piece
            show(piece)
        return answer

    async def _heavy(self, show: Any) -> str:
        async def one(messages: Any, temperature: float) -> str:
            answer = await complete(
                self.talker, list(messages), max_tokens=self.options.max_tokens,
                temperature=temperature, tools=self.tools,
            )  # fmt: skip
            return strip_thoughts(answer)

        def attempt(number: int, answer: str) -> None:
            first = answer.strip().splitlines()[0][:70] if answer.strip() else "(nothing)"
            print(f"  thinker {number + 1}: {first}", file=sys.stderr)

        config = HeavyConfig(
            width=self.options.heavy, temperature=max(self.options.temperature, 0.7)
        )
        result = await think(self.messages, one, config=config, on_attempt=attempt)
        show(result.answer)
        return result.answer

"""Tools for `longcat chat`: a JSON list of OpenAI function tools, each with its program.

A tool may carry `"command": ["python", "weather.py"]` beside its `function`. The program gets the
call's arguments as JSON on its standard input, and what it prints is the result. A tool without a
command is shown to the model and only printed when it is called.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UsageError
from .folder import read_json

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ToolPrograms:
    """What the model sees, and what is run."""

    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    commands: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @property
    def can_act(self) -> bool:
        """Whether any tool has a program."""
        return bool(self.commands)

    async def call(self, name: str, arguments: str) -> str:
        """Run a tool's program; whatever goes wrong is the result."""
        command = self.commands.get(name)
        if command is None:
            return json.dumps({"error": f"there is no program for {name}"})
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            return json.dumps({"error": f"{command[0]} cannot be run: {why}"})
        try:
            async with asyncio.timeout(TIMEOUT_S):
                out, wrong = await process.communicate(arguments.encode(errors="replace"))
        except TimeoutError:
            return json.dumps({"error": f"{name} took longer than {TIMEOUT_S:g} s"})
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            last = wrong.decode(errors="replace").strip().splitlines()[-1:] or [""]
            return json.dumps({"error": f"{name} ended with {process.returncode}: {last[0]}"})
        return out.decode(errors="replace").strip()


def read_tools(name: str) -> ToolPrograms:
    """Read a file of tools; `none` is an empty one.

    Raises:
        UsageError: No such file, or it holds something else.
    """
    if name == "none":
        return ToolPrograms()
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"--tools must be none or a JSON file, got {name!r}")
    raw = read_json(path)
    if not isinstance(raw, list):
        raise UsageError(f"{path} must be a list of OpenAI function tools")
    tools, commands = list[dict[str, Any]](), dict[str, list[str]]()
    for number, tool in enumerate(raw):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UsageError(f"{path}, tool {number + 1}: must hold a function with a name")
        command = tool.get("command")
        if command is not None:
            if not command or not isinstance(command, list) or not all(
                isinstance(word, str) for word in command
            ):  # fmt: skip
                raise UsageError(f"{path}, tool {number + 1}: command must be a list of words")
            commands[function["name"]] = command
        tools.append({"type": "function", "function": function})
    return ToolPrograms(tools, commands)

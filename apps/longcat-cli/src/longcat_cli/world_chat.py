"""`longcat chat`: the newest trained model at work in one of its worlds, before one's eyes.

In a terminal, the person plays the user: a task is suggested, and whatever is typed instead is sent
as it is. In a pipe, standard input is the request. At the end the rubrics of the task are scored.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from longcat_dora import Session, Worker
from longcat_envs import DomainError, Environment, Invalid, Message
from longcat_envs.world import builtin_worlds
from rich.console import Console
from rich.markup import escape

from .agent import load_agent, make_environment, transcript
from .chat import command
from .errors import UsageError
from .folder import RunFolder
from .line_input import LineInput, history_file, is_command
from .stages.grow import EVAL_SEED, grow_tasks
from .train import newest_run
from .worlds import PAST, AnyTask, has_past, load_world, read_tasks

NUM_GROWN = 8
"""Tasks to choose from in a world that the run was not trained on."""
COLOURS = {"thought": "dim italic", "call": "cyan", "tool": "dim", "assistant": "bold"}


def world_chat(run: Path | None, *, domain: str | None, task: str | None, noise: float) -> None:
    """Talk to the fused model of a run."""
    folder = RunFolder.open(run) if run is not None else newest_run()
    if not folder.is_trained:
        raise UsageError(f"{folder.path} must have come as far as a fused model, and has not")
    if sys.stdin is None:
        raise UsageError("standard input must hold a request, it is closed")
    name, chosen = choose_task(folder, domain, task)
    rl = folder.recipe.rl
    worker = load_agent(
        folder.fused, num_slots=1, max_length=rl.max_length, max_tokens=rl.max_tokens,
        temperature=0.0, seed=0,
    )  # fmt: skip
    environment = make_environment(load_world(name), chosen, level=noise, episode="chat")
    asyncio.run(_Talk(folder, environment, worker, chosen).run())


def choose_task(folder: RunFolder, domain: str | None, task: str | None) -> tuple[str, AnyTask]:
    """A domain, and the task named or its first held-out one.

    The domain is one that the run was trained on, or any world with a past.
    """
    trained = {Path(name).stem: name for name in folder.recipe.domains}
    names = list(trained.values())
    if domain is not None:
        names = [trained.get(domain) or _other_world(domain, list(trained))]
    pairs = [(name, found) for name in names for found in _held_out(folder, name)]
    if not pairs:
        raise UsageError(f"{folder.path} must hold held-out tasks, its files have none")
    if task is None:
        return pairs[0]
    for name, found in pairs:
        if found.id == task:
            return name, found
    raise UsageError(f"--task must be a held-out task such as {pairs[0][1].id}, got {task!r}")


def _other_world(domain: str, trained: list[str]) -> str:
    name = domain if has_past(domain) else domain + PAST
    try:
        load_world(name)
    except DomainError as error:
        if Path(name).is_file():
            raise UsageError(str(error)) from error
        raise UsageError(
            f"--domain must be one of {', '.join(trained)}, or a world with a past "
            f"({', '.join(builtin_worlds())}, or a file), got {domain!r}"
        ) from error
    return name


def _held_out(folder: RunFolder, domain: str) -> list[AnyTask]:
    if domain in folder.recipe.domains:
        return read_tasks(folder.tasks(domain, "eval"))
    return grow_tasks(domain, "eval", NUM_GROWN, folder.recipe.seed + EVAL_SEED, folder.recipe)


class _Talk:
    def __init__(
        self, folder: RunFolder, environment: Environment, worker: Worker, task: AnyTask
    ) -> None:
        self.folder, self.environment, self.worker, self.task = folder, environment, worker, task
        self.console = Console(highlight=False, soft_wrap=True)
        self.lines = LineInput(history_file()) if sys.stdin.isatty() else None
        self.messages: list[Message] = []
        self.tools: list[dict[str, Any]] = []
        self.wants_reset = False

    async def run(self) -> None:
        """Play the task, again after each /reset."""
        try:
            while True:
                self.wants_reset = False
                await self._play()
                if not self.wants_reset:
                    return
        finally:
            await self.environment.close()

    async def _play(self) -> None:
        observation = await self.environment.reset()
        self.messages, self.tools = list(observation.messages), observation.tools
        opening = str(self.messages[-1]["content"])
        if self.lines is not None:
            self.console.print(f"[bold]{escape(self.task.id)}[/]: {escape(self.worker_line())}")
            told = f"[dim]Enter sends the task's own request:[/] {escape(opening)}"
            self.console.print(told)
            self.console.print("[dim]/help shows what else can be typed[/]")
        text = await self._ask("")
        if text is None:
            return
        self.messages[-1] = {"role": "user", "content": text or opening}
        session = Session(self.worker, 0)
        try:
            await self._converse(session)
        finally:
            await session.close()

    def worker_line(self) -> str:
        """Where one is."""
        return f"{self.messages[0]['content']} ({self.folder.path.name})"

    async def _converse(self, session: Session) -> None:
        """Let the model act until it speaks, the person answer, and so on; then score."""
        while await self._act(session):
            scripted = await self.environment.reply(self.messages[-1])
            if scripted is None:  # the person has ended the talk
                break
            suggestion = str(scripted["content"])
            text = await self._ask(suggestion, hint=suggestion)
            if self.wants_reset:
                return
            if not text:
                break
            self.messages.append({"role": "user", "content": text})
        reward = await self.environment.score()
        if isinstance(reward, Invalid):
            told = f"the world failed, nothing was judged: {reward.reason}"
            self.console.print(f"[red]{escape(told)}[/]")
            return
        for description, met in reward.parts.items():
            mark = "[green]met   [/]" if met else "[red]unmet [/]"
            self.console.print(f"{mark} {escape(description)}")
        self.console.print(f"reward {reward.total:g}")

    async def _act(self, session: Session) -> bool:
        """Let the model call tools until it speaks; return whether it did."""
        limit = self.folder.recipe.rl.max_turns
        for _ in range(limit):
            message = await session.chat(self.messages, tools=self.tools)
            if message is None:
                self.console.print("[red]no room is left in this conversation[/]")
                return False
            self._add(message)
            for call in message.get("tool_calls") or ():
                result = await self.environment.call(call)
                name = call["function"]["name"]
                self._add({"role": "tool", "name": name, "content": result.content})
            if not message.get("tool_calls"):
                return True
        self.console.print(f"[red]stopped after {limit} turns without an answer[/]")
        return False

    def _add(self, message: Message) -> None:
        self.messages.append(message)
        for line in transcript([message]):
            style = COLOURS.get(line["who"], "")
            self.console.print(f"{line['who']:>9}  {line['text']}", style=style, markup=False)

    async def _ask(self, suggestion: str, *, hint: str = "") -> str | None:
        """Read a line; in a pipe, the request once and the scripted answers after that."""
        if self.lines is None:
            return sys.stdin.readline().strip() or suggestion
        while True:
            text = await self.lines.ask_within("      you ", hint)
            if text is None or not is_command(text):
                return suggestion if text == "" else text
            if not command(text, self.messages, self._reset, self.console):
                return None
            if self.wants_reset:
                return None

    def _reset(self) -> None:
        self.wants_reset = True

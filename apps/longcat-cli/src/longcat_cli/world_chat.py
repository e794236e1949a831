"""`longcat chat`: the newest trained model at work in one of its worlds, before one's eyes.

In a terminal, the person plays the user: a task is suggested, and whatever is typed instead is sent
as it is. In a pipe, standard input is the request. At the end the rubrics of the task are scored;
in a terminal, /reset then goes to the next task.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat_dora import Session, Worker
from longcat_envs import DomainError, Invalid, Message
from longcat_envs.world import builtin_worlds
from rich.console import Console
from rich.markup import escape

from .agent import load_agent, make_environment, transcript
from .chat import command
from .errors import UsageError
from .folder import RunFolder, chosen_run
from .line_input import LineInput, history_file, is_command, is_mistyped
from .stages.grow import EVAL_SEED, grow_tasks
from .worlds import PAST, AnyTask, has_past, load_world, read_tasks

NUM_GROWN = 8
"""Tasks to choose from in a world that the run was not trained on."""
COLOURS = {"thought": "dim italic", "call": "cyan", "tool": "dim", "assistant": "bold"}


def world_chat(run: Path | None, *, domain: str | None, task: str | None, noise: float) -> None:
    """Talk to the fused model of a run."""
    folder = chosen_run(run)
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
    with asyncio.Runner() as runner:  # one loop for all answers: the engine lives in it
        talk = _Talk(folder, runner, worker, _Place(name, noise, is_chosen=task is not None))
        talk.run(chosen)


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


@dataclass(frozen=True)
class _Place:
    """Where one talks."""

    domain: str
    noise: float
    is_chosen: bool
    """Whether the person named the task: then /reset stays at it."""


class _Talk:
    def __init__(
        self, folder: RunFolder, runner: asyncio.Runner, worker: Worker, place: _Place
    ) -> None:
        self.folder, self.runner, self.worker, self.place = folder, runner, worker, place
        self.world = load_world(place.domain)
        self.console = Console(highlight=False, soft_wrap=True)
        self.lines = LineInput(history_file()) if sys.stdin.isatty() else None
        self.messages: list[Message] = []
        self.tools: list[dict[str, Any]] = []
        self.wants_reset = False

    def run(self, task: AnyTask) -> None:
        """Play a task, and another after each /reset."""
        while self._play(task):
            task = task if self.place.is_chosen else self._after(task)

    def _after(self, task: AnyTask) -> AnyTask:
        tasks = _held_out(self.folder, self.place.domain)
        place = [found.id for found in tasks].index(task.id)
        return tasks[(place + 1) % len(tasks)]

    def _play(self, task: AnyTask) -> bool:
        """Play a task to its end, or until the person leaves; return whether another is wanted."""
        self.wants_reset = False
        self.environment = make_environment(
            self.world, task, level=self.place.noise, episode="chat"
        )
        session = Session(self.worker, 0)
        try:
            has_ended = self._converse(session, self._open(task))
            if not self.wants_reset and any(m["role"] == "assistant" for m in self.messages):
                self.runner.run(self._score())
        finally:
            self.runner.run(session.close())
            self.runner.run(self.environment.close())
        return self.wants_reset or (has_ended and self._wants_another())

    def _open(self, task: AnyTask) -> str:
        """Begin the episode, say where one is, and return the task's own request."""
        observation = self.runner.run(self.environment.reset())
        *self.messages, request = observation.messages
        self.tools = observation.tools
        opening = str(request["content"])
        if self.lines is not None:
            where = f"{observation.messages[0]['content']} ({self.folder.path.name})"
            self.console.print(f"[bold]{escape(task.id)}[/]: {escape(where)}")
            told = f"[dim]Enter sends the task's own request:[/] {escape(opening)}"
            self.console.print(told)
            self.console.print(
                "[dim]One task, judged at its end. /help shows what else can be typed; "
                "Ctrl-C stops an answer[/]"
            )
        return opening

    def _converse(self, session: Session, suggestion: str) -> bool:
        """Let the person speak, the model answer, and so on; return whether the task has ended."""
        hint = ""
        while text := self._ask(suggestion, hint):
            try:
                said = self.runner.run(self._answer(session, text))
            except KeyboardInterrupt:
                if self.lines is None:
                    raise
                self.console.print("\n[dim](stopped)[/]")
                continue
            if said is None:  # the person of the task has ended the talk, or nothing more can come
                return True
            suggestion = hint = said
        return text is not None

    async def _answer(self, session: Session, text: str) -> str | None:
        """Let the model answer; return what the person of the task says next, if anything."""
        before = len(self.messages)
        self.messages.append({"role": "user", "content": text})
        try:
            if not await self._act(session):
                return None
        except BaseException:
            self._settle(before)
            raise
        scripted = await self.environment.reply(self.messages[-1])
        return None if scripted is None else str(scripted["content"])

    def _settle(self, before: int) -> None:
        """After a stop: acts in the world stay said, a question without effect does not."""
        said = self.messages[before + 1 :]
        turns = [place for place, message in enumerate(said) if message["role"] == "assistant"]
        if not turns:
            del self.messages[before:]
            return
        num_answered = len(said) - turns[-1] - 1
        for call in list(said[turns[-1]].get("tool_calls") or ())[num_answered:]:
            name = call["function"]["name"]
            self.messages.append({"role": "tool", "name": name, "content": "stopped by the user"})

    async def _score(self) -> None:
        reward = await self.environment.score()
        if isinstance(reward, Invalid):
            told = f"the world failed, nothing was judged: {reward.reason}"
            self.console.print(f"[red]{escape(told)}[/]")
            return
        for description, met in reward.parts.items():
            mark = "[green]met   [/]" if met else "[red]unmet [/]"
            self.console.print(f"{mark} {escape(description)}")
        self.console.print(f"reward {reward.total:g}")

    def _wants_another(self) -> bool:
        """Say that the task is over, and wait for what the person wants; a pipe wants no more."""
        if self.lines is None:
            return False
        offer = "/reset begins it again" if self.place.is_chosen else "/reset for another one"
        text = ""
        while text is not None:
            self.console.print(f"[dim]this task has ended; {offer}, /quit to leave[/]")
            text = self._ask("")
        return self.wants_reset

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

    def _ask(self, suggestion: str, hint: str = "") -> str | None:
        """Read a line; in a pipe, the request once and the scripted answers after that."""
        if self.lines is None:
            return sys.stdin.readline().strip() or suggestion
        while True:
            text = self.lines.ask("      you ", hint)
            if text is None or not (is_command(text) or is_mistyped(text)):
                return suggestion if text == "" else text
            if not command(text, self.messages, self._reset, self.console):
                return None
            if self.wants_reset:
                return None

    def _reset(self) -> None:
        self.wants_reset = True

"""A person of a task who is spoken for by a model instead of by rules.

Where a task's person has tools of their own (`loaders.TwoSided`), the model is given them; what it
calls is done before it answers, and the agent sees the answer alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from longcat_envs._database import ToolError
from longcat_envs._plain import plain
from longcat_envs._protocol import Message, parse_call
from longcat_envs.loaders import ForeignTask
from longcat_envs.tasks import Talker, WorldTask

from ._endpoint import Endpoint

END = "[END]"
MAX_ANSWERS = 20
"""Answers in all."""
MAX_ACTS = 30
"""Messages with calls before one answer."""

_PROMPT = """You play a person who talks to an agent at {place}. Stay in that part; say one or two \
short sentences at a time, and only what follows from these facts:
- You are {name}. You began the talk with: {opening}
{facts}- Never invent a name, number, date or wish. If you are asked for something that is not \
here, say that you do not know.
- If the agent asks whether to go on with what you want, agree.
- When the agent has said that all is done or cannot be done, and you have no further wish, \
answer with {end} and nothing else."""

_FOREIGN = """You play a person who talks to an agent. You have already told it this, word for \
word:

{scenario}

Stay in that part; say one or two short sentences at a time. Never invent anything that is not \
there{tools}. When the agent has said that all is done or cannot be done, answer with {end} and \
nothing else."""
_TOOLS = (
    " or in what your tools show. Call a tool only when the agent asks you to do or to look at "
    "something; you do not need to be asked twice"
)


def person_by(endpoint: Endpoint, place: str) -> Callable[[WorldTask], Talker]:
    """Return what makes a model the person of a task, for `WorldEnvironment(person=...)`."""
    return lambda task: ModelPerson(endpoint, task, place)


class ModelPerson:
    """One person in one talk, by a model."""

    def __init__(self, endpoint: Endpoint, task: WorldTask, place: str) -> None:
        facts = ""
        for number, wish in enumerate(task.wishes[1:], start=2):
            facts += f"- Wish {number}, which you bring up after the one before it is settled: "
            facts += f"{wish}\n"
        if task.withheld:
            facts += f"- Only when you are asked for it, you add: {task.withheld}\n"
        if task.change:
            facts += f"- When the agent asks whether to go on, you say first: {task.change}\n"
        if task.language != "en":
            facts += f"- You write as you do in your request, in the language {task.language}.\n"
        prompt = _PROMPT.format(
            place=place, name=task.profile.get("name", "yourself"), opening=task.opening,
            facts=facts, end=END,
        )  # fmt: skip
        self._endpoint, self._num_answers = endpoint, 0
        self._withheld = re.findall(r"[\w.@+-]*\w", plain(task.withheld).rstrip("元月日 。"))[-1:]
        # To the model the agent is the user, and what the person says is its own.
        self._messages: list[Message] = [
            {"role": "system", "content": prompt},
            {"role": "user", "content": "(the talk begins)"},
            {"role": "assistant", "content": task.opening},
        ]
        self.was_asked = False

    def answer(self, text: str) -> str | None:
        """Return what the person says to `text`; `None` ends the talk."""
        self._num_answers += 1
        if self._num_answers > MAX_ANSWERS:
            return None
        self._messages.append({"role": "user", "content": text or "(silence)"})
        said = str(self._endpoint.ask(self._messages)["content"]).strip()
        self._messages.append({"role": "assistant", "content": said})
        self.was_asked |= any(value in plain(said) for value in self._withheld)
        is_end = END in said or not said
        return None if is_end else said


def foreign_person_by(endpoint: Endpoint) -> Callable[[ForeignTask], Talker]:
    """Return what makes a model the person of a foreign task, for `ForeignEnvironment`."""
    return lambda task: ModelHands(endpoint, task)


class ModelHands:
    """One person of a foreign task in one talk, by a model; with tools where they have some."""

    was_asked = False

    def __init__(self, endpoint: Endpoint, task: ForeignTask) -> None:
        tools = _TOOLS if task.acts else ""
        prompt = _FOREIGN.format(scenario=task.turns[0], tools=tools, end=END)
        self._endpoint, self._num_answers = endpoint, 0
        self._tools: list[dict[str, Any]] = []
        self._act: Callable[[str, dict[str, Any]], str] | None = None
        self._messages: list[Message] = [{"role": "system", "content": prompt}]

    def take(
        self, tools: Sequence[dict[str, Any]], act: Callable[[str, dict[str, Any]], str]
    ) -> None:
        """Take the person's tools, and what runs them."""
        self._tools, self._act = [dict(tool) for tool in tools], act

    def answer(self, text: str) -> str | None:
        """Do what the model calls, and return what it says; `None` ends the talk."""
        self._num_answers += 1
        if self._num_answers > MAX_ANSWERS:
            return None
        self._messages.append({"role": "user", "content": text or "(silence)"})
        for _ in range(MAX_ACTS):
            message = self._endpoint.ask(self._messages, self._tools)
            self._messages.append(message)
            if not message.get("tool_calls"):
                break
            for call in message["tool_calls"]:
                self._messages.append(
                    {"role": "tool", "tool_call_id": call.get("id", ""), "content": self._do(call)}
                )
        said = str(self._messages[-1]["content"]).strip()
        is_end = END in said or not said or self._messages[-1]["role"] != "assistant"
        return None if is_end else said

    def _do(self, call: Any) -> str:
        try:
            name, arguments = parse_call(call)
        except ToolError as error:
            return f"Error: {error}"
        return (
            "Error: there is nothing at hand" if self._act is None else self._act(name, arguments)
        )

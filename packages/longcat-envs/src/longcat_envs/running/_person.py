"""A person of a task who is spoken for by a model instead of by rules."""

from __future__ import annotations

import re
from collections.abc import Callable

from longcat_envs._plain import plain
from longcat_envs._protocol import Message
from longcat_envs.tasks import Talker, WorldTask

from ._endpoint import Endpoint

END = "[END]"
MAX_ANSWERS = 20
"""Answers in all."""

_PROMPT = """You play a person who talks to an agent at {place}. Stay in that part; say one or two \
short sentences at a time, and only what follows from these facts:
- You are {name}. You began the talk with: {opening}
{facts}- Never invent a name, number, date or wish. If you are asked for something that is not \
here, say that you do not know.
- If the agent asks whether to go on with what you want, agree.
- When the agent has said that all is done or cannot be done, answer with {end} and nothing else."""


def person_by(endpoint: Endpoint, place: str) -> Callable[[WorldTask], Talker]:
    """Return what makes a model the person of a task, for `WorldEnvironment(person=...)`."""
    return lambda task: ModelPerson(endpoint, task, place)


class ModelPerson:
    """One person in one talk, by a model."""

    def __init__(self, endpoint: Endpoint, task: WorldTask, place: str) -> None:
        facts = ""
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

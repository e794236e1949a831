"""BFCL's executable multi-turn sets, from the wheel of `bfcl-eval`.

    pip install --no-deps bfcl-eval mpmath

Only its back-ends and data are used, none of its model handlers, so that its other dependencies
are not needed. A session holds back-ends of its own (the benchmark keeps them in module globals),
and is judged turn by turn by the benchmark's rules, written anew: a turn whose golden calls are
not empty must have a call, leave the back-ends' public attributes as the golden calls leave them,
and all answers of its golden calls must have been answered so far, in any order.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import importlib.metadata
import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from longcat_envs._database import ToolError
from longcat_envs._fields import DomainError
from longcat_envs.tasks import Step, Talker

from ._environment import Turns
from ._types import ForeignTask, Schema

CATEGORIES = ("base", "miss_func", "miss_param", "long_context")
SYSTEM = "Do what the person asks with the tools. Once a request is done, or cannot be, say so."
LATER = "These tools can be used from now on: {tools}\nPlease go on with what I asked before."
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
MAX_GOALS = 16

Backend = Any
"""An object whose public methods are tools and whose public attributes are its state."""


@dataclass(frozen=True, slots=True)
class Backends:
    """How back-ends are made and what they offer."""

    make: Callable[[str, dict[str, Any], bool], Backend]
    """From a class's name, its part of the initial state, and whether it is filled up."""
    docs: dict[str, list[Schema]]
    """What the set says of each class's functions, in the benchmark's own form."""


class BfclSet:
    """The tasks of one category.

    Args:
        category: One of `CATEGORIES`, or any other name in tests.
        version: Where the data comes from.
        entries: The benchmark's entries, as its file holds them.
        answers: The golden calls of each, as the benchmark writes them.
        backends: What runs them.
    """

    def __init__(
        self, category: str, version: str, *, entries: Sequence[dict[str, Any]],
        answers: dict[str, list[list[str]]], backends: Backends,
    ) -> None:  # fmt: skip
        self.name, self.version, self.library = f"bfcl:{category}", version, ""
        self._backends, self._is_long = backends, "long_context" in category
        self.tasks: Sequence[ForeignTask] = [
            self._task(entry, answers[entry["id"]]) for entry in entries
        ]
        self._by_id = {task.id: task for task in self.tasks}
        self.goal = functools.lru_cache(maxsize=MAX_GOALS)(self._goal)

    def _task(self, entry: dict[str, Any], answer: list[list[str]]) -> ForeignTask:
        docs = {doc["name"]: doc for name in entry["involved_classes"]
                for doc in self._backends.docs[name]
                if doc["name"] not in entry.get("excluded_function", ())}  # fmt: skip
        missed: dict[str, list[str]] = entry.get("missed_function") or {}
        absent = {name for names in missed.values() for name in names}
        later = tuple((int(turn), schema_of(docs[name]))
                      for turn, names in missed.items() for name in names)  # fmt: skip
        turns = [turn[0]["content"] if turn else "" for turn in entry["question"]]
        for place, text in enumerate(turns):
            new = [schema for turn, schema in later if turn == place]
            turns[place] = text or LATER.format(tools=json.dumps(new))
        parameters = {n: list(d["parameters"].get("properties", {})) for n, d in docs.items()}
        return ForeignTask(
            id=entry["id"], domain=self.name, system=SYSTEM, turns=tuple(turns),
            tools=tuple(schema_of(doc) for name, doc in docs.items() if name not in absent),
            later=later,
            golden=tuple(tuple(step_of(call, parameters) for call in turn) for turn in answer),
            raw=entry,
        )  # fmt: skip

    def new_backends(self, task: ForeignTask) -> dict[str, Backend]:
        """Return fresh back-ends of a task, by the name of their class."""
        config: dict[str, Any] = task.raw["initial_config"]
        names: list[str] = task.raw["involved_classes"]
        # Copied once more: some back-ends put parts of their module's constants into their state.
        return {
            name: copy.deepcopy(
                self._backends.make(name, copy.deepcopy(config.get(name, {})), self._is_long)
            )
            for name in names
        }

    def begin(self, task: ForeignTask) -> BfclSession:
        """Return a fresh world for a task."""
        return BfclSession(self, task)

    def _goal(self, task_id: str) -> list[tuple[dict[str, Any], list[str]]]:
        """Return state and answers after each golden turn."""
        session = self.begin(self._by_id[task_id])
        found: list[tuple[dict[str, Any], list[str]]] = []
        for turn in session.task.golden:
            answers = [session.answer(step.tool, step.arguments) for step in turn]
            found.append((session.state(), answers))
        return found

    def person(self, task: ForeignTask) -> Talker:
        """Return who says one turn after another."""
        return Turns(task.turns[1:])

    def known(self, task: ForeignTask, texts: Sequence[str]) -> set[str]:
        """Return what the initial state holds, its keys too, and what tools answer unasked."""
        filled = repr(self.begin(task).state()).casefold() if self._is_long else ""
        found = set(re.findall(r"[\w.-]*\w", filled))
        waiting: list[Any] = [task.raw["initial_config"], self._unasked(task)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                whole = cast("dict[str, Any]", value)
                found |= {str(key).casefold() for key in whole}
                waiting += whole.values()
            elif isinstance(value, list):
                waiting += cast("list[Any]", value)
            else:
                found.add(str(value).casefold())
        return found

    def _unasked(self, task: ForeignTask) -> list[Any]:
        """Answers of the tools that need no arguments, each in a fresh world."""
        schemas = [*task.tools, *(schema for _, schema in task.later)]
        names = [s["function"]["name"] for s in schemas
                 if not s["function"]["parameters"].get("required")]  # fmt: skip
        return [_parsed(self.begin(task).answer(name, {})) for name in names]

    def records(self, task: ForeignTask, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Nothing: the back-ends have no records of one form."""
        return []

    def breaches(self, task: ForeignTask) -> list[str]:
        """Nothing: there are no rules for the agent."""
        return []

    def intact(self) -> bool:
        """Whether every back-end still begins as it did; each is made anew and copied."""
        return True


class BfclSession:
    """One live world."""

    def __init__(self, source: BfclSet, task: ForeignTask) -> None:
        self._source, self.task = source, task
        self._backends = source.new_backends(task)
        self._methods: dict[str, Callable[..., Any]] = {}
        for backend in self._backends.values():
            self._methods |= {
                name: method
                for name, method in inspect.getmembers(backend, predicate=inspect.ismethod)
                if not name.startswith("_")
            }
        self._answers: list[str] = []
        self._num_calls = self._turn = 0
        self._parts: dict[str, float] = {}

    def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """Run one call; what the back-end calls an error is one."""
        text = self.answer(name, arguments)
        self._answers.append(text)
        self._num_calls += 1
        return text, text.startswith(("Error during execution", '{"error"'))

    def answer(self, name: str, arguments: dict[str, Any]) -> str:
        """Run a method; write its answer as the benchmark does."""
        if name not in self._methods:
            raise ToolError(f"there is no tool {name[:80]!r}")
        try:
            # Copied: some back-ends keep what they are given, and change it later.
            result = self._methods[name](**copy.deepcopy(arguments))
        except Exception as error:
            return f"Error during execution: {error}"
        if isinstance(result, dict):
            try:
                return json.dumps(result)
            except (TypeError, ValueError):
                return str(cast("object", result))
        return str(result)

    def end_turn(self) -> None:
        """Judge the turn that has ended."""
        if self._turn >= len(self.task.golden):
            return
        number, golden = self._turn, self.task.golden[self._turn]
        self._turn += 1
        if golden:
            state, answers = self._source.goal(self.task.id)[number]
            left = list(self._answers)
            missing = [one for one in answers if not _take(left, one)]
            self._parts[f"turn {number + 1}: something is called"] = float(self._num_calls > 0)
            self._parts[f"turn {number + 1}: the state"] = float(self.state() == state)
            self._parts[f"turn {number + 1}: the answers"] = float(not missing)
        self._num_calls = 0

    def state(self) -> dict[str, Any]:
        """Return the public attributes of every back-end."""
        return {
            name: {key: copy.deepcopy(value) for key, value in _attributes(backend)}
            for name, backend in self._backends.items()
        }

    def parts(self, said: str) -> dict[str, float]:
        """Return what has been judged; a turn that was never ended counts as missed."""
        rest = {f"turn {n + 1}: ended": 0.0 for n in range(self._turn, len(self.task.golden))}
        return {**self._parts, **rest}


def _attributes(backend: object) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in vars(backend).items() if not key.startswith("_")]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # written by `str`
        return re.findall(r"\w+", text)


def _take(answers: list[str], one: str) -> bool:
    """Take one answer out of a list; whether it was there."""
    if one in answers:
        answers.remove(one)
        return True
    return False


def schema_of(doc: dict[str, Any]) -> Schema:
    """Turn the benchmark's description of a function into an OpenAI tool."""
    function = {"name": doc["name"], "description": doc["description"],
                "parameters": _typed(doc["parameters"])}  # fmt: skip
    return {"type": "function", "function": function}


def _typed(value: Any) -> Any:
    if isinstance(value, list):
        return [_typed(one) for one in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    whole = {key: _typed(one) for key, one in cast("dict[str, Any]", value).items()}
    kind = whole.get("type")
    return {**whole, "type": TYPES.get(kind, kind)} if isinstance(kind, str) else whole


def step_of(call: str, parameters: dict[str, list[str]]) -> Step:
    """Read a golden call such as `mv(source='a', destination='b')`; nothing is executed.

    Raises:
        DomainError: It is not one call of literals.
    """
    try:
        node = ast.parse(call.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ValueError("not one call")
        values = [ast.literal_eval(one) for one in node.args]
        named = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
    except (ValueError, SyntaxError) as error:
        raise DomainError(f"a golden call is one call of literals, got {call!r}: {error}") from None
    return Step(
        tool=node.func.id,
        arguments={**dict(zip(parameters.get(node.func.id, ()), values, strict=False)), **named},
    )


def load_bfcl(category: str) -> BfclSet:
    """Load one category from the wheel.

    Raises:
        DomainError: There is no such category, or the wheel is not installed.
    """
    if category not in CATEGORIES:
        raise DomainError(f"bfcl has {', '.join(CATEGORIES)} here, got {category!r}")
    try:
        module = importlib.import_module("bfcl_eval")
        config = importlib.import_module("bfcl_eval.constants.executable_backend_config")
        data = Path(str(module.__file__)).parent / "data"
        name = f"BFCL_v4_multi_turn_{category}.json"
        entries, answers = _lines(data / name), _lines(data / "possible_answer" / name)
        used = sorted({one for entry in entries for one in entry["involved_classes"]})
        classes = {
            one: getattr(importlib.import_module(config.CLASS_FILE_PATH_MAPPING[one]), one)
            for one in used
        }
    except ImportError as error:
        raise DomainError(
            f"bfcl:{category} needs its wheel: pip install --no-deps bfcl-eval mpmath ({error})"
        ) from None
    files: dict[str, str] = config.MULTI_TURN_FUNC_DOC_FILE_MAPPING
    docs = {one: _lines(data / "multi_turn_func_doc" / files[one]) for one in used}

    def make(name: str, scenario: dict[str, Any], is_long: bool) -> Backend:
        backend = classes[name]()
        if name not in config.STATELESS_CLASSES:
            backend._load_scenario(scenario, long_context=is_long)
        return backend

    return BfclSet(
        category, f"bfcl-eval {importlib.metadata.version('bfcl-eval')}", entries=entries,
        answers={one["id"]: one["ground_truth"] for one in answers},
        backends=Backends(make, docs),
    )  # fmt: skip


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise DomainError(f"the wheel of bfcl-eval must hold {path.name}; there is none") from None
    except (OSError, ValueError) as error:
        raise DomainError(f"cannot read {path}: {error}") from None

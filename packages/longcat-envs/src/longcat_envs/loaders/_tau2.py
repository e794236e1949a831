"""tau2-bench's airline and retail: tools from `inspect-evals`, data from there or from a checkout.

    pip install 'longcat-envs[tau2]'   # never `pip install tau2`: that is another project

The tools are the port in `inspect_evals.tau2`. A checkout of `sierra-research/tau2-bench` gives
tasks, database and policy instead of those in the wheel. An episode keeps the records that it looks
up or changes over a database that all episodes share, and is compared with the golden calls by
what they changed. This is the benchmark's own comparison, of whole databases, at a small cost.

What its scorers leave to a model (`nl_assertions`) is left out, and named in `unjudged`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from longcat_envs._database import ToolError
from longcat_envs._fields import DomainError
from longcat_envs._person import Person
from longcat_envs.tasks import Step, Talker

from ._overlay import Overlay, plain
from ._sides import SidesSet
from ._tau2_policy import airline_breaches
from ._tau2_records import Finders, follow, found_by, missing_extra, read, scenario, schema_of_tool
from ._tau2_sides import TWO_SIDED, load_two_sided
from ._types import ForeignTask, Schema, leaves

DOMAINS = {
    "airline": ("FlightDB", ("flights",), ("flights", "reservations", "users")),
    "retail": ("RetailDB", ("products",), ("orders", "products", "users")),
}
"""Domain: class of its database, tables that anybody may look through, all tables."""

FINDERS = {"users": (("email",), ("first_name", "last_name", "zip"))}
"""Table: fields by which retail's tools find a record whose key is not known."""

FREE = ("calculate", "transfer_to_human_agents")
"""Tools that touch no record."""

MAX_GOALS = 64


class Tau2Set:
    """The tasks of one domain.

    Args:
        domain: `airline` or `retail`, or any other name in tests.
        version: Where the data comes from.
        tasks: The benchmark's tasks, as its file holds them.
        policy: What the agent reads.
        tables: Records by table and key; shared by all episodes, never changed.
        toolkit: A class whose methods are the tools; they find the tables in `self.db`.
        schemas: The tools' schemas.
        free: Tools that are no methods of the toolkit, by name.
        public: Tables that anybody may look through.
        finders: Fields by which a record is found, by table.
    """

    def __init__(
        self, domain: str, version: str, *, tasks: Sequence[dict[str, Any]], policy: str,
        tables: dict[str, dict[str, Any]], toolkit: type, schemas: Sequence[Schema],
        free: dict[str, Callable[..., str]] | None = None, public: Sequence[str] = (),
        finders: Finders | None = None,
    ) -> None:  # fmt: skip
        self.name, self.version, self.library = f"tau2:{domain}", version, ""
        self._domain, self._tables, self._public = domain, tables, tuple(public)
        self._free, self._finders = free or {}, finders or {}
        # The methods alone: the class itself keeps its database in a global store.
        methods = {n: f for n, f in vars(toolkit).items() if inspect.isfunction(f)}
        own = {n: f for n, f in methods.items() if not n.startswith("__")}
        self._bound: Any = type(toolkit.__name__, (), own)
        self.tasks: Sequence[ForeignTask] = [
            self._task(raw, policy, tuple(schemas)) for raw in tasks
        ]
        self._before = self._print()
        self.goal = functools.lru_cache(maxsize=MAX_GOALS)(self._goal)
        self._by_id = {task.id: task for task in self.tasks}

    def _task(self, raw: dict[str, Any], policy: str, schemas: tuple[Schema, ...]) -> ForeignTask:
        criteria: dict[str, Any] = raw.get("evaluation_criteria") or {}
        basis = _list(criteria, "reward_basis") or ["DB", "COMMUNICATE"]
        told = _list(criteria, "communicate_info") if "COMMUNICATE" in basis else []
        calls = [
            Step(tool=action["name"], arguments=dict(action["arguments"]))
            for action in _list(criteria, "actions")
            if action.get("requestor", "assistant") == "assistant"
        ]
        return ForeignTask(
            id=str(raw["id"]), domain=self.name, system=policy, turns=(scenario(raw),),
            tools=schemas, golden=(tuple(calls),), told=tuple(str(one) for one in told),
            hints=tuple(_list(criteria, "nl_assertions")),
            unjudged=tuple(one for one in basis if one not in ("DB", "COMMUNICATE")), raw=raw,
        )  # fmt: skip

    def begin(self, task: ForeignTask) -> Tau2Session:
        """Return a fresh world for a task."""
        return Tau2Session(self, task)

    def new_tables(self) -> dict[str, Overlay]:
        """Return fresh tables over the shared ones."""
        return {name: Overlay(records) for name, records in self._tables.items()}

    def run(self, tables: dict[str, Overlay], name: str, arguments: dict[str, Any]) -> str:
        """Run one call.

        Raises:
            ToolError: The tool refused it, or it is none.
        """
        method = self._free.get(name)
        if method is None:
            holder = self._bound()
            holder.db = SimpleNamespace(**tables)
            method = getattr(holder, name, None) if name[:1] != "_" else None
        if method is None:
            raise ToolError(f"there is no tool {name[:80]!r}")
        try:
            result = method(**copy.deepcopy(arguments))
        except Exception as error:  # the benchmark answers every exception of a tool
            raise ToolError(str(error) or type(error).__name__) from None
        return result if isinstance(result, str) else json.dumps(result, default=str)

    def _goal(self, task_id: str) -> dict[str, Any]:
        session = self.begin(self._by_id[task_id])
        for step in session.task.golden[0]:
            with contextlib.suppress(ToolError):  # as the benchmark does
                session.call(step.tool, step.arguments)
        return session.state()

    def person(self, task: ForeignTask) -> Talker:
        """Return who has said the whole scenario at once, and agrees."""
        return Person(task.turns[0], "")

    def known(self, task: ForeignTask, texts: Sequence[str]) -> set[str]:
        """Return what the records hold that a text leads to, and all that is public."""
        found = {str(leaf).casefold() for one in self.records(task, texts) for leaf in leaves(one)}
        return found | self._public_values

    @functools.cached_property
    def _public_values(self) -> set[str]:
        found: set[str] = set()
        for name in self._public:
            for key, record in self._tables[name].items():
                whole = plain(record)
                found |= {str(leaf).casefold() for leaf in leaves(whole)} | {key.casefold()}
                found |= {str(key).casefold() for key in _keys(whole)}
        return found

    def records(self, task: ForeignTask, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Follow keys of private tables from the texts, and from record to record."""
        private = {name: t for name, t in self._tables.items() if name not in self._public}
        return follow(private, texts, self._found_by)

    @functools.cached_property
    def _found_by(self) -> list[tuple[str, set[str]]]:
        return found_by(self._tables, self._finders)

    def breaches(self, task: ForeignTask) -> list[str]:
        """Return which rules of the policy the golden calls break (airline)."""
        if self._domain != "airline":
            return []
        return airline_breaches(task.golden[0], self.new_tables(), self.run)

    def intact(self) -> bool:
        """Whether no episode has changed the shared tables."""
        return self._print() == self._before

    def _print(self) -> int:
        whole = {n: {k: plain(r) for k, r in t.items()} for n, t in self._tables.items()}
        return hash(json.dumps(whole, sort_keys=True, default=str))


class Tau2Session:
    """One live world."""

    def __init__(self, source: Tau2Set, task: ForeignTask) -> None:
        self._source, self.task = source, task
        self.tables = source.new_tables()

    def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """Run one call; a refusal of the tool is raised."""
        return self._source.run(self.tables, name, arguments), False

    def end_turn(self) -> None:
        """Nothing is judged before the end."""

    def state(self) -> dict[str, Any]:
        """Return what differs from the start, by table and key."""
        found = {name: table.difference() for name, table in self.tables.items()}
        return {name: changed for name, changed in found.items() if changed}

    def parts(self, said: str) -> dict[str, float]:
        """Compare the database with the golden one, and look for what must be told.

        Each value must stand in what the agent said, in lower case and without commas; the
        benchmark asks for no more than that.
        """
        text = said.lower().replace(",", "")
        same = self.state() == self._source.goal(self.task.id)
        told = {f"told {value}": float(value.lower() in text) for value in self.task.told}
        return {"the database is as after the golden calls": float(same), **told}


def load_tau2(domain: str, folder: Path | None) -> Tau2Set | SidesSet:
    """Load one domain, from the wheel or with the data of a checkout.

    Raises:
        DomainError: The domain is neither in `DOMAINS` nor in `TWO_SIDED`, the tools are not
            installed, or the folder is no checkout.
    """
    if domain in TWO_SIDED:
        return load_two_sided(domain, folder)
    if domain not in DOMAINS:
        raise DomainError(f"tau2 has {', '.join((*DOMAINS, *TWO_SIDED))}, got {domain!r}")
    try:
        module = importlib.import_module("inspect_evals.tau2")
        kit = importlib.import_module(f"inspect_evals.tau2.{domain}.{domain.title()}AgentTools")
        tools = importlib.import_module(f"inspect_evals.tau2.{domain}.tools")
        models = importlib.import_module(f"inspect_evals.tau2.{domain}.data_model")
        definition = importlib.import_module("inspect_ai.tool").ToolDef
    except ImportError as error:
        raise missing_extra(domain, error) from None
    version = f"inspect-evals {importlib.metadata.version('inspect-evals')}"
    data = Path(str(module.__file__)).parent / "data" / "domains" / domain
    if folder is not None:
        data = folder / "data" / "tau2" / "domains" / domain
        version = f"checkout, tools of {version}"
    database, public, names = DOMAINS[domain]
    whole = getattr(models, database).model_validate(read(data, "db.json"))
    found = [definition(make()) for make in getattr(tools, f"all_{domain}_tools")]
    return Tau2Set(
        domain, version, tasks=read(data, "tasks.json"), policy=_policy(data),
        tables={name: getattr(whole, name) for name in names},
        toolkit=getattr(kit, f"{domain.title()}AgentTools"),
        schemas=[schema_of_tool(one) for one in found],
        free={one.name: _now(one.tool) for one in found if one.name in FREE}, public=public,
        finders=FINDERS if domain == "retail" else None,
    )  # fmt: skip


def _policy(folder: Path) -> str:
    for name in ("policy.md", "policy.txt"):
        if (folder / name).is_file():
            return (folder / name).read_text("utf-8")
    raise DomainError(f"a checkout of tau2-bench must hold {folder / 'policy.md'}; there is none")


def _now(tool: Callable[..., Any]) -> Callable[..., str]:
    """Run a tool that is a coroutine and never waits."""

    def run(**arguments: Any) -> str:
        running = tool(**arguments)
        try:
            running.send(None)
        except StopIteration as end:
            return str(end.value)
        running.close()
        raise RuntimeError("a tool that touches no record must not wait")

    return run


def _list(criteria: dict[str, Any], name: str) -> list[Any]:
    return list(criteria.get(name) or ())


def _keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        whole = cast("dict[str, Any]", value)
        return [*whole, *(key for one in whole.values() for key in _keys(one))]
    if isinstance(value, list):
        return [key for one in cast("list[Any]", value) for key in _keys(one)]
    return []

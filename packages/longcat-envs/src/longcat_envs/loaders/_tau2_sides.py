"""tau2-bench's telecom and banking, whose persons have tools of their own, from `inspect-evals`.

In telecom the person holds a phone, which is brought in line with the carrier after each call; the
reward is what holds on either side. In banking both sides look at one database, the agent looks
things up in documents, and the reward is the database or the calls that were made.

`telecom` and `banking` are the tasks that the benchmark runs; `telecom_full` is all of telecom's.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from longcat_envs._fields import DomainError

from ._overlay import plain
from ._sides import SidesSet
from ._tau2_records import Finders, missing_extra, read, schema_of_tool
from ._tau2_ways import TELECOM

TWO_SIDED = ("telecom", "telecom_full", "banking")
PREFIX = "banking_"
"""What the port puts before the names of banking's tools; documents and golden calls leave it."""
POLICY = """<main_policy>
{main}
</main_policy>
<tech_support_policy>
{support}
</tech_support_policy>
"""
TABLES = {"plans": "plan_id", "customers": "customer_id", "lines": "line_id", "bills": "bill_id",
          "devices": "device_id"}  # fmt: skip
"""Telecom's tables, and the field that is their key."""
TELECOM_FINDERS: Finders = {"customers": (("phone_number",),), "lines": (("phone_number",),)}
BANKING_FINDERS: Finders = {"users": (("email",), ("phone_number",), ("name",))}


def load_two_sided(domain: str, folder: Path | None) -> SidesSet:
    """Load one domain from the wheel.

    Raises:
        DomainError: What it needs is not installed, or a checkout is given.
    """
    if folder is not None:
        raise DomainError(f"tau2:{domain} is read from its wheel alone; --from is for airline and "
                          "retail")  # fmt: skip
    kind = domain.partition("_")[0]
    try:
        root = importlib.import_module("inspect_evals.tau2")
        found = {
            name: importlib.import_module(f"inspect_evals.tau2.{kind}.{name}")
            for name in ("tools", "user_tools", "data_model", "environment",
                         f"{kind.title()}AgentTools", f"{kind.title()}UserTools")
        }  # fmt: skip
        if kind == "telecom":
            found |= {"user_data_model": importlib.import_module(
                "inspect_evals.tau2.telecom.user_data_model")}  # fmt: skip
        importlib.import_module("inspect_ai.tool")
    except ImportError as error:
        raise missing_extra(domain, error) from None
    data = Path(str(root.__file__)).parent / "data" / "domains"
    version = f"inspect-evals {importlib.metadata.version('inspect-evals')}"
    if kind == "telecom":
        return _telecom(domain, version, found, data / "telecom")
    return _banking(version, found, data / "banking_knowledge")


def bare(toolkit: Any) -> Callable[[], Any]:
    """Return what makes a toolkit without its store: methods, properties, fresh default fields.

    The class itself keeps its fields in a store that all its instances share.
    """
    whole = cast("dict[str, Any]", vars(toolkit))
    own = {name: value for name, value in whole.items()
           if (inspect.isfunction(value) or isinstance(value, property))
           and not name.startswith("__")}  # fmt: skip
    kind = type(toolkit.__name__, (), own)
    fields: dict[str, Any] = {name: field for name, field in toolkit.model_fields.items()
                              if name not in ("db", "instance")}  # fmt: skip

    def make() -> Any:
        holder: Any = kind()
        for name, field in fields.items():
            setattr(holder, name, field.get_default(call_default_factory=True))
        return holder

    return make


class TelecomSides:
    """A carrier and a phone.

    Args:
        agent: The carrier's tools, with `db`.
        person: The phone's tools, with `db`.
        link: Makes the benchmark's own object that keeps the two in line by `sync_tools`.
    """

    def __init__(self, agent: Any, person: Any, link: Callable[..., Any]) -> None:
        self.agent, self.person = agent, person
        self._known = {bill.bill_id for bill in agent.db.bills}
        self._link: Any = link(user_tools=person, tools=agent)

    def sync(self) -> None:
        """Bring the phone in line with the carrier; name new bills by their number."""
        self._link.sync_tools()
        bills, customers = self.agent.db.bills, self.agent.db.customers
        for number, bill in enumerate(bills, start=1):
            if bill.bill_id in self._known or not re.fullmatch(r"B[0-9a-f]{8}", bill.bill_id):
                continue  # named by a task
            new = f"B{9000 + number}"  # the benchmark draws it at random
            for customer in customers:
                customer.bill_ids = [new if i == bill.bill_id else i for i in customer.bill_ids]
            bill.bill_id = new
            self._known.add(new)

    def records(self) -> dict[str, dict[str, Any]]:
        """Return the carrier's records, the phone and what is around it."""
        found = {
            name: {str(getattr(one, key)): plain(one) for one in getattr(self.agent.db, name)}
            for name, key in TABLES.items()
        }
        return {**found, "phone": {"phone": plain(self.person.db)}}


def _telecom(domain: str, version: str, found: dict[str, Any], data: Path) -> SidesSet:
    agent, person = (
        bare(found["TelecomAgentTools"].TelecomAgentTools),
        bare(found["TelecomUserTools"].TelecomUserTools),
    )
    carrier = found["data_model"].TelecomDB.load(str(data / "db.toml"))
    phone = found["user_data_model"].TelecomUserDB.load(str(data / "user_db.toml"))
    tasks: list[dict[str, Any]] = read(data, "tasks.json")
    if domain == "telecom":
        base = set(read(data, "split_tasks.json")["base"])
        tasks = [one for one in tasks if one["id"] in base]

    def make(initial: dict[str, Any]) -> TelecomSides:
        one, other = agent(), person()
        one.db, other.db = carrier.model_copy(deep=True), phone.model_copy(deep=True)
        return TelecomSides(one, other, found["environment"].Environment)

    return SidesSet(
        f"tau2:{domain}", version, tasks=tasks,
        policy=POLICY.format(main=_text(data, "main_policy.txt"),
                             support=_text(data, "tech_support_manual.txt")),
        schemas=_schemas(found["tools"].all_telecom_agent_tools),
        acts=_schemas(found["user_tools"].all_telecom_user_tools),
        make=make, ways=TELECOM, finders=TELECOM_FINDERS,
    )  # fmt: skip


class BankingSides:
    """Two toolkits over one database.

    Args:
        agent: The agent's tools, with `db`.
        person: The person's tools.
        initial: Tables that are merged into the database first.
    """

    def __init__(self, agent: Any, person: Any, initial: dict[str, Any]) -> None:
        self.agent, self.person = agent, person
        data: dict[str, dict[str, Any]] = initial.get("agent_data") or {}
        for name, update in data.items():
            table = getattr(agent.db, name, None)
            if table is not None:
                merge(table.data, update.get("data", update))
        person.db = agent.db

    def sync(self) -> None:
        """Nothing: it is one database."""

    def records(self) -> dict[str, dict[str, Any]]:
        """Return every table's records."""
        names: list[str] = list(self.agent.db.__class__.model_fields)
        return {name: dict(getattr(self.agent.db, name).data) for name in names}


def merge(base: dict[str, Any], update: dict[str, Any]) -> None:
    """Put an update into a dictionary, deep down."""
    for key, value in update.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merge(cast("dict[str, Any]", old), cast("dict[str, Any]", value))
        else:
            base[key] = copy.deepcopy(value)


def _banking(version: str, found: dict[str, Any], data: Path) -> SidesSet:
    agent = bare(found["BankingAgentTools"].BankingAgentTools)
    person = bare(found["BankingUserTools"].BankingUserTools)
    base = found["data_model"].TransactionalDB.model_validate(read(data, "db.json"))
    documents: list[dict[str, str]] = read(data, "documents.json")
    library = found["data_model"].KnowledgeBase(documents={one["id"]: one for one in documents})

    def make(initial: dict[str, Any]) -> BankingSides:
        one, other = agent(), person()
        one.db, one.grep = base.model_copy(deep=True), library.grep
        return BankingSides(one, other, initial)

    tools = [*found["tools"].all_banking_agent_tools, found["tools"].banking_grep]
    return SidesSet(
        "tau2:banking", version, tasks=read(data, "tasks.json"), policy=_banking_policy(data),
        schemas=_schemas(tools), acts=_schemas(found["user_tools"].all_banking_user_tools),
        make=make, finders=BANKING_FINDERS,
        library="\n".join(one["content"] for one in documents),
    )  # fmt: skip


def _banking_policy(data: Path) -> str:
    """Return the rules of an agent that looks things up by pattern."""
    parts = data / "prompts" / "components"
    text = _text(data / "prompts", "grep_only.md")
    return re.sub(r"\{\{component:(\w+)\}\}", lambda m: _text(parts, f"{m[1]}.md"), text)


def _schemas(makers: Sequence[Any]) -> list[dict[str, Any]]:
    definition = importlib.import_module("inspect_ai.tool").ToolDef
    found = [schema_of_tool(definition(make())) for make in makers]
    for one in found:
        one["function"]["name"] = one["function"]["name"].removeprefix(PREFIX)
    return found


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text("utf-8")
    except OSError as error:
        raise DomainError(f"the wheel of inspect-evals must hold {name}: {error}") from None

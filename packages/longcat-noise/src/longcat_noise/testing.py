"""A small clinic to try noise on: readers with a second source, and writes of three sorts.

book_visit     acts twice if sent twice; `list_visits` shows whether it has happened
cancel_visit   idempotent
pay            knows a `request_id` again
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._contract import read_arguments
from ._kind import compact

PATIENTS = {"P17": ("Ada Berg", "Oslo"), "P23": ("Ben Ito", "Kyoto"), "P31": ("李雷", "苏州")}

CONTRACTS: list[dict[str, Any]] = [
    {"name": "find_patient", "reads": ["patient.name", "patient.city"], "parameters": ["name"]},
    {"name": "look_up", "reads": ["patient.name", "patient.city"], "parameters": ["name"]},
    {"name": "list_visits", "reads": ["visit.day", "visit.state"], "parameters": ["patient_id"]},
    {"name": "get_balance", "reads": ["account.paid"], "parameters": ["patient_id"]},
    {
        "name": "book_visit",
        "reads": ["patient.name"],
        "writes": ["visit.day", "visit.state"],
        "parameters": ["patient_id", "day"],
    },
    {
        "name": "cancel_visit",
        "writes": ["visit.state"],
        "idempotent": True,
        "parameters": ["visit_id"],
    },
    {
        "name": "pay",
        "writes": ["account.paid"],
        "key": "request_id",
        "parameters": ["patient_id", "amount", "request_id"],
    },
]


@dataclass(frozen=True, slots=True)
class Opening:
    """What `reset` returns."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Result:
    """What `call` returns."""

    content: str
    is_error: bool = False


@dataclass(slots=True)
class Clinic:
    """The clinic as an environment, synchronous.

    Args:
        request: What the person says first.
        visits: Goal: (patient, day) of each visit that is booked at the end.
        paid: Goal: what each patient has paid.
    """

    request: str = ""
    goal_visits: list[list[str]] = field(default_factory=list[list[str]])
    goal_paid: dict[str, int] = field(default_factory=dict[str, int])
    visits: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    paid: dict[str, int] = field(default_factory=dict[str, int])
    requests: set[str] = field(default_factory=set[str])
    num_calls: int = 0

    def reset(self) -> Opening:
        """Begin with no visits."""
        self.visits, self.paid, self.requests, self.num_calls = [], {}, set(), 0
        tools = [{"type": "function", "function": contract} for contract in CONTRACTS]
        return Opening([{"role": "user", "content": self.request}], tools)

    def call(self, tool_call: Mapping[str, Any]) -> Result:
        """Run a call."""
        self.num_calls += 1
        function = tool_call["function"]
        arguments = read_arguments(function["arguments"])
        try:
            return Result(compact(getattr(self, f"_{function['name']}")(**arguments)))
        except (AttributeError, TypeError, LookupError) as error:
            return Result(compact({"error": str(error)}), is_error=True)

    def _find_patient(self, name: str) -> dict[str, str]:
        for patient_id, (known, city) in PATIENTS.items():
            if known == name:
                return {"patient_id": patient_id, "name": known, "city": city}
        raise LookupError(f"no patient {name}")

    _look_up = _find_patient

    def _list_visits(self, patient_id: str) -> list[dict[str, str]]:
        return [visit for visit in self.visits if visit["patient_id"] == patient_id]

    def _get_balance(self, patient_id: str) -> dict[str, Any]:
        return {"patient_id": patient_id, "paid": self.paid.get(patient_id, 0)}

    def _book_visit(self, patient_id: str, day: str) -> dict[str, str]:
        PATIENTS[patient_id]
        visit = {"visit_id": f"V{len(self.visits) + 1}", "patient_id": patient_id, "day": day,
                 "state": "booked"}  # fmt: skip
        self.visits.append(visit)
        return visit

    def _cancel_visit(self, visit_id: str) -> dict[str, str]:
        visit = next((v for v in self.visits if v["visit_id"] == visit_id), None)
        if visit is None:
            raise LookupError(f"no visit {visit_id}")
        visit["state"] = "cancelled"
        return visit

    def _pay(self, patient_id: str, amount: int, request_id: str = "") -> dict[str, Any]:
        PATIENTS[patient_id]
        if not request_id or request_id not in self.requests:
            self.paid[patient_id] = self.paid.get(patient_id, 0) + amount
            self.requests.add(request_id)
        return {"patient_id": patient_id, "paid": self.paid[patient_id]}

    def reply(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """Agree to questions; anything else ends the talk."""
        asks = "?" in str(message.get("content"))
        return {"role": "user", "content": "Yes, please go on with that."} if asks else None

    def score(self) -> float:
        """Return 1 if visits and payments are as wanted, else 0."""
        booked = sorted([v["patient_id"], v["day"]] for v in self.visits if v["state"] == "booked")
        return float(booked == sorted(self.goal_visits) and self.paid == self.goal_paid)

    def close(self) -> None:
        """Nothing is held."""


def clinic(task: Mapping[str, Any]) -> Clinic:
    """Return the world of a task of `tasks`; for `--world longcat_noise.testing:clinic`."""
    return Clinic(task["opening"], task["goal_visits"], task["goal_paid"])


def tasks(number: int) -> list[dict[str, Any]]:
    """Return tasks in English and Chinese, some with a question, a second chain, a payment.

    Example:
        >>> tasks(1)[0]["opening"]
        'Please book a visit for Ada Berg on 2026-05-01.'
    """
    return [_task(index) for index in range(number)]


def _task(index: int) -> dict[str, Any]:
    patient_id = list(PATIENTS)[index % 3]
    name, day = PATIENTS[patient_id][0], f"2026-05-{1 + index % 28:02d}"
    pays = index % 2 == 1
    opening = f"Please book a visit for {name} on {day}." + (" I pay 40 now." if pays else "")
    if patient_id == "P31":
        opening = f"请给{name}预约{day}的门诊。" + ("我现在付40元。" if pays else "")
    book = {"tool": "book_visit", "arguments": {"patient_id": patient_id, "day": day}}
    rest: list[dict[str, Any]] = [{"say": "Shall I book it?"}, book] if index % 5 == 0 else [book]
    if pays:
        arguments = {"patient_id": patient_id, "amount": 40, "request_id": f"R{index}"}
        rest.append({"tool": "pay", "arguments": arguments})
    find = [{"tool": tool, "arguments": {"name": name}} for tool in ("find_patient", "look_up")]
    raw = {
        "id": f"clinic-{index}", "opening": opening, "answer": "That is done.",
        "chains": [[first, *rest] for first in find], "goal_visits": [[patient_id, day]],
        "goal_paid": {patient_id: 40} if pays else {}, "max_turns": 8,
    }  # fmt: skip
    return json.loads(json.dumps(raw))

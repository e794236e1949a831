"""Rules of tau2's airline policy that can be checked without judgement, written from its text.

What depends on what the person says (a reason, a wish) is taken in the agent's favour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from longcat_envs._database import ToolError
from longcat_envs.tasks import Step

from ._overlay import Overlay, plain

NOW = "2024-05-15T15:00:00"
YESTERDAY = "2024-05-14T15:00:00"
TODAY = NOW[:10]
FLOWN = ("flying", "landed")
CHANGES = ("cancel_reservation", "update_reservation_flights")
BAGS = {
    "regular": {"basic_economy": 0, "economy": 1, "business": 2},
    "silver": {"basic_economy": 1, "economy": 2, "business": 3},
    "gold": {"basic_economy": 2, "economy": 3, "business": 4},
}
MAX_PASSENGERS = 5
MAX_OF = {"certificate": 1, "credit_card": 1, "gift_card": 3}
GESTURES = {"cancelled": 100, "delayed": 50}

Run = Callable[[dict[str, Overlay], str, dict[str, Any]], str]


def airline_breaches(golden: Sequence[Step], tables: dict[str, Overlay], run: Run) -> list[str]:
    """Replay calls; say before each which rule it breaks."""
    found: list[str] = []
    for step in golden:
        look = RULES.get(step.tool)
        if look is not None:
            world = _World(tables, golden)
            try:
                found += [f"{step.tool}: {rule}" for rule in look(world, step.arguments)]
            except (KeyError, TypeError, ValueError) as error:
                found.append(f"{step.tool}: names what is not there ({error})")
        try:
            run(tables, step.tool, step.arguments)
        except ToolError:
            continue
    return found


class _World:
    """The records that the rules look at, as they are before a call."""

    def __init__(self, tables: dict[str, Overlay], golden: Sequence[Step]) -> None:
        self._tables, self.golden = tables, golden

    def reservation(self, key: str) -> dict[str, Any]:
        return plain(self._tables["reservations"].look(key))

    def user(self, key: str) -> dict[str, Any]:
        return plain(self._tables["users"].look(key))

    def flight(self, number: str) -> dict[str, Any]:
        return plain(self._tables["flights"].look(number))

    def status(self, leg: dict[str, Any]) -> str:
        """Status of a flight on its day; a day that is past and not listed has been flown."""
        day = self.flight(leg["flight_number"])["dates"].get(leg["date"], {})
        return "landed" if leg["date"] < TODAY else day.get("status", "")

    def free_bags(self, user: str, cabin: str, num_passengers: int) -> int:
        return BAGS[self.user(user)["membership"]][cabin] * num_passengers

    def has_flown(self, reservation: dict[str, Any]) -> bool:
        return any(self.status(leg) in FLOWN for leg in reservation["flights"])


def _cancel(world: _World, given: dict[str, Any]) -> list[str]:
    one = world.reservation(given["reservation_id"])
    if world.has_flown(one):
        return ["a portion of the flight has been flown"]
    is_fresh = YESTERDAY <= one["created_at"] <= NOW
    is_cancelled = any(world.status(leg) == "cancelled" for leg in one["flights"])
    if is_fresh or is_cancelled or one["cabin"] == "business" or one["insurance"] == "yes":
        return []
    return ["neither fresh, nor cancelled by the airline, nor business, nor insured"]


def _change(world: _World, given: dict[str, Any]) -> list[str]:
    one, found = world.reservation(given["reservation_id"]), list[str]()
    legs = [(leg["flight_number"], leg["date"]) for leg in given["flights"]]
    has_new = legs != [(leg["flight_number"], leg["date"]) for leg in one["flights"]]
    if has_new and one["cabin"] == "basic_economy":
        found.append("basic economy flights cannot be modified")
    if given["cabin"] != one["cabin"] and world.has_flown(one):
        found.append("the cabin cannot be changed once a flight has been flown")
    if has_new and not _reaches(world, one, [number for number, _ in legs]):
        found.append("origin, destination and trip type must stay")
    return found


def _reaches(world: _World, one: dict[str, Any], numbers: Sequence[str]) -> bool:
    """Whether flights lead from origin to destination, and back if they must."""
    flights = [world.flight(number) for number in numbers]
    stops = [flight["destination"] for flight in flights]
    end = one["origin"] if one["flight_type"] == "round_trip" else one["destination"]
    starts = flights[0]["origin"] == one["origin"]
    return starts and one["destination"] in stops and stops[-1] == end


def _bags(world: _World, given: dict[str, Any]) -> list[str]:
    one, found = world.reservation(given["reservation_id"]), list[str]()
    if given["total_baggages"] < one["total_baggages"]:
        found.append("checked bags cannot be removed")
    free = world.free_bags(one["user_id"], one["cabin"], len(one["passengers"]))
    if given["nonfree_baggages"] != max(0, given["total_baggages"] - free):
        found.append(f"{free} bags are free")
    return found


def _book(world: _World, given: dict[str, Any]) -> list[str]:
    found: list[str] = []
    if len(given["passengers"]) > MAX_PASSENGERS:
        found.append("at most five passengers")
    owned = world.user(given["user_id"])["payment_methods"]
    kinds = [owned[method["payment_id"]]["source"] for method in given["payment_methods"]]
    found += [f"at most {most} of {kind}" for kind, most in MAX_OF.items()
              if kinds.count(kind) > most]  # fmt: skip
    free = world.free_bags(given["user_id"], given["cabin"], len(given["passengers"]))
    if given["nonfree_baggages"] != max(0, given["total_baggages"] - free):
        found.append(f"{free} bags are free")
    return found


def _compensate(world: _World, given: dict[str, Any]) -> list[str]:
    """Some reservation of the person must be a reason for a certificate of that amount."""
    user = world.user(given["user_id"])
    changed = {s.arguments.get("reservation_id") for s in world.golden if s.tool in CHANGES}
    for key in user["reservations"]:
        one = world.reservation(key)
        is_kept = user["membership"] == "regular" and one["insurance"] != "yes"
        if is_kept and one["cabin"] != "business":
            continue
        statuses = {world.status(leg) for leg in one["flights"]}
        for status, amount in GESTURES.items():
            is_due = status == "cancelled" or key in changed
            if status in statuses and is_due and amount * len(one["passengers"]) == given["amount"]:
                return []
    return ["no reservation is a reason for a certificate of this amount"]


RULES: dict[str, Callable[[_World, dict[str, Any]], list[str]]] = {
    "cancel_reservation": _cancel, "update_reservation_flights": _change,
    "update_reservation_baggages": _bags, "book_reservation": _book,
    "send_certificate": _compensate,
}  # fmt: skip

"""Noise around your own tools: what an agent that never looks twice loses, and one that does keeps.

    pip install longcat-noise        python noise_around_your_tools.py

Three plain functions book a room. Two agents use them: one takes every answer as it comes, one
asks again when a call failed and looks whether it was booked. It prints how many of 200 bookings
each makes at rising levels of noise, and what befell one episode.
"""

import contextlib

from longcat_noise import TOOL_KINDS, NoiseConfig, NoisyFailureError, NoisyTools

CONTRACTS = [
    {"name": "free_rooms", "reads": ["room.guest"]},
    {"name": "book", "reads": ["room.guest"], "writes": ["room.guest"]},
    {"name": "guest_of", "reads": ["room.guest"]},
]


class Hotel:
    """Your tools: any object with methods, or a dictionary of functions."""

    def __init__(self):
        self.rooms = {"101": "", "102": "Ada", "103": ""}

    def free_rooms(self):
        return [room for room, guest in self.rooms.items() if not guest]

    def book(self, room, guest):
        self.rooms[room] = guest
        return {"booked": room}

    def guest_of(self, room):
        return {"room": room, "guest": self.rooms[room]}


def hasty(tools):
    try:
        tools.book(room=tools.free_rooms()[0], guest="Grace")
    except (NoisyFailureError, IndexError, KeyError, TypeError):
        tools.book(room="103", guest="Grace")  # another room, without a look at what happened


def patient(tools):
    room = asked_again(lambda: next(r for r in tools.free_rooms() if r in ("101", "103")))
    for _ in range(4):
        asked_again(lambda: tools.book(room=room, guest="Grace"))
        if asked_again(lambda: tools.guest_of(room=room)["guest"]) == "Grace":
            return


def asked_again(call, times=6):
    for _ in range(times):
        try:
            return call()
        except (NoisyFailureError, StopIteration, LookupError, TypeError):
            pass
    return None


def rooms_after(agent, level, episode):
    hotel = Hotel()
    config = NoiseConfig(level=level, tool_kinds=TOOL_KINDS)
    tools = NoisyTools(hotel, config, episode=episode, contracts=CONTRACTS)
    with contextlib.suppress(NoisyFailureError, LookupError, TypeError):
        agent(tools)
    return sum(guest == "Grace" for guest in hotel.rooms.values()), tools.log


if __name__ == "__main__":
    print("level  hasty  patient")
    for level in (0.0, 0.3, 0.6, 0.9):
        row = [f"{level:5}"]
        for agent in (hasty, patient):
            booked = [rooms_after(agent, level, f"guest {n}")[0] for n in range(200)]
            row.append(f"{booked.count(1):5}")
        print("  ".join(row))
    _, log = rooms_after(patient, 0.9, "guest 3")
    print("one episode:", ", ".join(f"{met['kind']} at {met['tool']}" for met in log) or "nothing")

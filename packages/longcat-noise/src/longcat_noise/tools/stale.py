"""What the same read answered before, from a cache that says so; asking again is answered anew.

Never on a read by which a lost acknowledgement is found out.
"""

from longcat_noise._kind import READERS, Circumstance, Scene, ToolKind

MARK = "[cached, may be out of date] "


def act(scene: Scene) -> str | None:
    """Show the earlier answer, if it differs."""
    if scene.earlier is None or scene.earlier == scene.content:
        return None
    return MARK + scene.earlier


def may(at: Circumstance) -> bool:
    """Whether nobody relies on this read to see whether a write has happened."""
    return "lost_ack" not in at.kinds or at.contract.name not in at.checkers


STALE = ToolKind(
    name="stale", is_explicit=True, roles=READERS, survival="retry", extra_turns=1, act=act, may=may
)

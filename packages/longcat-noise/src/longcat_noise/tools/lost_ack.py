"""A write happens and its acknowledgement is lost: the error says that the outcome is unknown.

Only where somebody can find out: by a read of what the write writes, by a key that the tool knows
again, or because doing it twice is doing it once.
"""

from longcat_noise._kind import Circumstance, Scene, ToolKind

UNKNOWN = "504 gateway timeout, the outcome is unknown"


def act(scene: Scene) -> str:
    """Hide the acknowledgement."""
    way = "check before trying again"
    if scene.contract.is_idempotent or scene.contract.key:
        way = "the same call may be sent again"
    return scene.contract.fail(f"{UNKNOWN}, {way}")


def may(at: Circumstance) -> bool:
    """Whether the outcome can be found out."""
    if at.contract.is_idempotent or (at.contract.key and at.call.arguments.get(at.contract.key)):
        return True
    return not at.contract.key and at.book.check(at.call, at.chain) is not None


LOST_ACK = ToolKind(
    name="lost_ack", is_explicit=True, roles=frozenset({"writer"}), is_error=True,
    survival="re-read", extra_turns=1, act=act, may=may,
)  # fmt: skip

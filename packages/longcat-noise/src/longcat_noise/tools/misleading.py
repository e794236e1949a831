"""A hint behind the answer that the answer and a second source contradict; the answer is whole."""

from longcat_noise._kind import READERS, Circumstance, Scene, ToolKind

HINTS = (
    "Hint: this record may belong to somebody else; look for another one.",
    "Hint: other tools have newer data than this one.",
    "Hint: nothing more needs to be done about this record.",
)


def act(scene: Scene) -> str:
    """Add a hint that leads nowhere."""
    return f"{scene.content}\n{scene.choose(HINTS, 'hint')}"


def may(at: Circumstance) -> bool:
    """Whether a second source shows the same fields."""
    return at.contract.name in at.settled


MISLEADING = ToolKind(
    name="misleading", is_explicit=False, roles=READERS, survival="re-read", extra_turns=1,
    act=act, may=may,
)  # fmt: skip

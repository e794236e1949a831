"""A read that breaks off in the middle and says so; asking again shows the whole."""

from longcat_noise._kind import READERS, Scene, ToolKind

MARK = "... [truncated]"


def act(scene: Scene) -> str | None:
    """Keep between a quarter and three quarters of the text."""
    if len(scene.content) < 8:
        return None
    share = 0.25 + scene.number("cut") / 2
    return scene.content[: int(len(scene.content) * share)] + MARK


TRUNCATED = ToolKind(
    name="truncated", is_explicit=True, roles=READERS, survival="retry", extra_turns=1, act=act
)

"""Boilerplate around the answer, which stands there whole."""

from longcat_noise._kind import ALL_ROLES, Scene, ToolKind

NOTES = ("status ok", "cached", "page 1 of 1")


def act(scene: Scene) -> str:
    """Put a note before the answer."""
    return f"{scene.choose(NOTES, 'padding')} {scene.content}"


PADDING = ToolKind(
    name="padding", is_explicit=False, roles=ALL_ROLES, survival="ignore", extra_turns=0, act=act
)

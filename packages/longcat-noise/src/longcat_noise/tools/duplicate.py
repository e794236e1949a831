"""An answer that is delivered twice; the tool itself was called once."""

from longcat_noise._kind import ALL_ROLES, Scene, ToolKind


def act(scene: Scene) -> str:
    """Say the answer twice."""
    return f"{scene.content}\n{scene.content}"


DUPLICATE = ToolKind(
    name="duplicate", is_explicit=False, roles=ALL_ROLES, survival="ignore", extra_turns=0, act=act
)

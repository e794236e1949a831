"""A tool that is not there at present and comes back: the call did not happen."""

from longcat_noise._kind import ALL_ROLES, Scene, ToolKind


def act(scene: Scene) -> str:
    """Say that the tool is absent for now."""
    return scene.contract.fail(f"{scene.contract.name} is not available at present, try again")


VANISH = ToolKind(
    name="vanish", is_explicit=True, roles=ALL_ROLES, is_before=True, is_error=True,
    survival="retry", extra_turns=1, act=act,
)  # fmt: skip

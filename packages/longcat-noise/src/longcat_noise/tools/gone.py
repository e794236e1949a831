"""A tool that stays away for the whole episode, only where another chain does without it.

Whether it is gone is drawn once an episode (`ToolNoise.gone`), not call by call.
"""

from longcat_noise._kind import ALL_ROLES, Scene, ToolKind

WORDS = "has been withdrawn"


def act(scene: Scene) -> str:
    """Say that the tool will not come back."""
    return scene.contract.fail(f"{scene.contract.name} {WORDS}, use another tool")


GONE = ToolKind(
    name="gone", is_explicit=True, is_permanent=True, roles=ALL_ROLES, is_before=True,
    is_error=True, survival="re-route", extra_turns=1, act=act,
    may=lambda _: False,  # never drawn for a single call
)  # fmt: skip

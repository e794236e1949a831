"""An error in place of the answer; the call did not happen; trying again helps."""

from longcat_noise._kind import ALL_ROLES, Scene, ToolKind

FAILURES = (
    "429 too many requests, try again",
    "503 service unavailable, try again",
    "408 request timeout, nothing was done, try again",
)


def act(scene: Scene) -> str:
    """Word a failure as the tool itself would."""
    return scene.contract.fail(scene.choose(FAILURES, "failure"))


FAILURE = ToolKind(
    name="failure", is_explicit=True, roles=ALL_ROLES, is_before=True, is_error=True,
    survival="retry", extra_turns=1, act=act,
)  # fmt: skip

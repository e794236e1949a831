"""An answer that comes late, on a virtual clock: `NoisyResult.latency_s`; nobody really waits."""

from longcat_noise._kind import ALL_ROLES, Scene, ToolKind

MAX_LATENCY_S = 30.0


def act(scene: Scene) -> str:
    """Leave the answer as it is."""
    return scene.content


def latency_s(scene: Scene) -> float:
    """Return how late the answer comes, from 1 to `MAX_LATENCY_S` seconds."""
    return 1 + scene.number("latency") * (MAX_LATENCY_S - 1)


LATENCY = ToolKind(
    name="latency", is_explicit=False, roles=ALL_ROLES, survival="ignore", extra_turns=0, act=act
)

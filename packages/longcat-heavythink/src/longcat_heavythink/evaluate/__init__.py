"""How good is it, at how many tokens: metrics with intervals, and a solver of known accuracy."""

from ._metrics import (
    Estimate,
    Problem,
    Row,
    bootstrap,
    evaluate,
    mean_at,
    pass_at,
    read_problems,
    vote_at,
)
from ._simulate import SimulatedSolver

__all__ = [
    "Estimate", "Problem", "Row", "SimulatedSolver", "bootstrap", "evaluate", "mean_at", "pass_at",
    "read_problems", "vote_at",
]  # fmt: skip

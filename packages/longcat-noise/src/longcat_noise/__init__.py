"""Imperfect users and tools, reproducible and bounded."""

from ._curriculum import CurriculumConfig, NoiseCurriculum
from ._draw import Draw
from ._noise import TOOL_KINDS, USER_KINDS, NoiseConfig, disturb_request, disturb_result, tool_kind
from ._wrap import NoisyEnvironment, NoisyResult

__all__ = [
    "TOOL_KINDS", "USER_KINDS", "CurriculumConfig", "Draw", "NoiseConfig", "NoiseCurriculum",
    "NoisyEnvironment", "NoisyResult", "disturb_request", "disturb_result", "tool_kind",
]  # fmt: skip

"""Imperfect users and tools, reproducible, bounded, and certified to be solvable."""

from ._agents import HABITS
from ._apply import NoisyResult
from ._callables import NoisyFailureError, NoisyTools, noisy_function
from ._certify import Certificate, Refusal, certify, certify_async
from ._contract import Book, Call, Contract
from ._curriculum import CurriculumConfig, NoiseCurriculum
from ._draw import Draw
from ._noise import TOOL_KINDS, USER_KINDS, NoiseConfig, disturb_request, disturb_result
from ._task import NoiseTask, read_jsonl
from ._wrap import NoisyEnvironment

__all__ = [
    "HABITS", "TOOL_KINDS", "USER_KINDS", "Book", "Call", "Certificate", "Contract",
    "CurriculumConfig", "Draw", "NoiseConfig", "NoiseCurriculum", "NoiseTask", "NoisyEnvironment",
    "NoisyFailureError", "NoisyResult", "NoisyTools", "Refusal", "certify", "certify_async",
    "disturb_request", "disturb_result", "noisy_function", "read_jsonl",
]  # fmt: skip

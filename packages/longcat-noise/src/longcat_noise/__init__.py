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
from ._written import Written, write_turns

__all__ = [
    "HABITS", "TOOL_KINDS", "USER_KINDS", "Book", "Call", "Certificate", "Contract",
    "CurriculumConfig", "Draw", "NoiseConfig", "NoiseCurriculum", "NoiseTask", "NoisyEnvironment",
    "NoisyFailureError", "NoisyResult", "NoisyTools", "Refusal", "Written", "certify",
    "certify_async", "disturb_request", "disturb_result", "noisy_function", "read_jsonl",
    "write_turns",
]  # fmt: skip

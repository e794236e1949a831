"""Think K times in parallel, then once about the K answers."""

from ._agents import EpisodeModel
from ._budget import Budget, Price
from ._conversation import Conversation
from ._events import (
    CallDelta,
    CallFinished,
    CallRetried,
    CallStarted,
    Event,
    FellBack,
    RunFinished,
    StageDecided,
    StageStarted,
)
from ._journal import Journal, ReplayError, read_journal
from ._models import Complete, Model
from ._normalise import final_answer, normalise
from ._page import journal_page
from ._panel import Panel
from ._prompts import CHINESE, ENGLISH, Prompts
from ._replies import Call, Delta, Failure, FailureKind, Reply, Timing, ToolCall, Usage
from ._scorers import Judge, RewardEndpoint
from ._think import HeavyAnswer, HeavyConfig, summary_prompt, think
from ._thoughts import split_thoughts, strip_thoughts
from .schedule import (
    Best,
    HeavyThinkError,
    Record,
    Sample,
    Schedule,
    Scorer,
    Summarise,
    Tournament,
    Vote,
    best_of,
    confidence_vote,
    genselect,
    heavy,
    pacore,
    parse_schedule,
    plain,
    rsa,
    vote,
)
from .transport import Endpoint, EndpointConfig, Retry, openai_complete

__all__ = [
    "CHINESE",
    "ENGLISH",
    "Best",
    "Budget",
    "Call",
    "CallDelta",
    "CallFinished",
    "CallRetried",
    "CallStarted",
    "Complete",
    "Conversation",
    "Delta",
    "Endpoint",
    "EndpointConfig",
    "EpisodeModel",
    "Event",
    "Failure",
    "FailureKind",
    "FellBack",
    "HeavyAnswer",
    "HeavyConfig",
    "HeavyThinkError",
    "Journal",
    "Judge",
    "Model",
    "Panel",
    "Price",
    "Prompts",
    "Record",
    "ReplayError",
    "Reply",
    "Retry",
    "RewardEndpoint",
    "RunFinished",
    "Sample",
    "Schedule",
    "Scorer",
    "StageDecided",
    "StageStarted",
    "Summarise",
    "Timing",
    "ToolCall",
    "Tournament",
    "Usage",
    "Vote",
    "best_of",
    "confidence_vote",
    "final_answer",
    "genselect",
    "heavy",
    "journal_page",
    "normalise",
    "openai_complete",
    "pacore",
    "parse_schedule",
    "plain",
    "read_journal",
    "rsa",
    "split_thoughts",
    "strip_thoughts",
    "summary_prompt",
    "think",
    "vote",
]

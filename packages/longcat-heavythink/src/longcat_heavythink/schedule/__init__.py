"""How wide and how deep to think: one language for heavy thinking and its relatives."""

from ._language import (
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
from ._records import HeavyThinkError, Outcome, Record, RunSettings, Scorer
from ._runner import Runner
from ._stages import Best, Sample, Schedule, Stage, Summarise, Tournament, Vote
from ._votes import Group, group_replies, is_decided, vote_key

__all__ = [
    "Best", "Group", "HeavyThinkError", "Outcome", "Record", "RunSettings", "Runner", "Sample",
    "Schedule", "Scorer", "Stage", "Summarise", "Tournament", "Vote", "best_of", "confidence_vote",
    "genselect", "group_replies", "heavy", "is_decided", "pacore", "parse_schedule", "plain",
    "rsa", "vote", "vote_key",
]  # fmt: skip

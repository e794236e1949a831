"""Anybody's agent in these worlds: models behind endpoints, pass^k and pass@k with intervals."""

from ._endpoint import Endpoint, ModelError, ModelPolicy
from ._judge import Judgement, WindowJudge, agreement, read_verdicts, rubrics_of, windows
from ._person import ModelHands, ModelPerson, foreign_person_by, person_by
from ._results import counted, pass_at, pass_hat, pass_rates, summary, wilson
from ._trials import AnyPolicy, AnyTask, Trial, read_trials, run_trials

__all__ = [
    "AnyPolicy", "AnyTask", "Endpoint", "Judgement", "ModelError", "ModelHands", "ModelPerson",
    "ModelPolicy", "Trial", "WindowJudge", "agreement", "counted", "foreign_person_by", "pass_at",
    "pass_hat", "pass_rates",
    "person_by", "read_trials", "read_verdicts", "rubrics_of", "run_trials", "summary", "wilson",
    "windows",
]  # fmt: skip

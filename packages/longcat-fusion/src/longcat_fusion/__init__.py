"""Many expert checkpoints into one, never wrong in silence, in a fixed memory."""

from ._config import ByName, Gradient, MergeConfig, Rule, method_of
from ._folders import Progress, merge_folders, run_plan
from ._interference import Interference, interference
from ._kinds import KINDS, PROTECTED, kind_of
from ._merge import merge, merge_tensor
from ._methods import (
    METHODS,
    Breadcrumbs,
    Dare,
    Della,
    IsoC,
    Karcher,
    Linear,
    Method,
    Ram,
    Recipe,
    ResMerge,
    Sce,
    Slerp,
    TaskArithmetic,
    Ties,
)
from ._plan import Plan, plan_merge

__all__ = [
    "KINDS", "METHODS", "PROTECTED",
    "Breadcrumbs", "ByName", "Dare", "Della", "Gradient", "Interference", "IsoC", "Karcher",
    "Linear", "MergeConfig", "Method", "Plan", "Progress", "Ram", "Recipe", "ResMerge",
    "Rule", "Sce", "Slerp", "TaskArithmetic", "Ties",
    "interference", "kind_of", "merge", "merge_folders", "merge_tensor", "method_of", "plan_merge",
    "run_plan",
]  # fmt: skip

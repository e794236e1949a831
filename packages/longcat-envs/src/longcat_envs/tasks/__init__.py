"""Tasks in worlds with a past: wishes, goals, words, people, and the environment of one task."""

from longcat_envs._protocol import Talker

from ._call import Call, Figure
from ._chain import Chains
from ._effect import other_values, with_other_values
from ._environment import REFUSE, WorldEnvironment, brief_prompt, system_prompt
from ._goal import Goal, Outcome, Tell, goal_of, judge, outcome
from ._language import Language, language_of
from ._links import linked
from ._make import Difficulty, TaskMaker
from ._skeletons import skeletons
from ._solve import MAX_NODES, Solution, solve
from ._task import Step, WorldTask

__all__ = [
    "MAX_NODES", "REFUSE", "Call", "Chains", "Difficulty", "Figure", "Goal", "Language", "Outcome",
    "Solution", "Step", "Talker", "TaskMaker", "Tell", "WorldEnvironment", "WorldTask",
    "brief_prompt", "goal_of", "judge", "language_of", "linked", "other_values", "outcome",
    "skeletons", "solve", "system_prompt", "with_other_values",
]  # fmt: skip

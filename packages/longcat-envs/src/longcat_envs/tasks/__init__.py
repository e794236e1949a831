"""Tasks in worlds with a past: wishes, goals, words, people, and the environment of one task."""

from longcat_envs._protocol import Talker

from ._call import Call, Figure
from ._chain import Chains
from ._environment import REFUSE, WorldEnvironment, system_prompt
from ._goal import Goal, Outcome, Tell, goal_of, judge, outcome
from ._make import Difficulty, TaskMaker
from ._say import say_argument
from ._solve import MAX_NODES, Solution, solve
from ._task import Step, WorldTask

__all__ = [
    "MAX_NODES", "REFUSE", "Call", "Chains", "Difficulty", "Figure", "Goal", "Outcome", "Solution",
    "Step", "Talker", "TaskMaker", "Tell", "WorldEnvironment", "WorldTask", "goal_of", "judge",
    "outcome", "say_argument", "solve", "system_prompt",
]  # fmt: skip

"""Tool-use worlds grown from declarations: real databases, verified tasks."""

from ._audit import audit, wrong_chains
from ._database import Database, ToolError
from ._demonstrate import demonstrate
from ._environment import TaskEnvironment, World
from ._fields import DomainError
from ._follow import Demonstration
from ._graph import ToolGraph
from ._grow import Grower, GrowthConfig
from ._loop import Episode, InvalidEpisode, Policy, run_episode
from ._protocol import Environment, Message, Observation, ToolResult
from ._spec import Domain, builtin_domains, load_domain
from ._task import Invalid, Reward, Rubric, Step, Task, judge
from ._tools import Condition, Effect, Parameter, Tool, derive_tools

__all__ = [
    "Condition", "Database", "Demonstration", "Domain", "DomainError", "Effect", "Environment",
    "Episode", "Grower", "GrowthConfig", "Invalid", "InvalidEpisode", "Message", "Observation",
    "Parameter", "Policy", "Reward", "Rubric", "Step", "Task", "TaskEnvironment", "Tool",
    "ToolError", "ToolGraph", "ToolResult", "World", "audit", "builtin_domains", "demonstrate",
    "derive_tools", "judge", "load_domain", "run_episode", "wrong_chains",
]  # fmt: skip

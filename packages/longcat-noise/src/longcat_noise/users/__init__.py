"""The kinds of user noise, one small file each; a new kind is a file here and a line below."""

from longcat_noise._kind import UserKind

from .ambiguity import AMBIGUITY
from .boundary import BOUNDARY
from .casing import CASING
from .conflict import CONFLICT
from .correction import CORRECTION
from .memory import MEMORY
from .misconception import MISCONCEPTION
from .redundancy import REDUNDANCY
from .topic_shift import TOPIC_SHIFT
from .typo import TYPO

USERS: dict[str, UserKind] = {
    kind.name: kind
    for kind in (
        REDUNDANCY, TYPO, CASING, AMBIGUITY, CORRECTION, MEMORY, TOPIC_SHIFT, BOUNDARY, CONFLICT,
        MISCONCEPTION,
    )
}  # fmt: skip

__all__ = ["USERS"]

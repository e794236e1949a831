"""The kinds of tool noise, one small file each; a new kind is a file here and a line below."""

from longcat_noise._kind import ToolKind

from .duplicate import DUPLICATE
from .failure import FAILURE
from .gone import GONE
from .inconsistent import INCONSISTENT
from .latency import LATENCY
from .lost_ack import LOST_ACK
from .misleading import MISLEADING
from .padding import PADDING
from .partial import PARTIAL
from .renamed import RENAMED
from .stale import STALE
from .truncated import TRUNCATED
from .vanish import VANISH

TOOLS: dict[str, ToolKind] = {
    kind.name: kind
    for kind in (
        FAILURE, PARTIAL, PADDING, VANISH, GONE, LOST_ACK, DUPLICATE, TRUNCATED, STALE,
        INCONSISTENT, RENAMED, MISLEADING, LATENCY,
    )
}  # fmt: skip

__all__ = ["TOOLS"]

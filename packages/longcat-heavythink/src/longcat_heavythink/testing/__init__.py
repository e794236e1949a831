"""A server of faults, for tests of anything that speaks to chat completions.

    with FaultServer(["429:0.1", "cut", "ok"]) as server:
        ...  # ask server.url; look at server.stats()

`longcat_heavythink.testing.fixtures` offers it to pytest as the fixture `fault_server`.
"""

from ._answers import FAULTS, count_of_thinkers, echo
from ._scripted import scripted
from ._server import FaultServer, Stats

__all__ = ["FAULTS", "FaultServer", "Stats", "count_of_thinkers", "echo", "scripted"]

"""`python -m longcat_heavythink.testing [MODE] [PORT]`: a server of faults in its own process."""

import contextlib
import sys
import threading

from . import FaultServer

if __name__ == "__main__":
    mode = sys.argv[1] if len(sys.argv) > 1 else "ok"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with FaultServer(default=mode, port=port) as server:
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()

"""`python -m longcat_envs` is the `longcat-envs` command."""

import sys

from .commands import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

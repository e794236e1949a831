"""A user's mistake: one message, exit code 2, no traceback."""


class UsageError(Exception):
    """What was expected, the rule, what was found."""

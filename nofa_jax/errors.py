"""The one exception that stands for a mistake the user can mend."""


class UserError(Exception):
    """Wrong input, file, option or missing prerequisite. The message says what, where, and what to do next.

    Commands print it as one line `error: …` and exit with code 2; library callers catch it like any exception.
    """

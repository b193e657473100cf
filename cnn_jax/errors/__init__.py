"""The ways in which a program speaks to its user: two early ends on purpose, and a warning."""

import sys


class UserError(ValueError):
    """A mistake outside the code: a bad flag, a missing dataset, a folder of another run.

    The message is one line that says what is wrong and what to do. Command lines print it as
    `error: <message>` and exit with code 2; any other exception is a bug and keeps its traceback.
    """


class Stopped(Exception):
    """A signal ended a run, after a checkpoint from which the same command resumes.

    Command lines print the message and exit with `EXIT_CODE`, which tells a job script to queue the
    job again.
    """

    EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


def warn(text: str) -> None:
    """Print a line about something that the user should know, and that stops nothing."""
    print(f"warning: {text}", file=sys.stderr, flush=True)

"""The two ways in which a program ends early on purpose."""


class UserError(ValueError):
    """A mistake or a missing thing outside the code: a bad flag, an absent dataset, a
    folder of another run.

    The message is one line that names what is wrong and what to do. Command lines print it as
    `error: <message>` and exit with code 2; anything else that is raised is a bug and keeps its
    traceback.
    """


class Stopped(Exception):
    """A signal ended a run after a checkpoint; the same command goes on from it.

    Command lines print the message and exit with `EXIT_CODE`, which is how a job script knows to
    queue the job again.
    """

    EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later

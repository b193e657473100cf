"""The one exception that means: the person at the keyboard can mend this."""


class UserError(ValueError):
    """A mistake or a missing thing outside the code: a bad flag, an absent dataset, a
    folder of another run.

    The message is one line that names what is wrong and what to do. Command lines print it as
    `error: <message>` and exit with code 2; anything else that is raised is a bug and keeps its
    traceback.
    """

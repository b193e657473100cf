"""The one exception that means: the person at the keyboard can mend this."""


class UserError(Exception):
    """A mistake or a missing thing outside the code: a bad flag, an absent dataset, a full disk.

    The message is one line that names what is wrong and what to do. Command lines print it as
    `error: <message>` and exit with code 2; anything else that is raised is a bug and keeps its
    traceback.
    """

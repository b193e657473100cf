"""Tells a file that cannot be read from one that is damaged."""

import stat
from pathlib import Path

from cnn_jax.errors import UserError
from cnn_jax.errors.machine_limits import unreadable


def check_readable(path: Path, dataset: str) -> None:
    """Raise UserError if `path`, of that dataset, is no file that can be opened.

    This tells a machine's limit or a lack of permission from damage.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} of dataset {dataset!r} is not a file; prepare it again")
        path.open("rb").close()
    except FileNotFoundError as error:
        raise UserError(
            f"{path} of dataset {dataset!r} is missing; restore it, or delete {path.parent} "
            "and prepare the dataset again"
        ) from error
    except OSError as error:
        raise unreadable(f"{path} of dataset {dataset!r}", error) from error

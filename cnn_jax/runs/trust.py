"""Decide which scripts may be run out of a run folder.

Opening a run executes its experiment.py, and a folder may come from a stranger. A script is trusted
if it is one of this installation's `experiments/`, or if this user has trained with it here or has
said so (`--trust`). Trusted scripts are remembered by their SHA-256 in $XDG_STATE_HOME/cnn_jax, or
~/.local/state/cnn_jax without that variable; so are the folders that they lay in, out of which they
may import others.
"""

import hashlib
import os
from pathlib import Path

from cnn_jax.errors import UserError
from cnn_jax.errors.machine_limits import unreadable
from cnn_jax.runs.environment import file_sha256

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def remember(script: Path, folder: Path) -> None:
    """Trust a script from now on, and the scripts in the absolute `folder` that it may import.

    Raises OSError or RuntimeError if that cannot be noted.
    """
    for mark in (_mark(file_sha256(script)), _mark(_name(folder))):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def has_scripts(folder: Path) -> bool:
    """Whether a folder is one whose scripts are trusted."""
    try:
        return folder == EXPERIMENTS or _mark(_name(folder)).exists()
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return False


def check(script: Path) -> None:
    """Raise UserError if `script` is not trusted, or cannot be read."""
    try:
        sha256 = file_sha256(script)
    except OSError as error:
        raise unreadable(script, error) from error
    if any(file_sha256(path) == sha256 for path in EXPERIMENTS.rglob("*.py")):
        return
    try:
        trusted = _mark(sha256).exists()
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        trusted = False
    if not trusted:
        raise UserError(
            f"{script} is a program that was never run here: opening the run would execute it. "
            "Read it, then repeat the command with --trust"
        )


def _mark(name: str) -> Path:
    """The file whose presence says that something is trusted."""
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "cnn_jax" / "trusted" / name


def _name(folder: Path) -> str:
    """The name of a folder's mark."""
    return f"folder-{hashlib.sha256(os.fsencode(folder)).hexdigest()}"

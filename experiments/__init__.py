"""One script per result. Its docstring is the claim; the record of the claim is in `results/`."""

import os
import signal
import sys
from typing import Any


def _stop(number: int, frame: Any) -> None:
    os.write(2, b"stopped before the first step: the same command starts again\n")
    os._exit(75)  # as `cnn_jax.errors.Stopped` does


# While a script that is started by `python -m experiments.NAME` imports its libraries, which takes
# seconds. Then `cnn_jax.cli.main` takes the signals over.
_program = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv else ""
if sys.argv[0] == "-m" and _program.count(".") == 1:
    for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(_number) is not signal.SIG_IGN:
            signal.signal(_number, _stop)
# Before a script imports JAX, whose complaints of its environment variables become one line there.
from cnn_jax import __version__ as __version__  # noqa: E402

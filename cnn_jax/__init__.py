"""Classic convolutional networks in JAX: pure functions, exact evaluation, runs that resume.

To read the code, start at `experiments/lenet5_digits.py` (a whole recipe), then `experiment.py`
(the types), `step.py` (one training step) and `train.py` (the loop). README.md has a map of all.
"""

import sys

try:
    import jax as _jax  # noqa: F401
except ValueError as error:  # of a variable such as JAX_ENABLE_X64, whose value JAX does not know
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None

__version__ = "0.1.0"

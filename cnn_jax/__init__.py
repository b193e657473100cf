"""Classic convolutional networks in JAX: pure functions, exact evaluation, runs that resume.

To read the code, start at `experiments/lenet5_digits.py` (a whole recipe), then `experiment.py`
(the types), `step.py` (one training step) and `train.py` (the loop). README.md has a map of all.
"""

__version__ = "0.1.0"

"""Classic convolutional networks in JAX: pure functions, exact evaluation, runs that resume.

Start at `experiments/lenet5_digits.py` for what a run is, then `experiment.py` (the types),
`step.py` (what one step computes) and `train.py` (the loop). README.md holds the file map.
"""

__version__ = "0.1.0"

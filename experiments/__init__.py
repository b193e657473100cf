"""One script per result. Its docstring is the claim; the record of the claim is in `results/`."""

# Before a script imports JAX, whose complaints of its environment variables become one line there.
from cnn_jax import __version__ as __version__

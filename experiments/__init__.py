"""One script per result. Its docstring is the claim; the record of the claim is in `results/`."""

"""One script per result; each docstring is a claim, each claim has its record in `results/`."""

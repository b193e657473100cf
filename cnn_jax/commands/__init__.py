"""The sub-commands of `python -m cnn_jax`: the arguments that each takes, and what it prints.

Functions that draw import the figures themselves, since Matplotlib takes a second.
"""

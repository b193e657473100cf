"""Draw every figure of the package, one file per kind; only these files import Matplotlib.

Functions take arrays and return a `matplotlib.figure.Figure`, which `save` writes. Each draws
inside `rc_context(STYLE)`, since legends and titles take their font when they are made. Nothing
here computes what it shows, opens a window, or changes Matplotlib's settings.
"""

from cnn_jax.figures.page import COLOURS, INCHES, page, save

__all__ = ["COLOURS", "INCHES", "page", "save"]

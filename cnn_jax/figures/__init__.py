"""Every picture the package draws, one file per kind. The only files that say Matplotlib.

Functions take arrays and return a `matplotlib.figure.Figure`; `save` writes one. Each draws inside
`rc_context(STYLE)`, since legends and titles take their type when they are made. Nothing here
computes what it shows, opens a window, or leaves a trace in Matplotlib's settings.
"""

from cnn_jax.figures.page import COLOURS, INCHES, page, save

__all__ = ["COLOURS", "INCHES", "page", "save"]

"""Compute what a network sees: one image, one unit, one page. `figures` draws the numbers."""

"""Finished networks judged: every example once, with intervals, shifts and reports."""

"""Checks of a run: its cost beforehand, its figures against its receipt, and the resume law."""

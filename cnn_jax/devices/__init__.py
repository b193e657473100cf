"""Devices and processes: the mapped axis, feeding, signals, settings."""

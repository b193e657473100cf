"""What is particular to devices and processes: the mapped axis, feeding, signals, settings."""

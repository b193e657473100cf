"""A run before it starts, against its receipt, and with kills against without."""

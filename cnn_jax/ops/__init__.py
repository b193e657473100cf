"""What layers compute, as plain functions of arrays, and faster forms of the same functions."""

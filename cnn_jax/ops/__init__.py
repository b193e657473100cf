"""The functions of arrays that layers compute, and faster forms of the same functions."""

"""How fast this package is, beside PyTorch and beside the limits of the machine."""

"""How fast: this package beside PyTorch, and beside the limits of the machine."""

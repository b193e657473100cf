"""The former place of what `layers` holds."""

from cnn_jax.see.layers import chosen, kernels, look, prepared

__all__ = ["chosen", "kernels", "look", "prepared"]

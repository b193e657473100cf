"""The sub-commands of `python -m cnn_jax`: what each is told, and what it prints."""

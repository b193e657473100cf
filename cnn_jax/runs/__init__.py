"""A run on disk: its folder, receipt, checkpoints and metrics."""

from cnn_jax.runs.folder import (
    check,
    claim,
    command,
    default_folder,
    describe,
    environment_changes,
    find_script,
    flags,
    identity,
    load,
    receipt,
    search_path,
    steps_per_epoch,
    to_json,
)

__all__ = [
    "check",
    "claim",
    "command",
    "default_folder",
    "describe",
    "environment_changes",
    "find_script",
    "flags",
    "identity",
    "load",
    "receipt",
    "search_path",
    "steps_per_epoch",
    "to_json",
]

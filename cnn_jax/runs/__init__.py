"""A run on disk: its folder, receipt, checkpoints and metrics."""

from cnn_jax.runs.folder import (
    check,
    claim,
    command,
    default_folder,
    environment_changes,
    find_script,
    load,
    search_path,
    steps_per_epoch,
)
from cnn_jax.runs.receipt import (
    changed_imports,
    checkpoint_receipt,
    chosen,
    continuations,
    departures,
    describe,
    finished,
    identity,
    identity_changes,
    last_process,
    process_changes,
)
from cnn_jax.runs.settings import flags, to_json

__all__ = [
    "changed_imports",
    "check",
    "checkpoint_receipt",
    "chosen",
    "claim",
    "command",
    "continuations",
    "default_folder",
    "departures",
    "describe",
    "environment_changes",
    "find_script",
    "finished",
    "flags",
    "identity",
    "identity_changes",
    "last_process",
    "load",
    "process_changes",
    "search_path",
    "steps_per_epoch",
    "to_json",
]

"""Compiled programs kept on disk: the second start of a run skips compilation."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import jax

from cnn_jax.runs.environment import processor

KEEP_SECONDS = 30 * 24 * 3600
OURS = Path("~/.cache/cnn_jax/compiled")


def keep() -> None:
    """Have JAX keep what it compiles in this process, and use what it kept before.

    JAX knows a program by its operations, its own version, XLA's flags and the kind of device, but
    it takes all CPUs for one, though XLA compiles for their vector instructions and number of
    cores: here each has a folder. What is older than a month is removed. JAX's own variables go
    first: JAX_COMPILATION_CACHE_DIR is another folder, with JAX's own rules for what is worth
    keeping, and JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. Nor is anything kept where the
    folder cannot be written. Several processes may share it: they write the same, and what one
    was killed while writing is compiled again by those that meet it.
    """
    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return
    machine = f"{processor()} {len(os.sched_getaffinity(0))}"
    folder = OURS.expanduser() / hashlib.sha256(machine.encode()).hexdigest()[:8]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return
        for path in folder.iterdir():
            if path.stat().st_mtime < time.time() - KEEP_SECONDS:
                path.unlink()
    except OSError:  # no folder; or another process has just removed the same
        if not folder.is_dir():
            return
    config.update("jax_compilation_cache_dir", str(folder))
    # By default what compiles within a second is not kept: that is half of a small network's start.
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

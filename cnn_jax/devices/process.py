"""Settings of this process: compiled programs kept on disk, kernels, and freed memory."""

import contextlib
import ctypes
import hashlib
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from cnn_jax.errors import UserError
from cnn_jax.runs.environment import processor

CACHE_SECONDS = 30 * 24 * 3600  # that a compiled program is kept
CACHE_BYTES = 2 << 30  # that all of them may take
CACHE = Path("~/.cache/cnn_jax/compiled")

# Of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_PAD = 256 << 20  # bytes that are fetched from the system at a time


def keep_compiled_programs() -> None:
    """Make JAX keep on disk what this process compiles, and use what was kept before.

    JAX recognises a program by its operations, its own version, XLA's flags and the kind of device,
    but takes all CPUs for one, although XLA compiles for their vector instructions and number of
    cores: here each has a folder. Programs older than a month are removed, and the oldest of more
    than 2 GB.

    JAX's own variables take precedence: JAX_COMPILATION_CACHE_DIR names another folder, with JAX's
    own rules for what is worth keeping, and JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. Nor
    is anything kept where the folder cannot be written or the user has no home. Several processes
    may share it: they write the same programs, and one that a kill left incomplete is compiled
    again by whoever meets it.
    """
    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return
    machine = f"{processor()} {len(os.sched_getaffinity(0))}"
    try:
        cache = CACHE.expanduser()
        folder = cache / hashlib.sha256(machine.encode()).hexdigest()[:8]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # it cannot be made; or no user with a home has this number
        return
    if not os.access(folder, os.W_OK):
        return
    with contextlib.suppress(OSError):  # another process has just removed the same
        _remove_old_files(cache)
    config.update("jax_compilation_cache_dir", str(folder))
    # By default what compiles within a second is not kept: that is half of a small network's start.
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _remove_old_files(folder: Path) -> None:
    """Remove what is older than `CACHE_SECONDS`, and the oldest of what exceeds `CACHE_BYTES`."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    total, now = sum(status.st_size for status in stats.values()), time.time()
    for path, status in sorted(stats.items(), key=lambda item: item[1].st_mtime):
        if total > CACHE_BYTES or status.st_mtime < now - CACHE_SECONDS:
            path.unlink()
            total -= status.st_size


def machine_memory(root: Path = Path("/")) -> int:
    """The memory in bytes that this process may use: the machine's, or a container's limit (of
    cgroups, version 1 or 2) if that is less.

    Args:
        root: where the system's files lie.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    cgroups = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # A limit holds for all groups inside. In a container, the path may be that of the host.
        inside = Path(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                limits.append(int((base / folder / name).read_text(encoding="utf-8")))
    return min(limits)


def check_devices() -> None:
    """Start JAX on this process's devices.

    Raises:
        UserError: JAX_PLATFORMS asks for devices that are not there.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for a missing CUDA package
        words = " ".join(str(error).partition(" (")[0].split())
        reason = f" ({words})" if words else ""
        asked: Any = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(
            f"JAX finds no devices of JAX_PLATFORMS={asked or ''}{reason}: unset JAX_PLATFORMS, or "
            "set it to cpu"
        ) from None


@contextlib.contextmanager
def usual_promotion() -> Iterator[None]:
    """Inside, arrays of different ranks and types are combined by JAX's default rules.

    The stricter settings (JAX_NUMPY_RANK_PROMOTION, JAX_NUMPY_DTYPE_PROMOTION) change no number.
    They help to find mistakes in code that keeps to them, which Flax, Optax and this package do not
    throughout.
    """
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def choose_deterministic_kernels() -> None:
    """Restrict XLA to kernels that give the same bits every time, before any device is used.

    CPUs have no others. On GPUs it rules out sums by atomic additions, and choosing between kernels
    by timing them while compiling.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def raise_file_limit() -> None:
    """Let this process open as many files as its user may: the soft limit becomes the hard one.

    The soft one is 1,024 on most machines, and TFDS stores ImageNet in 1,088 files.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a kernel's own limit may be lower
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_freed_memory() -> bool:
    """Make C's allocator keep large blocks that are freed, for the next that asks; return whether
    it does.

    XLA on CPU asks for the memory of intermediate results in every step and frees it after, and so
    do readers with the blocks that they fill. glibc hands such memory back to the system, which
    then has to find and zero each of its pages anew: without that AlexNet trains faster, and
    LeNet-5 no slower. The price is that the process stays as large as it ever was. Threads started
    from then on share one arena: blocks above the 64 MB of a thread's own come from the system and
    go back to it whatever the other settings are. Other C libraries are left as they are, and so is
    an allocator that the user has configured by GLIBC_TUNABLES.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl has a mallopt that does nothing
        return False
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    settings = (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, -1),
        (_M_TOP_PAD, _PAD),
        (_M_ARENA_MAX, 1),
    )
    return all([library.mallopt(name, value) == 1 for name, value in settings])

"""Devices and processes. The only file that says `jax.pmap`.

A mapped function is written per device and reduces over `AXIS`. State, metrics and
resident data go in and come out without a device axis (`in_axes=None`, `out_axes=None`): the same
on all devices, so a checkpoint knows nothing of how many there were. `pmap` is JAX's older
spelling, since 0.8 itself made of `jit` and `shard_map`; `map_replicated` is all that a switch
would change.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.errors import UserError

T = TypeVar("T")

AXIS = "batch"  # the mapped axis: `lax.pmean(x, AXIS)` averages over all devices of all processes

HEARTBEAT_SECONDS = 30  # a process silent for so long is taken for dead, and the others end


def initialise_processes(
    detect: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Join the other processes of this run, before any device is used.

    Args:
        detect: let JAX read the cluster's own variables (SLURM, Open MPI, Kubernetes).
        coordinator: `host:port` of process 0, with `num_processes` and `process_id`, where there is
            no cluster to ask.
    """
    explicit = (coordinator, num_processes, process_id)
    if any(x is not None for x in explicit) and any(x is None for x in explicit):
        raise UserError(
            "--coordinator, --num-processes and --process-id go together: give all three"
        )
    if detect or coordinator is not None:
        try:
            jax.distributed.initialize(
                coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
            )
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"cannot join the other processes: {reason}") from error


def check_divides(batch_size: int, accumulate: int = 1) -> None:
    """Refuse a batch that cannot be shared equally by all devices and micro-batches."""
    devices = jax.device_count()
    if jax.local_device_count() * jax.process_count() != devices:
        raise UserError(
            f"processes must have equally many devices; this one has {jax.local_device_count()} "
            f"of {devices}, and there are {jax.process_count()} processes"
        )
    if batch_size % (devices * accumulate):
        pieces = f" times {accumulate} micro-batches" if accumulate > 1 else ""
        raise UserError(
            f"batch size {batch_size} does not divide by {devices} devices{pieces}: "
            f"choose a multiple of {devices * accumulate}"
        )


def round_up(batch_size: int) -> int:
    """The least multiple of the devices that is not below `batch_size`."""
    devices = jax.device_count()
    return -(-batch_size // devices) * devices


def is_primary() -> bool:
    """True in the one process that writes files and prints."""
    return jax.process_index() == 0


def local_share(batch_size: int) -> slice:
    """The places of the global batch that this process's devices compute."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def replicate(tree: T) -> T:
    """Put a copy of each array on every device of this process."""
    return jax.device_put(tree, _sharding(PartitionSpec()))


def share_out(tree: T) -> T:
    """Put this process's share `[k, b, ...]` on its devices as `[k, devices, b / devices, ...]`."""
    devices = jax.local_device_count()
    sharding = _sharding(PartitionSpec(None, AXIS))

    def place(x: np.ndarray) -> Any:
        split = x.reshape(x.shape[0], devices, x.shape[1] // devices, *x.shape[2:])
        return jax.device_put(split, sharding)

    return jax.tree.map(place, tree)


def map_replicated(
    function: Callable[..., Any], *, replicated: int, donate: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Map `function(*replicated, shared)` over all devices of all processes, compiled.

    The function reduces over `AXIS` whatever differs between devices, so that its results are the
    same on all of them. `shared` is what `share_out` returned; the function sees its own device's
    `[k, b, ...]`.

    Args:
        replicated: how many arguments come before `shared`; they have no device axis.
        donate: which of them may be overwritten.
    """
    in_axes = (*(None,) * replicated, 1)
    return jax.pmap(function, AXIS, in_axes=in_axes, out_axes=None, donate_argnums=donate)


def ahead(blocks: Iterable[T], place: Callable[[T], Any], depth: int = 2) -> Iterator[Any]:
    """Keep `depth` blocks on the devices, the one handed out among them: copies overlap work."""
    placed: deque[Any] = deque()
    for block in blocks:
        placed.append(place(block))
        if len(placed) >= depth:
            yield placed.popleft()
    while placed:
        yield placed.popleft()


def device_memory() -> int:
    """Bytes that one device has: a GPU's limit, or a CPU device's part of the machine's memory.

    What is free at the moment does not count, so that a resumed run decides by it as the first
    did. With several processes it is the least of theirs, so that all decide alike.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        here = stats["bytes_limit"]
    else:
        pages = os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
        here = os.sysconf("SC_PAGE_SIZE") * pages
    if jax.process_count() > 1:
        here = multihost_utils.process_allgather(np.float32(here)).min()
    return int(here)


def from_primary(text: str) -> str:
    """What the primary process says, up to 4,000 bytes, in every process; all wait for it."""
    if jax.process_count() == 1:
        return text
    told = np.zeros(4000, np.uint8)
    encoded = np.frombuffer(text.encode()[: told.size], np.uint8)
    told[: encoded.size] = encoded
    heard = np.asarray(multihost_utils.broadcast_one_to_all(told))
    return heard.tobytes().rstrip(b"\0").decode(errors="ignore")


def check_equal(what: str, own: object) -> None:
    """Refuse, in every process, what is not the same in all of them; all wait for it."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(repr(own).encode()).digest(), np.uint32)
    seen = np.asarray(multihost_utils.process_allgather(digest))
    if (seen != seen[0]).any():
        raise UserError(
            f"the processes do not see the same {what}, this one {own}: --workdir must be one "
            "folder for all, and its file system up to date"
        )


def _sharding(spec: PartitionSpec) -> NamedSharding:
    # pmap's own mesh, name included: for arrays on any other it would compile a second time.
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), spec)

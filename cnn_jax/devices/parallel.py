"""Devices and processes, and the only use of `jax.pmap`.

A mapped function is written per device and reduces over `AXIS`. State, metrics and resident data
have no device axis (`in_axes=None`, `out_axes=None`): they are the same on all devices, so a
checkpoint does not depend on how many there were. Since JAX 0.8 `pmap` is itself made of `jit` and
`shard_map`; a switch to these would change `map_replicated` alone.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.errors import UserError

T = TypeVar("T")

AXIS = "batch"  # the mapped axis: `lax.pmean(x, AXIS)` averages over all devices of all processes

HEARTBEAT_SECONDS = 30  # a process silent for so long is taken for dead, and the others end


def devices() -> list[Any]:
    """The devices that a run uses: all that JAX sees, those of other processes included."""
    return jax.devices()


def local_devices() -> list[Any]:
    """Those of `devices` that belong to this process."""
    return [device for device in devices() if device.process_index == jax.process_index()]


def initialise_processes(
    detect: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Join the other processes of this run, before any device is used.

    Args:
        detect: let JAX read the cluster's own variables (SLURM, Open MPI, Kubernetes).
        coordinator: `host:port` of process 0, with `num_processes` and `process_id`, where no
            cluster describes itself.
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
    count, local = len(devices()), len(local_devices())
    if local * jax.process_count() != count:
        raise UserError(
            f"all processes must have the same number of devices: this one has {local} of {count}, "
            f"and there are {jax.process_count()} processes"
        )
    if batch_size % (count * accumulate):
        pieces = f" times {accumulate} micro-batches" if accumulate > 1 else ""
        raise UserError(
            f"batch size {batch_size} does not divide by {count} devices{pieces}: "
            f"choose a multiple of {count * accumulate}"
        )


def round_up(batch_size: int) -> int:
    """The smallest multiple of the number of devices that is at least `batch_size`."""
    count = len(devices())
    return -(-batch_size // count) * count


def is_primary() -> bool:
    """Whether this is the one process that writes files and prints."""
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
    count = len(local_devices())
    sharding = _sharding(PartitionSpec(None, AXIS))

    def place(x: np.ndarray) -> Any:
        split = x.reshape(x.shape[0], count, x.shape[1] // count, *x.shape[2:])
        return jax.device_put(split, sharding)

    return jax.tree.map(place, tree)


def map_replicated(
    function: Callable[..., Any], *, replicated: int, donate: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Map `function(*replicated, shared)` over all devices of all processes, compiled.

    The function reduces over `AXIS` whatever differs between devices, so that its results are the
    same on all of them. `shared` is what `share_out` returned; the function sees the part of its
    own device, `[k, b, ...]`.

    Args:
        replicated: how many arguments come before `shared`; they have no device axis.
        donate: which of them may be overwritten.
    """
    in_axes = (*(None,) * replicated, 1)
    some = None if len(devices()) == jax.device_count() else devices()
    return jax.pmap(
        function, AXIS, in_axes=in_axes, out_axes=None, donate_argnums=donate, devices=some
    )


def batch_positions(share: int) -> Array:
    """The places in the global batch of this device's `share` examples, inside a mapped function.

    Returns:
        int32 [share].
    """
    return lax.axis_index(AXIS) * share + jnp.arange(share)


def mean_over_devices(tree: T) -> T:
    """The mean over all devices of each array, inside a mapped function."""
    # XLA on CPU copies what it reduces over one device.
    return lax.pmean(tree, AXIS) if lax.axis_size(AXIS) > 1 else tree


def sum_over_devices(tree: T) -> T:
    """The sum over all devices of each array, inside a mapped function."""
    return lax.psum(tree, AXIS) if lax.axis_size(AXIS) > 1 else tree


def ahead(blocks: Iterable[T], place: Callable[[T], Any], depth: int = 2) -> Iterator[Any]:
    """Keep `depth` blocks on the devices, the current one included, so that copying overlaps work.

    Args:
        place: puts a block on the devices.
    """
    placed: deque[Any] = deque()
    for block in blocks:
        placed.append(place(block))
        if len(placed) >= depth:
            yield placed.popleft()
    while placed:
        yield placed.popleft()


def device_memory() -> int:
    """The memory of one device in bytes: a GPU's limit, or a CPU device's part of the machine's.

    Memory that is in use at the moment is not subtracted, so that a resumed run decides by the same
    number as the first. With several processes it is the smallest of theirs, so that all decide
    alike.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        here = stats["bytes_limit"]
    else:
        pages = os.sysconf("SC_PHYS_PAGES") // len(local_devices())
        here = os.sysconf("SC_PAGE_SIZE") * pages
    if jax.process_count() > 1:
        here = multihost_utils.process_allgather(np.float32(here)).min()
    return int(here)


def from_primary(text: str) -> str:
    """Send a text of the primary process, up to 4,000 bytes, to all processes; all wait for it."""
    if jax.process_count() == 1:
        return text
    sent = np.zeros(4000, np.uint8)
    encoded = np.frombuffer(text.encode()[: sent.size], np.uint8)
    sent[: encoded.size] = encoded
    received = np.asarray(multihost_utils.broadcast_one_to_all(sent))
    return received.tobytes().rstrip(b"\0").decode(errors="ignore")


def check_equal(what: str, value: object) -> None:
    """Refuse, in every process, a value that is not the same in all of them; all wait for it."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(repr(value).encode()).digest(), np.uint32)
    digests = np.asarray(multihost_utils.process_allgather(digest))
    if (digests != digests[0]).any():
        raise UserError(
            f"the processes do not see the same {what}, this one {value}: --workdir must be one "
            "folder for all, and its file system up to date"
        )


def _sharding(spec: PartitionSpec) -> NamedSharding:
    # pmap's own mesh, name included: for arrays on any other it would compile a second time.
    return NamedSharding(Mesh(np.array(local_devices()), (AXIS,)), spec)

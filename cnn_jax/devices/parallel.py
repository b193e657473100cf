"""Devices and processes, and the only use of `jax.pmap`.

A mapped function is written per device and reduces over `AXIS`. State, metrics and resident data
have no device axis (`in_axes=None`, `out_axes=None`): they are the same on all devices, so a
checkpoint does not depend on how many there were. Since JAX 0.8 `pmap` is itself made of `jit` and
`shard_map`; a switch to these would change `map_replicated` alone.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.devices.process import machine_memory, usual_promotion
from cnn_jax.errors import UserError

T = TypeVar("T")

AXIS = "batch"  # the mapped axis: `lax.pmean(x, AXIS)` averages over all devices of all processes


def devices() -> list[Any]:
    """The devices that a run uses: all that JAX sees, those of other processes included."""
    return jax.devices()


def local_devices() -> list[Any]:
    """Those of `devices` that belong to this process."""
    return [device for device in devices() if device.process_index == jax.process_index()]


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


def batch_places(batch_size: int, pieces: int = 1) -> np.ndarray:
    """The places in the global batch of the examples that each device computes, in its order.

    A batch that is computed in pieces is cut before it is shared out: each device has its part of
    every piece, so that a piece holds the same examples whatever the number of devices.

    Returns:
        int32 [devices, batch_size / devices].
    """
    count = len(devices())
    by_piece = np.arange(batch_size, dtype=np.int32).reshape(pieces, count, -1)
    return by_piece.swapaxes(0, 1).reshape(count, -1)


def local_places(batch_size: int, pieces: int = 1) -> np.ndarray:
    """The places in the global batch that this process's devices compute, device after device."""
    by_process = batch_places(batch_size, pieces).reshape(jax.process_count(), -1)
    return by_process[jax.process_index()]


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
        usual_promotion()(function),
        AXIS,
        in_axes=in_axes,
        out_axes=None,
        donate_argnums=donate,
        devices=some,
    )


def batch_positions(share: int, pieces: int = 1) -> Array:
    """The places in the global batch of this device's `share` examples, inside a mapped function.

    Returns:
        int32 [share], a row of `batch_places`.
    """
    part = share // pieces
    first = lax.axis_index(AXIS) * part + jnp.arange(part)  # of the device's part of a piece
    if pieces == 1:
        return first
    starts = jnp.arange(pieces) * part * lax.axis_size(AXIS)
    return (starts[:, None] + first[None]).reshape(-1)


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
    """The memory of one device in bytes: a GPU's limit, or a CPU device's part of the machine's or
    its container's.

    Memory that is in use at the moment is not subtracted, so that a resumed run decides by the same
    number as the first. With several processes it is the smallest of theirs, so that all decide
    alike.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        here = stats["bytes_limit"]
    else:
        here = machine_memory() // len(local_devices())
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


def _sharding(spec: PartitionSpec) -> NamedSharding:
    # pmap's own mesh, name included: for arrays on any other it would compile a second time.
    return NamedSharding(Mesh(np.array(local_devices()), (AXIS,)), spec)

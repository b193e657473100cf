"""Many training steps in one dispatch, compiled as one program for all devices.

The peculiarities of XLA on CPUs that this works around stay in here, so that `step.py` can be read
as the algorithm.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import Array, lax

from cnn_jax.devices import parallel
from cnn_jax.devices.feed import Block, fetch

Advance = Callable[[Any, dict[str, Array], Any], tuple[Any, Array]]


def compile_steps(step: Callable[[Any, dict[str, Array]], Any]) -> Advance:
    """Return `advance(state, resident, items) -> (state, done)`, which makes a step for each item.

    `state` is a named tuple with at least `params` and `step`, the same on every device; its
    buffers are handed on to the new state. `resident` is a feed's, `items` is a block placed by
    `parallel.share_out`. `done` is the number of steps made, in a buffer of its own, which can be
    waited for after the state was given to the next call.

    Args:
        step: `(state, batch) -> state`, written per device, as `parallel.map_replicated` wants it.
    """

    def steps(params: Any, rest: Any, resident: dict[str, Array], items: Any) -> tuple[Any, Array]:
        def one(state: Any, item: dict[str, Array]) -> tuple[Any, None]:
            return step(state, fetch(resident, item)), None

        state = rest._replace(params=params)
        if jax.tree.leaves(items)[0].shape[0] > 1:
            state, _ = lax.scan(one, state, items)
        else:  # no loop of one: XLA on CPU runs library convolutions far slower inside a loop
            state, _ = one(state, jax.tree.map(lambda x: x[0], items))
        return state, state.step

    # If the parameters are donated, XLA on CPU copies the dense weights before every update.
    donate = (1,) if jax.default_backend() == "cpu" else (0, 1)
    mapped = parallel.map_replicated(steps, replicated=3, donate=donate)
    return lambda state, resident, items: mapped(
        state.params, state._replace(params=None), resident, items
    )


def split_into_blocks(start: int, stop: int, *sizes: int) -> Iterator[Block]:
    """Cut steps `[start, stop)` at every multiple of each of `sizes`; a size of 0 cuts nowhere.

    The cuts do not depend on `start`, so a resumed run dispatches the same blocks as one that was
    never stopped.
    """
    while start < stop:
        end = min(stop, *(start // size * size + size for size in sizes if size))
        yield start, end
        start = end

"""Many steps in one dispatch: the compiled function, and the blocks of steps it is called with."""

from collections.abc import Iterator
from typing import Any

import jax
from jax import Array, lax

from cnn_jax.devices import feed as feeds
from cnn_jax.devices import parallel
from cnn_jax.experiment import Experiment, over_members
from cnn_jax.step import TrainState, train_step


def make_advance(experiment: Experiment, accumulate: int = 1) -> Any:
    """Return `advance(state, resident, items) -> (state, done)`: a step per item, compiled.

    `resident` is a feed's, `items` what `parallel.share_out` made of a block. `done` is the step
    reached, in a buffer of its own: it can be waited for after `state` was given to the next call.
    """

    def steps(params: Any, rest: TrainState, resident: Any, items: Any) -> tuple[TrainState, Array]:
        def one(state: TrainState, item: Any) -> tuple[TrainState, None]:
            return step(state, feeds.fetch(resident, item)), None

        state = rest._replace(params=params)
        if jax.tree.leaves(items)[0].shape[0] > 1:
            state, _ = lax.scan(one, state, items)
        else:  # no loop of one: XLA on CPU runs library convolutions far slower inside a loop
            state, _ = one(state, jax.tree.map(lambda x: x[0], items))
        return state, state.step

    def own_step(experiment: Experiment, state: TrainState, batch: Any) -> TrainState:
        return train_step(experiment, accumulate, state, batch)

    step = over_members(own_step, experiment, 0, 1)  # a batch is [b, M, ...]
    # Donating the parameters makes XLA on CPU copy the dense weights before every update.
    donate = (1,) if jax.default_backend() == "cpu" else (0, 1)
    mapped = parallel.map_replicated(steps, replicated=3, donate=donate)
    return lambda state, resident, items: mapped(
        state.params, state._replace(params=None), resident, items
    )


def split_into_blocks(start: int, stop: int, *sizes: int) -> Iterator[feeds.Block]:
    """Cut steps `[start, stop)` at every multiple of each of `sizes`; a size of 0 cuts nowhere.

    The cuts do not depend on `start`: a resumed run dispatches the blocks of one never stopped.
    """
    while start < stop:
        end = min(stop, *(start // size * size + size for size in sizes if size))
        yield start, end
        start = end

"""The worker that times this package's training step and forward pass, and the device's limits."""

import json
import sys
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.devices import feed as feeds
from cnn_jax.devices import parallel, process
from cnn_jax.devices.parallel import AXIS
from cnn_jax.devices.process import keep_freed_memory
from cnn_jax.experiment import Experiment
from cnn_jax.step import evaluation_logits, init_state, make_advance
from experiments.bench.speed.jax_networks import experiment
from experiments.bench.speed.task import Task
from experiments.bench.speed.worker import Benchmark, serve


def training(own: Experiment, feed: feeds.Feed, dispatch: int) -> Benchmark:
    """The package's own compiled steps, `dispatch` of them in a call, on data held by the device.

    As in every training, a step gathers, transforms and standardises its batch and sums metrics.
    """
    advance = make_advance(own)
    blocks = feeds.training_blocks(feed, own.seed, own.batch_size, [(0, dispatch)])
    items = parallel.share_out(next(blocks))
    state = parallel.replicate(jax.jit(lambda: init_state(own))())

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, _ = advance(state, feed.resident, items)
        state.step.block_until_ready()

    return Benchmark(run, dispatch * own.batch_size)


def forward(own: Experiment, feed: feeds.Feed) -> Benchmark:
    """Logits of a batch held by the device, gathered on every device as `predict` does."""

    def one_batch(params: Any, model_state: Any, resident: Any, items: Any) -> Any:
        batch = feeds.fetch(resident, jax.tree.map(lambda x: x[0], items))
        logits = evaluation_logits(own, params, model_state, batch["image"])
        return lax.all_gather(logits, AXIS, tiled=True)

    mapped = parallel.map_replicated(one_batch, replicated=3)
    blocks = feeds.training_blocks(feed, own.seed, own.batch_size, [(0, 1)])
    items = parallel.share_out(next(blocks))

    @cache  # made by the first call, after training's peak memory was read
    def variables() -> tuple[Any, Any]:
        state = parallel.replicate(jax.jit(lambda: init_state(own))())
        return state.params, state.model_state

    def run(calls: int) -> None:
        logits = None
        for _ in range(calls):
            logits = mapped(*variables(), feed.resident, items)
        jax.block_until_ready(logits)

    return Benchmark(run, own.batch_size)


def matrix_product(dtype: str) -> Benchmark:
    """The product of two square matrices, large enough to keep a device busy; counted in FLOPs."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    product = jax.jit(jnp.matmul)

    @cache
    def matrices() -> list[jax.Array]:
        return [jax.random.normal(jax.random.key(k), (n, n), jnp.dtype(dtype)) for k in (0, 1)]

    def run(calls: int) -> None:
        result = None
        for _ in range(calls):
            result = product(*matrices())
        jax.block_until_ready(result)

    return Benchmark(run, 2 * n**3)


def copy() -> Benchmark:
    """Read and write 256 MB in place; counted in bytes."""
    size = 1 << 26  # float32
    values: jax.Array | None = None
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run(calls: int) -> None:
        nonlocal values
        now = jnp.zeros(size, jnp.float32) if values is None else values
        for _ in range(calls):
            now = add(now)
        values = now.block_until_ready()

    return Benchmark(run, 2 * 4 * size)


def device_peak() -> int | None:
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else None


def main(task: Task, *, deterministic: bool) -> None:
    keep_freed_memory()  # as every training does
    if deterministic:
        process.choose_deterministic_kernels()
    own = experiment(task)
    feed = feeds.open_feed(own.dataset, own.train_split, "resident", readers=1)
    benchmarks = {"train": training(own, feed, task.dispatch)}
    if not task.training_only:
        benchmarks |= {"forward": forward(own, feed)}
        benchmarks |= {"gemm": matrix_product(task.dtype), "copy": copy()}
    about = {"version": jax.__version__, "platform": jax.default_backend()}
    serve(benchmarks, about, device_peak)


if __name__ == "__main__":
    main(Task(**json.loads(sys.argv[1])), deterministic="deterministic" in sys.argv[2:])

"""`kernels`: what a trained network's convolutions look for."""

from typing import Any, Literal

import numpy as np
from rich.console import Console

from cnn_jax.commands.arguments import DataDir, Out, Run, check_out, layer_table
from cnn_jax.figures import maps as figures
from cnn_jax.figures import save
from cnn_jax.see.network import chosen
from cnn_jax.see.network import kernels as kernels_of
from cnn_jax.trained import open_network


def kernels(
    run: Run,
    layers: tuple[str, ...] = (),
    member: int = 0,
    step: int | Literal["best"] | None = None,
    data_dir: DataDir = None,
    out: Out = None,
) -> None:
    """List a network's kernels, and draw them: patterns of the image first, then of maps.

    Kernels on colours are drawn in colours, grey being zero. All others are signed: red is
    positive, white zero, blue negative, on one scale for a layer.

    Args:
        run: A run folder.
        layers: Names of layers. Default: all.
        member: Which of several networks trained side by side, from 0.
        step: Which checkpoint: a step, or best. Default: the last.
        data_dir: Where prepared datasets lie. Default: where the run had them.
        out: New or empty folder for a figure per layer, numbered in their order, as PNG.
    """
    check_out(out)
    found = kernels_of(open_network(run, member, step, data_dir))
    shown = chosen(found, layers)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for number, (name, values) in enumerate(found.items(), start=1):
            if name in shown:
                save(_figure(name, values), out / f"{number:02d}-{name.replace('/', '-')}.png")
    rows = {
        name: (
            *map(str, (f"{x.shape[0]}x{x.shape[1]}", x.shape[2], x.shape[3])),
            f"{np.nanmin(x):.3g}",
            f"{np.nanmax(x):.3g}",
        )
        for name, x in shown.items()
    }
    columns = ("kernel", "inputs", "outputs", "lowest", "highest")
    Console().print(layer_table(rows, *columns))


def _figure(name: str, values: np.ndarray) -> Any:
    height, width, inputs, outputs = values.shape
    size = f"{height}x{width}"
    if inputs == 1:
        return figures.tiles(values[:, :, 0], f"{name}: {outputs} kernels of {size}", "weight")
    if inputs == 3:
        title = f"{name}: {outputs} kernels of {size} on colours, grey is zero"
        return figures.tiles(values, title, "weight")
    return figures.kernel_table(values, f"{name}: kernels of {size}")

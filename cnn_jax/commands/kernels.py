"""`kernels`: list and draw the convolution kernels of a trained network."""

from typing import Any

import numpy as np
from rich.console import Console

from cnn_jax.commands.arguments import (
    Layers,
    Member,
    Out,
    Run,
    RunDataDir,
    Step,
    Trust,
    check_out,
    layer_table,
    trust_scripts,
)
from cnn_jax.see.layers import chosen
from cnn_jax.see.layers import kernels as kernels_of
from cnn_jax.trained import open_network


def kernels(
    run: Run,
    layers: Layers = (),
    member: Member = 0,
    step: Step = None,
    data_dir: RunDataDir = None,
    trust: Trust = False,
    out: Out = None,
) -> None:
    """List the convolution kernels of a trained network, and draw them.

    Kernels of the first layer of a colour network are drawn in colours, where grey is zero. In all
    others red is positive, white zero, blue negative, on one scale per layer.

    Args:
        out: New or empty folder for one figure per layer (PNG), numbered in order of depth.
    """
    check_out(out)
    trust_scripts(trust, (run,))
    values_of = kernels_of(open_network(run, member, step, data_dir))
    shown = chosen(values_of, layers)
    if out is not None:
        from cnn_jax.figures import save

        out.mkdir(parents=True, exist_ok=True)
        for number, (name, values) in enumerate(values_of.items(), start=1):
            if name in shown:
                save(_figure(name, values), out / f"{number:02d}-{name.replace('/', '-')}.png")
    rows = {
        name: (
            f"{x.shape[0]}x{x.shape[1]}",
            str(x.shape[2]),
            str(x.shape[3]),
            f"{np.nanmin(x):.3g}",
            f"{np.nanmax(x):.3g}",
        )
        for name, x in shown.items()
    }
    columns = ("kernel", "inputs", "outputs", "lowest", "highest")
    Console().print(layer_table(rows, *columns))


def _figure(name: str, values: np.ndarray) -> Any:
    from cnn_jax.figures import maps as figures

    height, width, inputs, outputs = values.shape
    size = f"{height}x{width}"
    if inputs == 1:
        return figures.tiles(values[:, :, 0], f"{name}: {outputs} kernels of {size}", "weight")
    if inputs == 3:
        title = f"{name}: {outputs} kernels of {size} on colours, grey is zero"
        return figures.tiles(values, title, "weight")
    return figures.kernel_table(values, f"{name}: kernels of {size}")

"""`page`: write an HTML page in which networks recognise what is drawn."""

from pathlib import Path
from typing import Annotated

from cnn_jax.atomic_write import atomic_write
from cnn_jax.commands.arguments import (
    Flag,
    Names,
    RunDataDir,
    Runs,
    Split,
    Step,
    Trust,
    argument,
    check_out,
    trust_scripts,
)
from cnn_jax.see.page import make_page
from cnn_jax.trained import open_named


def page(
    runs: Runs,
    out: Annotated[Path, argument("FILE")] = Path("page.html"),
    names: Names = (),
    split: Split = None,
    step: Step = None,
    data_dir: RunDataDir = None,
    trust: Trust = False,
    examples: int = 40,
    half: Flag = False,
) -> None:
    """Write one HTML page in which trained networks recognise what you draw.

    It opens from disk, without a server or the internet. It shows feature maps, units and their
    sums, kernels that can be changed by hand, and the predictions of all runs while the drawing is
    moved. The runs must be of one dataset.

    Args:
        out: File to write; it ends in .html and must not exist.
        examples: Number of images of the split on the page.
        half: Store weights as int16, which halves the file. Done anyway where it is too large.
    """
    check_out(out, (".html",))
    trust_scripts(trust, runs)
    networks = open_named(runs, names, step, data_dir)
    html = make_page(networks, split, examples, half)
    with atomic_write(out) as file:
        file.write(html.encode())
    print(f"{out} ({len(html.encode()) / 1e6:.1f} MB)")

"""`page`: a file to draw in, and to see what networks make of it."""

from pathlib import Path
from typing import Literal

from cnn_jax.commands.arguments import DataDir, Runs
from cnn_jax.errors import UserError
from cnn_jax.see.page import make_page
from cnn_jax.trained import open_named


def page(
    runs: Runs,
    out: Path = Path("page.html"),
    names: tuple[str, ...] = (),
    split: str | None = None,
    step: int | Literal["best"] | None = None,
    data_dir: DataDir = None,
    examples: int = 40,
    half: bool = False,
) -> None:
    """Write one HTML file to draw in, which shows what networks compute of the drawing.

    It opens from disk, without a server or a network: feature maps, units and their sums, kernels
    to change by hand, and the predictions of all runs while the drawing is moved.

    Args:
        runs: Run folders, of the same dataset.
        out: File to write, .html; it must not exist.
        names: What to call the runs. Default: their folders' names.
        split: Split of the runs' dataset to take examples from. Default: the one evaluated.
        step: Which checkpoint: a step, or best. Default: the last.
        data_dir: Where prepared datasets lie. Default: where the runs had them.
        examples: Images of the split on the page.
        half: Write weights as int16: half the size. So is what is too large otherwise.
    """
    if out.suffix != ".html":
        raise UserError(f"--out must end in .html, got {out}")
    if out.exists():
        raise UserError(f"{out} exists: choose another --out")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    networks = open_named(runs, names, step, data_dir)
    html = make_page(networks, split, examples, half)
    out.write_text(html, encoding="utf-8")
    print(f"{out} ({len(html.encode()) / 1e6:.1f} MB)")

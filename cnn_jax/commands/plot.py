"""`plot`: learning curves."""

from pathlib import Path

from cnn_jax.commands.arguments import Runs
from cnn_jax.errors import UserError
from cnn_jax.evaluate.summary import draw_curves
from cnn_jax.figures import save


def plot(
    runs: Runs,
    metric: str = "accuracy",
    out: Path = Path("curves.png"),
) -> None:
    """Draw the loss and a metric of several runs over epochs, on one figure.

    Of a run with several seeds side by side: their mean, and a band from lowest to highest.

    Args:
        runs: Run folders.
        metric: What the right half shows.
        out: File to write, .png, .svg or .pdf; it must not exist.
    """
    if not runs:
        raise UserError("give at least one run folder")
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--out must end in .png, .svg or .pdf, got {out}")
    if out.exists():
        raise UserError(f"{out} exists: choose another --out")
    figure = draw_curves(runs, metric)
    out.parent.mkdir(parents=True, exist_ok=True)
    save(figure, out)
    print(out)

"""`plot`: draw learning curves."""

from pathlib import Path
from typing import Annotated

from cnn_jax.commands.arguments import Runs, argument, check_out
from cnn_jax.errors import UserError


def plot(
    runs: Runs,
    metric: Annotated[str, argument("METRIC")] = "accuracy",
    out: Annotated[Path, argument("FILE")] = Path("curves.png"),
) -> None:
    """Plot loss and a metric of one or more runs over epochs, in one figure.

    A run with several seeds side by side appears as their mean, in a band from lowest to highest.

    Args:
        metric: Metric of the right panel; the left one shows the loss.
        out: File to write; it ends in .png, .svg or .pdf and must not exist.
    """
    if not runs:
        raise UserError("give at least one run folder")
    check_out(out, (".png", ".svg", ".pdf"))
    from cnn_jax.evaluate.summary import draw_curves
    from cnn_jax.figures import save

    figure = draw_curves(runs, metric)
    out.parent.mkdir(parents=True, exist_ok=True)
    save(figure, out)
    print(out)

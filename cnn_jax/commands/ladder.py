"""`ladder`: the networks of the story, and our figures beside the published ones."""

from rich import box
from rich.console import Console
from rich.table import Table

from cnn_jax import ladder as ladders


def ladder() -> None:
    """Print the ladder: every network's size and published error beside ours.

    Our figures come from the records in experiments/results, each made by the script it is named
    after.
    """
    table = Table(*ladders.HEADER, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in ladders.rows():
        table.add_row(*row)
    # Lines that a narrow terminal wraps are easier to read than cells that are cut.
    width = Console(width=1000).measure(table).maximum
    Console(width=max(Console().width, width)).print(table)

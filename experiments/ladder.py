"""Every network of the story: its size, and its published result beside ours.

`python -m experiments.ladder` prints all results. `experiments/tools/report.py` writes them to
docs/ladder.md, and one result per network to README. Our figures are read from the records in
`experiments/results/`; sizes are counted from the networks as the papers describe them, on the
papers' images.
"""

import functools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich import box
from rich.console import Console
from rich.table import Table

from cnn_jax.command_line.ending import exit_on_user_error
from cnn_jax.models import (
    MLP,
    AlexNet2012,
    AlexNet2014,
    AlexNet2019,
    Ciresan2010,
    LeNet5,
    LeNet5_1998,
    LeNet1989,
    SimardConvNet,
    SimardMLP,
    count_connections,
    count_parameters,
    neocognitron,
)

RECORDS = Path(__file__).parent / "results"
Record = Mapping[str, Any]
HEADER = (
    "year",
    "network",
    "parameters",
    "connections",
    "data",
    "published error",
    "our error",
    "seeds",
    "± of the test",
    "training time",
)
SHORT_HEADER = ("year", "network", "parameters", "data", "published error", "our error")


@dataclass(frozen=True)
class Result:
    """One way to train a network: the published figure, and the record of ours."""

    record: str  # the name of a file in RECORDS, which may not exist yet
    published: str = "-"  # names its test in parentheses if that is not our test
    how: str = ""  # the data, and what sets this result apart from the network's other results
    test: str = ""  # our test, if the published figure is of another one
    figure: Callable[[Record], str] = lambda record: percent(errors(record))


@dataclass(frozen=True)
class Rung:
    """A network of the story. `year` is None for modern versions of one."""

    year: int | None
    name: str
    sizes: Callable[[], tuple[int, int]]  # our parameters and connections
    results: Sequence[Result]
    shown: int = 0  # index of the result that README shows
    parameters: int | str = ""  # as published, "" if the paper does not say
    connections: int | str = ""


def sizes_of(model: Any, *image: int) -> Callable[[], tuple[int, int]]:
    """Return a function that counts parameters and connections for one image [H, W, C].

    It traces the network once and computes nothing.
    """

    @functools.cache
    def count() -> tuple[int, int]:
        shape = jax.ShapeDtypeStruct((1, *image), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), shape)
        connections = count_connections(model, image)  # pyright: ignore[reportArgumentType]
        return count_parameters(variables["params"]), sum(connections.values())

    return count


def neocognitron_figure(record: Record) -> str:
    """The share of places where a pattern's own cell answers strongest, and where it alone does."""
    runs = [run["shift"] for run in record["runs"]]
    strongest, alone = (
        statistics.mean(statistics.mean(run[how]) for run in runs) for how in ("strongest", "alone")
    )
    return f"strongest {100 * strongest:.0f} %, alone {100 * alone:.0f} % of places"


# AlexNet's published errors are of ImageNet's validation images, ours of Imagenette's.
TEN_VIEWS, ONE_VIEW = "ImageNet, 10 views", "ImageNet, 1 view"
IMAGENETTE = "10 classes, 1 view"
NARROW = "Imagenette, width 1/4"

RUNGS = (
    Rung(
        1980,
        "neocognitron",
        neocognitron.sizes,
        [
            Result(
                "neocognitron_patterns",
                "own cell alone",
                "patterns 0-4",
                figure=neocognitron_figure,
            ),
            Result("neocognitron_mnist", how="MNIST, linear read-out"),
        ],
    ),
    Rung(
        1989,
        "LeNet 1989",
        sizes_of(LeNet1989(), 16, 16, 1),
        [Result("lenet1989_usps", "5.0 %", "USPS")],
        parameters=9_760,
        connections=64_660,
    ),
    Rung(
        1998,
        "LeNet-5",
        sizes_of(LeNet5_1998(), 32, 32, 1),
        [
            Result("lenet5_1998_mnist", "0.95 %", "MNIST"),
            Result("lenet5_1998_mnist-distorted", "0.8 %", "MNIST, distorted"),
        ],
        parameters=60_000,
        connections=340_908,
    ),
    Rung(
        2003,
        "Simard's MLP",
        sizes_of(SimardMLP(), 28, 28, 1),
        [
            Result("simard2003_mnist-mlp-none", "1.6 %", "MNIST"),
            Result("simard2003_mnist-mlp-none-relu", "1.6 %", "MNIST, ReLU"),
            Result("simard2003_mnist-mlp-affine", "1.1 %", "MNIST, affine"),
            Result("simard2003_mnist-mlp-elastic", "0.7 %", "MNIST, elastic"),
        ],
        shown=3,
    ),
    Rung(
        2003,
        "Simard's convnet",
        sizes_of(SimardConvNet(), 29, 29, 1),
        [
            Result("simard2003_mnist-convnet-affine", "0.6 %", "MNIST, affine"),
            Result("simard2003_mnist-convnet-elastic", "0.4 %", "MNIST, elastic"),
            Result("simard2003_mnist-convnet-elastic-300", "0.4 %", "MNIST, elastic, 300 epochs"),
            Result("simard2003_mnist-convnet-elastic-relu", "0.4 %", "MNIST, elastic, ReLU"),
            Result("simard2003_mnist-convnet-elastic-28", "0.4 %", "MNIST, elastic (α 28), ReLU"),
            Result("simard2003_mnist-convnet-both-relu", "0.4 %", "MNIST, affine + elastic, ReLU"),
        ],
        shown=1,
    ),
    Rung(
        2010,
        "Cireşan's net 1",
        sizes_of(Ciresan2010(1), 29, 29, 1),
        [Result("ciresan2010_mnist-1", "0.49 %", "MNIST, deformed")],
        parameters="1.34 M",
    ),
    Rung(
        2010,
        "Cireşan's net 4",
        sizes_of(Ciresan2010(4), 29, 29, 1),
        [
            Result("ciresan2010_mnist-4", "0.35 %", "MNIST, deformed, 20 epochs"),
            Result("ciresan2010_mnist-4-550", "0.35 %", "MNIST, 550 epochs, rotated or sheared"),
        ],
        shown=1,
        parameters="12.11 M",
    ),
    Rung(
        2012,
        "AlexNet",
        sizes_of(AlexNet2012(), 224, 224, 3),
        [
            Result("alexnet2012_imagenette", f"40.7 % ({TEN_VIEWS})", NARROW, IMAGENETTE),
            Result(
                "alexnet2012_imagenette-no-lrn",
                "+1.4 points (ImageNet)",
                "the same without LRN",
                IMAGENETTE,
            ),
            Result(
                "alexnet2012_imagenette-no-overlap",
                "+0.4 points (ImageNet)",
                "the same, pooling without overlap",
                IMAGENETTE,
            ),
            Result(
                "alexnet2012_imagenette-no-dropout",
                how="the same without dropout",
                test=IMAGENETTE,
            ),
        ],
        parameters="60 M",
    ),
    Rung(
        2014,
        "AlexNet, one tower",
        sizes_of(AlexNet2014(), 224, 224, 3),
        [Result("alexnet2014_imagenette", f"43.5 % ({ONE_VIEW})", NARROW, IMAGENETTE)],
        parameters=61_100_840,
    ),
    Rung(
        2019,
        "AlexNet, blur-pooled",
        sizes_of(AlexNet2019(), 224, 224, 3),
        [Result("alexnet2019_imagenette", f"43.4 % ({ONE_VIEW})", NARROW, IMAGENETTE)],
    ),
    Rung(
        None,
        "LeNet-5, modern form",
        sizes_of(LeNet5(), 28, 28, 1),
        [
            Result("lenet5_digits", how="digits"),
            Result("lenet5_mnist", how="MNIST"),
            Result("lenet5_fashion_mnist", how="Fashion-MNIST"),
        ],
        shown=1,
    ),
    Rung(
        None,
        "MLP with ReLU",
        sizes_of(MLP((800, 800)), 28, 28, 1),
        [Result("mlp_mnist", how="MNIST")],
    ),
    Rung(
        None,
        "AlexNet with AdamW",
        sizes_of(AlexNet2014(10), 128, 128, 3),
        [Result("alexnet2014_imagenette_adamw", how="Imagenette", test=IMAGENETTE)],
    ),
)


def rows() -> list[tuple[str, ...]]:
    """The cells of all results, under `HEADER`; a network's first row has its name and size."""
    table = []
    for rung in RUNGS:
        sizes = map(_size, rung.sizes(), (rung.parameters, rung.connections))
        first = (str(rung.year or ""), rung.name, *sizes)
        for result in rung.results:
            table.append((*first, result.how, result.published, *_ours(result)))
            first = ("",) * len(first)
    return table


def short_rows() -> list[tuple[str, ...]]:
    """The cells of the one result per network that README shows, under `SHORT_HEADER`."""
    table = []
    for rung in RUNGS:
        result = rung.results[rung.shown]
        parameters = _size(rung.sizes()[0], rung.parameters)
        figures = (result.how, result.published, _ours(result)[0])
        table.append((str(rung.year or ""), rung.name, parameters, *figures))
    return table


def results() -> list[Result]:
    """All results, in the order of `rows`."""
    return [result for rung in RUNGS for result in rung.results]


def load(name: str) -> Record | None:
    """The record of that name, None if there is none."""
    path = RECORDS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def percent(values: Sequence[float]) -> str:
    """The mean of fractions, with the standard deviation if there are several: "1.02 % ± 0.16"."""
    text = f"{100 * statistics.mean(values):.2f} %"
    if len(values) > 1:
        text += f" ± {100 * statistics.stdev(values):.2f}"
    return text


def errors(record: Record) -> list[float]:
    """The fraction of examples that each run of the record got wrong."""
    return [1 - run["accuracy"] for run in record["runs"]]


def _size(ours: int, published: int | str) -> str:
    """Our number, with a tick if the paper states the same, else followed by the paper's."""
    tick = " ✓" if published == ours else ""
    return f"{ours:,}{tick}" + (f" ({published})" if published and not tick else "")


def _ours(result: Result) -> tuple[str, str, str, str]:
    """The cells of a result's record: error, seeds, standard error of the test, time."""
    record = load(result.record)
    if record is None:
        return "not trained yet", "", "", ""
    environment, runs = record["environment"], record["runs"]
    figure = result.figure(record) + (f" ({result.test})" if result.test else "")
    times = [run["seconds"] for run in runs if run["seconds"] is not None]  # None: was resumed
    time = _time(statistics.median(times)) if times else "resumed, not timed"
    count, where = environment["devices"], environment["device"]
    if environment["platform"] == "cpu":
        count, where = environment["cores"], "core" if environment["cores"] == 1 else "cores"
    return figure, str(len(runs)), _standard_error(record), f"{time}, {count} {where}"


def _standard_error(record: Record) -> str:
    """How far an error scatters, in points, over test sets of this size: sqrt(p (1 - p) / n)."""
    if "count" not in record:
        return ""
    error = statistics.mean(errors(record))
    return f"{100 * (error * (1 - error) / record['count']) ** 0.5:.2f}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def show() -> None:
    """Print all results."""
    table = Table(*HEADER, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows():
        table.add_row(*row)
    # A narrow terminal then wraps lines, which are easier to read than cells that rich cuts.
    width = Console(width=1000).measure(table).maximum
    Console(width=max(Console().width, width)).print(table)


if __name__ == "__main__":
    with exit_on_user_error():
        show()

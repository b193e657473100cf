"""How far may an image move? Train networks, among them Zhang's (2019), and shift the test images.

    python -m experiments.bench.shift --data-dir DIR --figures docs/pictures
    python -m experiments.bench.shift --images imagenette --stride 8 --max-shift 24 --data-dir DIR

Networks that are not yet trained in `workdir` are trained, then every test image is moved to every
place. The results are in docs/shift.md.
"""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from cnn_jax import cli, runs
from cnn_jax.commands.shift import shift_figures
from cnn_jax.errors import UserError
from cnn_jax.evaluate.shift import ShiftSweep, sweep_shifts
from cnn_jax.figures import save
from cnn_jax.options import Options
from cnn_jax.trained import open_networks
from experiments import (
    alexnet2014_imagenette,
    alexnet2014_mnist,
    alexnet2019_imagenette,
    lenet5_mnist,
    mlp_mnist,
)
from experiments.tools.report import markdown, program


class Network(NamedTuple):
    script: ModuleType
    flags: str
    options: Options = Options()


NARROW = "--width 0.25 --image-size 96 --epochs 30 --batch-size 32"
ONE_STEP = Options(steps_per_dispatch=1, log_every=300, checkpoint_every=3000)
NETWORKS = {
    "mnist": {
        "MLP": Network(mlp_mnist, "--epochs 10 --max-shift 0"),
        "LeNet-5": Network(lenet5_mnist, "--epochs 10 --max-shift 0"),
        "AlexNet": Network(alexnet2014_mnist, ""),
        "AlexNet, blur": Network(alexnet2014_mnist, "--blur"),
        "MLP, shifted": Network(mlp_mnist, "--epochs 10 --max-shift 4"),
        "LeNet-5, shifted": Network(lenet5_mnist, "--epochs 10 --max-shift 4"),
    },
    "imagenette": {
        "AlexNet 2014": Network(alexnet2014_imagenette, NARROW, ONE_STEP),
        "blur-pooled": Network(alexnet2019_imagenette, NARROW, ONE_STEP),
    },
}


@dataclasses.dataclass(frozen=True)
class Config:
    images: Literal["mnist", "imagenette"] = "mnist"
    max_shift: int = 12  # pixels of the stored image
    stride: int = 2  # pixels between shifts along each axis
    workdir: Path = Path("runs/shift")
    figures: Path | None = None  # a folder for the two pictures
    data_dir: Path | None = None
    out: Path | None = None  # a JSON file to write the record to


def run(config: Config) -> dict[str, Any]:
    """Train, sweep and draw; the record has the accuracies and consistencies of each network."""
    files = [f"shift-{config.images}.png", f"shift-{config.images}-curves.png"]
    pictures = [config.figures / file for file in files] if config.figures else []
    for path in pictures:
        if path.exists():
            raise UserError(f"{path} exists already: choose another --figures, or remove it")
    sweeps, trainings = {}, {}
    for name, network in NETWORKS[config.images].items():
        folder = config.workdir / name.replace(",", "").replace(" ", "-")
        options = dataclasses.replace(network.options, workdir=folder, data_dir=config.data_dir)
        script = network.script
        cli.main(script.Config, script.build, options, arguments=network.flags.split())
        (trained,) = open_networks(folder)
        sweeps[name] = sweep_shifts(trained, config.max_shift, config.stride, batch_size=100)
        trainings[name] = training(folder)
    for path, figure in zip(pictures, shift_figures(sweeps).values(), strict=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        save(figure, path)
    (split,) = {sweep.split for sweep in sweeps.values()}
    entries = [described(name, sweep) | trainings[name] for name, sweep in sweeps.items()]
    return {"split": split, "runs": entries}


def training(folder: Path) -> dict[str, Any]:
    """Identify the training behind a sweep, which older code may have done earlier."""
    receipt, result = runs.finished(folder)
    return {
        "config": receipt["config"],
        "source_sha256": receipt["environment"]["source_sha256"],
        "parameters_sha256": result["parameters_sha256"],
    }


def described(name: str, sweep: ShiftSweep) -> dict[str, Any]:
    """Describe a sweep for a record: no paths, and maps of shares rounded to four places."""
    content = {"network": name, **sweep.to_json()}
    del content["run"]
    for what in ("accuracy", "consistency"):
        content[what] = [[round(share, 4) for share in row] for row in content[what]]
    return content


def table(record: dict[str, Any]) -> str:
    """A Markdown table of accuracy by distance, in per cent."""
    first = record["runs"][0]
    lines = [("pixels", *map(str, first["distances"]))]
    for run in record["runs"]:
        shares = run["accuracy_by_distance"]
        lines.append((run["network"], *(f"{100 * share:.1f}" for share in shares)))
    return markdown(lines)


if __name__ == "__main__":
    program(Config, run)

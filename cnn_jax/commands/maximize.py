"""`maximize`: find the image patches that excite a unit most."""

import json as json_module
from typing import Annotated, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cnn_jax.commands.arguments import (
    BatchSize,
    Flag,
    Member,
    Out,
    Run,
    RunDataDir,
    Split,
    Step,
    Trust,
    argument,
    check_out,
    trust_scripts,
)
from cnn_jax.see.maximize import Excited
from cnn_jax.see.maximize import maximize as maximized
from cnn_jax.trained import open_network


def maximize(
    run: Run,
    layer: Annotated[str, argument("LAYER")],
    unit: Annotated[int, argument("NUMBER")] = 0,
    count: Annotated[int, argument("INT")] = 9,
    member: Member = 0,
    split: Split = None,
    step: Step = None,
    data_dir: RunDataDir = None,
    trust: Trust = False,
    batch_size: BatchSize = 250,
    out: Out = None,
    json: Flag = False,
) -> None:
    """Find the image patches of a whole split that excite a unit most.

    A patch is the receptive field of the unit, the part of the image that it sees. Each image
    contributes one patch, where its feature map is largest. Convolutions are taken before their
    activation.

    Args:
        layer: Name of a layer, as `maps` lists them.
        unit: Number of a feature map of the layer, or of a unit of a dense layer, from 0.
        count: Number of patches.
        out: New or empty folder for patches.png and maximize.json.
        json: Print JSON instead of a table.
    """
    check_out(out)
    trust_scripts(trust, (run,))
    trained = open_network(run, member, step, data_dir)
    dataset = trained.experiment.dataset
    split = split or trained.experiment.eval_split
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{layer}, unit {unit}")
        strongest = maximized(
            trained,
            layer,
            unit,
            count,
            split,
            batch_size,
            lambda done, examples: progress.update(task, completed=done, total=examples),
        )

    content = {
        "run": trained.run,
        "step": trained.step,
        "dataset": dataset.name,
        "split": split,
        "layer": layer,
        "unit": unit,
        "patches": [
            patch.to_json() | {"class": dataset.class_names[patch.label]} for patch in strongest
        ],
    }
    if out is not None:
        from cnn_jax.figures import save

        out.mkdir(parents=True, exist_ok=True)
        (out / "maximize.json").write_text(
            json_module.dumps(content, indent=1) + "\n", encoding="utf-8"
        )
        save(drawn(strongest, f"{layer}, unit {unit}: strongest in {split}"), out / "patches.png")
    if json:
        print(json_module.dumps(content))
        return
    table = Table("example", "class", "activation", "place", "rows", "columns", box=SIMPLE_HEAD)
    for patch in strongest:
        top, left, bottom, right = patch.box
        place = "-" if patch.place is None else f"{patch.place[0]}, {patch.place[1]}"
        where = (place, f"{top} to {bottom - 1}", f"{left} to {right - 1}")
        name = dataset.class_names[patch.label]
        table.add_row(str(patch.index), name, f"{patch.activation:.4g}", *where)
    Console().print(table)


def drawn(patches: list[Excited], title: str) -> Any:
    """A figure of the patches, each with the number of its example and the activation."""
    from cnn_jax.figures import patches as figures

    captions = [f"no. {patch.index}: {patch.activation:.2f}" for patch in patches]
    images, boxes = [patch.image for patch in patches], [patch.box for patch in patches]
    return figures.patches(images, boxes, captions, title)

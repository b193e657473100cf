"""`maximize`: the patches of a dataset that excite a unit most."""

import json as json_module
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cnn_jax.commands.arguments import DataDir, Out, Run, check_out
from cnn_jax.figures import patches as figures
from cnn_jax.figures import save
from cnn_jax.see.maximize import Excited
from cnn_jax.see.maximize import maximize as maximized
from cnn_jax.trained import open_network


def maximize(
    run: Run,
    layer: str,
    unit: int = 0,
    count: int = 9,
    member: int = 0,
    split: str | None = None,
    step: int | Literal["best"] | None = None,
    data_dir: DataDir = None,
    batch_size: int = 250,
    out: Out = None,
    json: bool = False,
) -> None:
    """Find what a unit answers to: the patches, over a whole split, that excite it most.

    A unit of a feature map sees a part of the image, its receptive field; each image is taken at
    the place where the map is largest. Layers give what they return: convolutions come before their
    activation.

    Args:
        run: A run folder.
        layer: Name of a layer, as `maps` lists them.
        unit: Feature map of the layer, or unit of a dense one, from 0.
        count: Patches, of as many images.
        member: Which of several networks trained side by side, from 0.
        split: Split of the run's dataset. Default: the one evaluated while training.
        step: Which checkpoint: a step, or best. Default: the last.
        data_dir: Where prepared datasets lie. Default: where the run had them.
        batch_size: Examples at once; changes speed and memory, not the result.
        out: New or empty folder for patches.png and maximize.json.
        json: Print JSON instead of a table.
    """
    check_out(out)
    trained = open_network(run, member, step, data_dir)
    dataset = trained.experiment.dataset
    split = split or trained.experiment.eval_split
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{layer}, unit {unit}")
        found = maximized(
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
        "patches": [each.to_json() | {"class": dataset.class_names[each.label]} for each in found],
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "maximize.json").write_text(json_module.dumps(content, indent=1) + "\n")
        save(drawn(found, f"{layer}, unit {unit}: strongest in {split}"), out / "patches.png")
    if json:
        print(json_module.dumps(content))
        return
    table = Table("example", "class", "activation", "place", "rows", "columns", box=SIMPLE_HEAD)
    for each in found:
        top, left, bottom, right = each.box
        place = "-" if each.place is None else f"{each.place[0]}, {each.place[1]}"
        where = (place, f"{top} to {bottom - 1}", f"{left} to {right - 1}")
        name = dataset.class_names[each.label]
        table.add_row(str(each.index), name, f"{each.activation:.4g}", *where)
    Console().print(table)


def drawn(found: list[Excited], title: str) -> figures.Figure:
    """The patches with the number of their example and the activation."""
    captions = [f"no. {each.index}: {each.activation:.2f}" for each in found]
    images, boxes = [each.image for each in found], [each.box for each in found]
    return figures.patches(images, boxes, captions, title)

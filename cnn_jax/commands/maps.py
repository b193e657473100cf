"""`maps`: show every feature map of a trained network for one image."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rich.console import Console

from cnn_jax.commands.arguments import (
    Layers,
    Member,
    Out,
    Run,
    RunDataDir,
    Split,
    Step,
    Trust,
    argument,
    check_out,
    layer_table,
    trust_scripts,
)
from cnn_jax.errors import UserError
from cnn_jax.see.images import example, open_file
from cnn_jax.see.layers import chosen, look
from cnn_jax.trained import Trained, open_network


def maps(
    run: Run,
    image: Annotated[Path | None, argument("FILE", default="an example of the split")] = None,
    index: Annotated[int | None, argument("NUMBER", default="0")] = None,
    layers: Layers = (),
    member: Member = 0,
    split: Split = None,
    step: Step = None,
    data_dir: RunDataDir = None,
    trust: Trust = False,
    out: Out = None,
) -> None:
    """Show the output of every layer of a trained network for one image.

    Outputs are what the layers return: those of convolutions are before the activation. In the
    figures red is positive, white zero, blue negative, on one scale per layer.

    Args:
        image: An image file; it is scaled and cropped to the size of the dataset's images.
        index: Number of the example in the split.
        out: New or empty folder for one figure per layer (PNG), numbered in order of depth.
    """
    if image is not None and (index is not None or split is not None):
        raise UserError("give --image, or --index and --split, not both")
    check_out(out)
    trust_scripts(trust, (run,))
    trained = open_network(run, member, step, data_dir)
    pixels, label = _image(trained, image, index or 0, split)
    seen = look(trained, pixels)
    shown = chosen(seen.layers, layers)

    names = trained.experiment.dataset.class_names
    likeliest = int(seen.logits.argmax())
    verdict = f"{names[likeliest]} ({100 * seen.probabilities[likeliest]:.1f} %)"
    truth = "" if label is None else f", labelled {names[label]}"
    if out is not None:
        from cnn_jax.figures import maps as figures
        from cnn_jax.figures import save

        out.mkdir(parents=True, exist_ok=True)
        title = f"seen as {verdict}{truth}"
        figure = figures.prediction(pixels, seen.probabilities, names, title)
        save(figure, out / "00-prediction.png")
        for number, (name, values) in enumerate(seen.layers.items(), start=1):
            if name in shown:
                file = f"{number:02d}-{name.replace('/', '-')}.png"
                save(_figure(name, values, names), out / file)
    rows = {
        name: ("x".join(map(str, x.shape)), f"{x.min():.3g}", f"{x.max():.3g}")
        for name, x in shown.items()
    }
    Console().print(layer_table(rows, "shape", "lowest", "highest"))
    print(f"{trained.run}, step {trained.step}: {verdict}{truth}")


def _image(
    trained: Trained, file: Path | None, index: int, split: str | None
) -> tuple[np.ndarray, int | None]:
    experiment = trained.experiment
    if file is None:
        return example(experiment.dataset, split or experiment.eval_split, index)
    height, width, channels = experiment.dataset.image_shape
    if height == width:
        return open_file(file, channels, size=height), None
    pixels = open_file(file, channels)
    if pixels.shape[:2] != (height, width):
        raise UserError(
            f"{file} has {pixels.shape[0]}x{pixels.shape[1]} pixels, but the images of "
            f"{trained.run} have {height}x{width}"
        )
    return pixels, None


def _figure(name: str, values: np.ndarray, classes: tuple[str, ...]) -> Any:
    from cnn_jax.figures import maps as figures

    if values.ndim == 3:
        height, width, count = values.shape
        title = f"{name}: {count} feature map{'s' * (count > 1)} of {height}x{width}"
        return figures.tiles(values, title, "response")
    flat = values.ravel()
    return figures.units(flat, f"{name}: {len(flat)} units", classes)

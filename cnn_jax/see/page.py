"""One HTML file in which trained networks look at what is drawn: no server, no network.

`cnn_jax/page_template` holds the page; `make_page` puts it together with the networks, as JSON, and
some test images. The layers are those of `models.layer_list`, before them what happens to an image:

    {"type": "place", "rows": [H', H], "columns": [W', W]}    rows @ image @ columns.T, each channel
    {"type": "standardise", "mean": [C], "std": [C]}          (image - mean) / std

An array is {"shape", "type": "float32" or "int16", "base64": little endian}. Weights as int16 have
a "scale" too, what 1 stands for, a number for each of the last axis: the largest weight of a unit
is 32,767. That is as short as float16, and on trained weights nearer to them.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.augment.basic import ByLabel
from cnn_jax.errors import UserError
from cnn_jax.models import count_parameters
from cnn_jax.see.layer_list import Layer, layer_list
from cnn_jax.step import prepare_images
from cnn_jax.trained import Trained

MAX_BYTES = 12_000_000  # of weights on one page, before base64 makes them a third longer
MAX_SIDE = 64  # pixels of an image
TEMPLATE = Path(__file__).parent / "page_template"
SCRIPTS = ("forward", "explain", "paint", "pad", "maps", "unit", "kernel", "main")


def make_page(
    networks: Mapping[str, Trained],
    split: str | None = None,
    examples: int = 40,
    half: bool = False,
) -> str:
    """The page, HTML.

    Args:
        networks: by the name that the page calls them; all see images of one size and classes.
        split: of the first network's dataset, from which the page has images to choose; None is the
            one it was evaluated on while training.
        examples: how many of its images, evenly from its whole length.
        half: write weights as int16, half as long. They are too if float32 makes the page too
            large.

    Raises:
        UserError: the networks do not go together, are too large, or have a layer or a transform
            that the page does not know.
    """
    content = page_content(networks, split, examples, half)
    html = (TEMPLATE / "page.html").read_text()
    # In a script element only "</" and "<!--" could end the data early.
    parts = {
        "{{style}}": (TEMPLATE / "page.css").read_text(),
        "{{content}}": json.dumps(content).replace("<", "\\u003c"),
        "{{script}}": "\n".join((TEMPLATE / f"{name}.js").read_text() for name in SCRIPTS),
    }
    for mark, text in parts.items():
        html = html.replace(mark, text)
    return html


def page_content(
    networks: Mapping[str, Trained], split: str | None, examples: int, half: bool
) -> dict[str, Any]:
    """What the page is told, ready for JSON; arguments and errors: `make_page`'s."""
    _check_together(networks)
    first = next(iter(networks.values())).experiment
    source = first.dataset.open(split or first.eval_split)
    if examples < 1:
        raise UserError(f"--examples must be at least 1, got {examples}")
    _check_size(networks)
    wide = 4 * _weights(networks) > MAX_BYTES
    kind = "int16" if half or wide else "float32"
    places = np.unique(np.linspace(0, len(source) - 1, examples).round().astype(int))
    batch = source.read(places)
    return {
        "classes": list(first.dataset.class_names),
        "dataset": first.dataset.name,
        "split": split or first.eval_split,
        "height": first.dataset.image_shape[0],
        "width": first.dataset.image_shape[1],
        "images": base64.b64encode(batch["image"].tobytes()).decode(),
        "labels": batch["label"].tolist(),
        "weights": kind,
        "networks": [
            {
                "name": name,
                "step": trained.step,
                "parameters": count_parameters(trained.params),
                "layers": [_encoded(layer, kind) for layer in network_layers(trained)],
            }
            for name, trained in networks.items()
        ],
    }


def network_layers(trained: Trained) -> list[Layer]:
    """All that happens between an image of the dataset, in 0 .. 1, and the logits.

    Raises:
        UserError: a layer, or a transform of evaluation, is one that the page does not know.
    """
    experiment = trained.experiment
    shape = experiment.dataset.image_shape
    images = np.random.default_rng(0).integers(0, 256, (8, *shape)).astype(np.uint8)
    # Noise of all strengths, down to a blank image, so that no activation looks like another.
    images = (images * np.linspace(0, 1, 8)[:, None, None, None]).astype(np.uint8)
    standardised = prepare_images(experiment, experiment.eval_transforms, images, None)  # pyright: ignore
    variables = trained.variables
    try:
        layers = layer_list(experiment.model, variables, standardised)
    except UserError as error:
        raise UserError(f"{trained.run} cannot be put on a page: {error}") from None
    mean, std = (
        np.asarray(x, np.float32) for x in (experiment.dataset.mean, experiment.dataset.std)
    )
    place = _place(trained, images) if experiment.eval_transforms else []
    return [*place, {"type": "standardise", "mean": mean, "std": std}, *layers]


def _place(trained: Trained, images: np.ndarray) -> list[Layer]:
    """The transforms of evaluation as a matrix for the rows and one for the columns.

    Resizing, padding and cropping are that. The matrices are found by lighting one row of a black
    image, then one column, and compared on other images.
    """
    transforms = trained.experiment.eval_transforms

    def transform(images: np.ndarray) -> np.ndarray:
        for each in transforms:
            if isinstance(each, ByLabel):
                raise UserError(f"{trained.run}: a transform by label has no place in evaluation")
            images = jax.vmap(each, (None, 0))(None, images)  # pyright: ignore
        return np.asarray(images, np.float32)

    height, width, channels = images.shape[1:]
    lit = np.zeros((height + width, height, width, channels), np.uint8)
    lit[np.arange(height), np.arange(height)] = 255
    lit[height + np.arange(width), :, np.arange(width)] = 255
    seen = transform(lit)[..., 0] / 255  # [H + W, H', W']
    by_row, by_column = seen[:height], seen[height:]
    whole = by_row.sum(0)
    y, x = np.unravel_index(whole.argmax(), whole.shape)
    rows, columns = by_row[:, :, x].T, by_column[:, y].T / max(whole[y, x], 1e-9)
    expected = np.einsum("yi,nijc,xj->nyxc", rows, images.astype(np.float32), columns)
    given = transform(images)
    if given.shape != expected.shape or not np.allclose(given, expected, rtol=0, atol=0.01):
        raise UserError(
            f"{trained.run} cannot be put on a page: before evaluation it changes its images by "
            "more than resizing, padding or cropping them"
        )
    return [{"type": "place", "rows": rows, "columns": columns}]


def _check_together(networks: Mapping[str, Trained]) -> None:
    if not networks:
        raise UserError("page needs at least one run folder")
    datasets = {name: trained.experiment.dataset for name, trained in networks.items()}
    (first_name, first), *others = datasets.items()
    for name, other in others:
        if other.image_shape != first.image_shape or other.class_names != first.class_names:
            raise UserError(
                f"{first_name} ({first.name}) and {name} ({other.name}) do not go on one page: "
                "their images differ in size, or their classes"
            )
    height, width, channels = first.image_shape
    if channels != 1 or max(height, width) > MAX_SIDE:
        raise UserError(
            f"the page draws grey images of up to {MAX_SIDE}x{MAX_SIDE} pixels, "
            f"{first_name} sees {height}x{width} with {channels} channels"
        )


def _check_size(networks: Mapping[str, Trained]) -> None:
    weights = _weights(networks)
    if 2 * weights > MAX_BYTES:
        raise UserError(
            f"a page holds at most {MAX_BYTES // 2:,} weights, as int16; "
            f"{', '.join(networks)} have {weights:,} together"
        )


def _weights(networks: Mapping[str, Trained]) -> int:
    return sum(count_parameters(trained.params) for trained in networks.values())


def _encoded(layer: Layer, kind: str) -> Layer:
    def encode(name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if kind == "int16" and name == "kernel":
            scale = np.maximum(np.abs(value).max(tuple(range(value.ndim - 1))), 1e-30) / 32767
            whole = np.rint(value / scale)
            return {**array(whole, "int16"), "scale": array(scale, "float32")}
        return array(value, "float32")

    def array(value: np.ndarray, kind: str) -> dict[str, Any]:
        data = value.astype(np.dtype(kind).newbyteorder("<")).tobytes()
        text = base64.b64encode(data).decode()
        return {"shape": list(value.shape), "type": kind, "base64": text}

    return {name: encode(name, value) for name, value in layer.items()}

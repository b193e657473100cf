"""Write one HTML file in which trained networks look at what is drawn, without any server.

`page_template` holds the page; `make_page` puts it together with the networks, as JSON, and some
test images. The layers are those of `layer_list`, preceded by what happens to an image:

    {"type": "place", "rows": [H', H], "columns": [W', W]}    rows @ image @ columns.T, each channel
    {"type": "standardise", "mean": [C], "std": [C]}          (image - mean) / std

An array is {"shape", "type": "float32" or "int16", "base64": little endian}. Weights as int16 also
have a "scale", the value of 1, with one number per index of the last axis: the largest weight of a
unit is 32,767. That is as short as float16, and closer to trained weights.
"""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.augment.basic import ByLabel
from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import check_range
from cnn_jax.models import count_parameters
from cnn_jax.see.layer_list import Layer, layer_list
from cnn_jax.step import prepare_images
from cnn_jax.trained import Trained

MAX_BYTES = 12_000_000  # of all weights on a page, before base64 makes them a third longer
MAX_SIDE = 64  # of an image, in pixels
TEMPLATE = Path(__file__).parent / "page_template"
SCRIPTS = ("forward", "explain", "paint", "pad", "maps", "unit", "kernel", "main")


def make_page(
    networks: Mapping[str, Trained],
    split: str | None = None,
    examples: int = 40,
    half: bool = False,
) -> str:
    """Write the page, HTML.

    Args:
        networks: by their names on the page; their images have one size and the same classes.
        split: of the first network's dataset, from which the example images are taken; None is the
            split it was evaluated on while training.
        examples: the number of example images, evenly spaced over the split.
        half: write weights as int16, half as long. This also happens if float32 would make the
            page too large.

    Raises:
        UserError: the networks do not fit together, are too large, or have a layer or a transform
            that the page does not know.
    """
    parts = {
        "style": _template("page.css"),
        "content": _json_in_script(page_content(networks, split, examples, half)),
        "script": "\n".join(_template(f"{name}.js") for name in SCRIPTS),
    }
    # In one pass, so that a mark inside a part, as in the name of a class, stays what it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _template("page.html"))


def _template(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")


def _json_in_script(content: Mapping[str, Any]) -> str:
    """JSON in ASCII without "<", with which alone "</script>" and "<!--" could end it early."""
    return json.dumps(content).replace("<", "\\u003c")


def page_content(
    networks: Mapping[str, Trained], split: str | None, examples: int, half: bool
) -> dict[str, Any]:
    """The data of the page, ready for JSON. Arguments and errors are those of `make_page`."""
    _check_together(networks)
    first = next(iter(networks.values())).experiment
    source = first.dataset.open(split or first.eval_split)
    check_range("--examples", examples, least=1)
    _check_size(networks)
    too_long = 4 * _count_weights(networks) > MAX_BYTES
    kind = "int16" if half or too_long else "float32"
    count = min(examples, len(source))
    indices = np.unique(np.linspace(0, len(source) - 1, count).round().astype(int))
    batch = source.read(indices)
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
    """List everything that happens between an image of the dataset, in 0 .. 1, and the logits.

    Raises:
        UserError: the page does not know a layer, or a transform of evaluation.
    """
    experiment = trained.experiment
    shape = experiment.dataset.image_shape
    images = np.random.default_rng(0).integers(0, 256, (8, *shape)).astype(np.uint8)
    # Noise from full strength down to a blank image, so that no two activations look alike.
    images = (images * np.linspace(0, 1, 8)[:, None, None, None]).astype(np.uint8)
    standardised = prepare_images(experiment, experiment.eval_transforms, images, None)  # pyright: ignore
    try:
        layers = layer_list(experiment.model, trained.variables, standardised)
    except UserError as error:
        raise UserError(f"{trained.run} cannot be put on a page: {error}") from None
    mean, std = (
        np.asarray(x, np.float32) for x in (experiment.dataset.mean, experiment.dataset.std)
    )
    place = _place(trained, images) if experiment.eval_transforms else []
    return [*place, {"type": "standardise", "mean": mean, "std": std}, *layers]


def _place(trained: Trained, images: np.ndarray) -> list[Layer]:
    """The transforms of evaluation as one matrix for the rows and one for the columns.

    Resizing, padding and cropping can be written so. The matrices are measured by lighting one row
    of a black image, then one column, and checked on other images.
    """
    transforms = trained.experiment.eval_transforms

    def transform(images: np.ndarray) -> np.ndarray:
        for f in transforms:
            if isinstance(f, ByLabel):
                raise UserError(f"{trained.run}: evaluation cannot have a transform by label")
            images = jax.vmap(f, (None, 0))(None, images)  # pyright: ignore
        return np.asarray(images, np.float32)

    height, width, channels = images.shape[1:]
    lit = np.zeros((height + width, height, width, channels), np.uint8)
    lit[np.arange(height), np.arange(height)] = 255
    lit[height + np.arange(width), :, np.arange(width)] = 255
    seen = transform(lit)[..., 0] / 255  # [H + W, H', W']
    by_row, by_column = seen[:height], seen[height:]
    all_lit = by_row.sum(0)
    y, x = np.unravel_index(all_lit.argmax(), all_lit.shape)
    rows, columns = by_row[:, :, x].T, by_column[:, y].T / max(all_lit[y, x], 1e-9)
    expected = np.einsum("yi,nijc,xj->nyxc", rows, images.astype(np.float32), columns)
    transformed = transform(images)
    if transformed.shape != expected.shape or not np.allclose(
        transformed, expected, rtol=0, atol=0.01
    ):
        raise UserError(
            f"{trained.run} cannot be put on a page: its transforms before evaluation do more than "
            "resizing, padding or cropping images"
        )
    return [{"type": "place", "rows": rows, "columns": columns}]


def _check_together(networks: Mapping[str, Trained]) -> None:
    if not networks:
        raise UserError("page needs at least one run folder")
    datasets = {name: trained.experiment.dataset for name, trained in networks.items()}
    (first_name, first), *others = datasets.items()
    for name, dataset in others:
        if dataset.image_shape != first.image_shape or dataset.class_names != first.class_names:
            raise UserError(
                f"{first_name} ({first.name}) and {name} ({dataset.name}) do not go on one page: "
                "their image sizes or their classes differ"
            )
    height, width, channels = first.image_shape
    if channels != 1 or max(height, width) > MAX_SIDE:
        raise UserError(
            f"the page draws grey images of up to {MAX_SIDE}x{MAX_SIDE} pixels, but the images of "
            f"{first_name} have {height}x{width} pixels and {channels} channels"
        )


def _check_size(networks: Mapping[str, Trained]) -> None:
    weights = _count_weights(networks)
    if 2 * weights > MAX_BYTES:
        raise UserError(
            f"a page holds at most {MAX_BYTES // 2:,} weights, as int16; "
            f"{', '.join(networks)} have {weights:,} in all"
        )


def _count_weights(networks: Mapping[str, Trained]) -> int:
    return sum(count_parameters(trained.params) for trained in networks.values())


def _encoded(layer: Layer, kind: str) -> Layer:
    """A layer with its arrays as JSON holds them, the kernel as `kind`."""

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

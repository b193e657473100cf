"""The patches of a dataset that excite a unit of a trained network most."""

import heapq
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.devices.feed import open_feed
from cnn_jax.devices.parallel import AXIS
from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import check_range
from cnn_jax.evaluate.exact import Progress, make_walk
from cnn_jax.see.layers import chosen, layer_output, layer_shapes, prepared
from cnn_jax.see.receptive import Box, receptive_field
from cnn_jax.step import prepare_images
from cnn_jax.trained import Trained

MOST_PATCHES = 1000  # in one figure


@dataclass(frozen=True)
class Excited:
    """One example, with the place where the unit answers most and the pixels that it sees there."""

    index: int  # of the example in its split
    label: int
    activation: float
    place: tuple[int, int] | None  # row and column in the feature map; None for a dense unit
    box: Box  # in pixels of `image`; beyond its edges the unit sees padding
    image: np.ndarray  # [H, W, C], 0 .. 1, as the network sees it but for standardisation

    def to_json(self) -> dict[str, Any]:
        """Everything but the pixels."""
        names = ("index", "label", "activation", "place", "box")
        return {name: getattr(self, name) for name in names}


def maximize(
    trained: Trained,
    layer: str,
    unit: int = 0,
    count: int = 9,
    split: str | None = None,
    batch_size: int = 250,
    progress: Progress | None = None,
) -> list[Excited]:
    """The `count` examples that excite a unit most, the strongest first; each at its best place.

    All examples of the split are shown to the network, as in evaluation. Of equal activations the
    first example, and in it the first place, row by row, comes first.

    Args:
        layer: a name of `see.layers.layer_outputs`. Convolutions come before their activation.
        unit: a feature map of the layer, or a unit of a dense one, from 0.
        split: of the run's dataset; None is the one it was evaluated on while training.
        batch_size: examples at once, rounded up to a multiple of the devices.

    Raises:
        UserError: there is no such layer, unit or split, or a number is out of its range.
    """
    check_range("--count", count, least=1, most=MOST_PATCHES)
    experiment = trained.experiment
    blank = prepared(trained, np.zeros(experiment.dataset.image_shape, np.uint8))
    variables = trained.variables
    shapes = layer_shapes(experiment.model, variables, blank)
    shape = next(iter(chosen(shapes, (layer,)).values()))
    if not 0 <= unit < shape[-1]:
        raise UserError(f"{layer} has the units 0 to {shape[-1] - 1}, not {unit}")
    split = split or experiment.eval_split
    source = experiment.dataset.open(split)
    field = None
    if len(shape) == 3:
        _, height, width, channels = blank.shape
        field = receptive_field(experiment.model, (height, width, channels), layer, unit)

    strongest = _strongest(trained, layer, unit, count, split, batch_size, progress)
    batch = source.read([index for _, index, _ in strongest])
    excited = []
    for (value, index, at), pixels, label in zip(
        strongest, batch["image"], batch["label"], strict=True
    ):
        place = (at // shape[1], at % shape[1]) if len(shape) == 3 else None
        image = shown(trained, pixels)
        whole = (0, 0, *image.shape[:2])
        box = whole if field is None or place is None else field.box(*place)
        excited.append(Excited(index, int(label), value, place, box, image))
    return excited


def shown(trained: Trained, image: np.ndarray) -> np.ndarray:
    """An image, uint8 [H, W, C], as the network sees it but in colours: [H', W', C], 0 .. 1."""
    dataset = trained.experiment.dataset
    mean, std = (np.asarray(x, np.float32) for x in (dataset.mean, dataset.std))
    pixels = np.asarray(prepared(trained, image))[0] * std + mean
    return np.clip(pixels, 0, 1)


def _strongest(
    trained: Trained,
    layer: str,
    unit: int,
    count: int,
    split: str,
    batch_size: int,
    progress: Progress | None,
) -> list[tuple[float, int, int]]:
    """Find the strongest: (activation, example, place in the map counted row by row), in order."""
    experiment = trained.experiment
    feed = open_feed(experiment.dataset, split)

    def maxima(params: Any, model_state: Any, batch: Any) -> Any:
        images = prepare_images(experiment, experiment.eval_transforms, batch["image"], keys=None)
        variables = {"params": params, **model_state}
        maps = layer_output(experiment.model, variables, images, layer)[..., unit]
        flat = maps.reshape(len(maps), -1).astype(jnp.float32)
        answer = (flat.max(-1), flat.argmax(-1), batch["position"], batch["mask"])
        return lax.all_gather(answer, AXIS, tiled=True)

    walk = make_walk(maxima, replicated=2)
    network = (trained.params, trained.model_state)
    strongest: list[tuple[float, int, int]] = []
    seen = 0
    for batch in walk(feed, batch_size, *network, progress=progress):
        *columns, mask = (np.asarray(x) for x in batch)
        values, places, examples = (column[mask > 0].tolist() for column in columns)
        candidates = strongest + list(zip(values, examples, places, strict=True))
        strongest = heapq.nsmallest(count, candidates, key=lambda entry: (-entry[0], entry[1]))
        seen += len(values)
    if seen != feed.num_examples:
        raise RuntimeError(f"searched {seen} examples of {feed.num_examples} in {split}")
    return strongest

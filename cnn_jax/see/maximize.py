"""The patches of a dataset that excite a unit of a trained network most."""

import heapq
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnn_jax.devices import parallel
from cnn_jax.devices.feed import Told, evaluation_blocks, fetch, open_feed, tell_nobody
from cnn_jax.devices.parallel import AXIS
from cnn_jax.errors import UserError
from cnn_jax.see.layers import layer_output, layer_shapes
from cnn_jax.see.network import chosen, prepared
from cnn_jax.see.receptive import Box, receptive_field
from cnn_jax.step import prepare_images
from cnn_jax.trained import Trained


@dataclass(frozen=True)
class Excited:
    """One example, where in it the unit answers most, and what it sees there."""

    index: int  # of the example in its split
    label: int
    activation: float
    place: tuple[int, int] | None  # row and column in the feature map; None of a unit without one
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
    told: Told = tell_nobody,
) -> list[Excited]:
    """The `count` examples that excite a unit most, the strongest first; each at its best place.

    All examples of the split are shown to the network, as in evaluation. Of equal activations the
    first example, and in it the first place, row by row, comes first.

    Args:
        layer: a name of `models.inside.layer_outputs`. Convolutions come before their activation.
        unit: a feature map of the layer, or a unit of a dense one, from 0.
        split: of the run's dataset; None is the one it was evaluated on while training.
        batch_size: examples at once, rounded up to a multiple of the devices.

    Raises:
        UserError: there is no such layer, unit or split, or a number is out of its range.
    """
    if count < 1 or batch_size < 1:
        raise UserError(f"--count and --batch-size are at least 1, got {count} and {batch_size}")
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

    found = _strongest(trained, layer, unit, count, split, batch_size, told)
    batch = source.read([index for _, index, _ in found])
    excited = []
    for (value, index, at), pixels, label in zip(
        found, batch["image"], batch["label"], strict=True
    ):
        place = (at // shape[1], at % shape[1]) if len(shape) == 3 else None
        image = shown(trained, pixels)
        whole = (0, 0, *image.shape[:2])
        box = whole if field is None or place is None else field.box(*place)
        excited.append(Excited(index, int(label), value, place, box, image))
    return excited


def shown(trained: Trained, image: np.ndarray) -> np.ndarray:
    """An image, uint8 [H, W, C], as the network sees it, with its colours: [H', W', C], 0 .. 1."""
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
    told: Told,
) -> list[tuple[float, int, int]]:
    """(activation, example, place in the map counted row by row), the strongest first."""
    experiment = trained.experiment
    feed = open_feed(experiment.dataset, split, "auto", readers=0)
    examples = feed.dataset.num_examples(split)
    batch_size = parallel.round_up(min(batch_size, examples))

    def one_batch(params: Any, model_state: Any, resident: Any, items: Any) -> Any:
        batch = fetch(resident, jax.tree.map(lambda x: x[0], items))  # a block of one batch
        images = prepare_images(experiment, experiment.eval_transforms, batch["image"], keys=None)
        variables = {"params": params, **model_state}
        maps = layer_output(experiment.model, variables, images, layer)[..., unit]
        flat = maps.reshape(len(maps), -1).astype(jnp.float32)
        answer: tuple[Array, Array] = flat.max(-1), flat.argmax(-1)
        return lax.all_gather(answer, AXIS, tiled=True)

    mapped = parallel.map_replicated(one_batch, replicated=3)
    kept: list[tuple[float, int, int]] = []
    start = 0
    for block in parallel.ahead(evaluation_blocks(feed, batch_size), parallel.share_out):
        answer = mapped(trained.params, trained.model_state, feed.resident, block)
        # The last batch is filled up with examples that were seen already.
        values, places = (np.asarray(x)[: examples - start] for x in answer)
        new = [
            (float(value), start + i, int(place))
            for i, (value, place) in enumerate(zip(values, places, strict=True))
        ]
        kept = heapq.nsmallest(count, kept + new, key=lambda each: (-each[0], each[1]))
        start += len(values)
        told(start, examples)
    if start != examples:
        raise RuntimeError(f"looked at {start} examples of {examples} in {split}")
    return kept

"""Measure the receptive field of a unit, the part of the image that it sees, in any Flax network.

The field is measured by running the network, so that branches and unknown layers make no
difference: pixels that a unit does not see can change without changing the unit by a single bit.
How many rows that is at the top is found by bisection, and so are the other three sides. So that no
pixel's influence can hide, all weights are positive and pixels are only ever raised: no ReLU
closes, nothing cancels, and a raised pixel is the maximum of every window that it lies in. (Some
twenty layers deep, the influence of a field's outermost pixels is still within float32.)

Units near an edge see less. What they would see of a larger image follows from two units in the
middle of an image that is enlarged until their fields lie inside it.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnn_jax.errors import UserError
from cnn_jax.ops.geometry import Pair
from cnn_jax.ops.operators import plain_forms
from cnn_jax.see.layers import layer_output

Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two excluded

GRID = 64  # images grow by its multiples: then strides up to 64, and "SAME", fall as before
WEIGHT = 0.25  # for biases and scales: activations stay where tanh is not flat
RAISED = 1e4  # what a pixel is raised to, from 1


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive fields of a feature map's units, in pixels; all pairs are (row, column)."""

    start: Pair  # the first pixel that the first unit sees; negative where maps are padded
    size: Pair
    stride: Pair  # from a unit to the next

    def box(self, row: int, column: int) -> Box:
        """The receptive field of a unit. Beyond the edges of the image, the unit sees padding.

        (At an edge that is padded by reflection a unit sees no other pixels, except for a blur with
        an even number of taps: one more at the right and at the bottom.)
        """
        top = self.start[0] + row * self.stride[0]
        left = self.start[1] + column * self.stride[1]
        return top, left, top + self.size[0], left + self.size[1]


def receptive_field(
    model: Any, image_shape: tuple[int, int, int], layer: str, unit: int = 0
) -> ReceptiveField | None:
    """Measure the fields of a feature map; None if its units see the whole of any image.

    Args:
        model: a Flax Linen module, called as in evaluation. Its parameters do not matter.
        image_shape: [H, W, C], as the network sees images.
        layer: a name that `layers.layer_outputs` gives.
        unit: which of its maps: their fields differ where branches come together.

    Raises:
        UserError: the model is not a Flax module, the layer does not depend on the image, or the
            image's edges cut all its fields and the model takes no larger image.
    """
    height, width, channels = image_shape
    growth = -(-max(height, width) // GRID) * GRID
    for times in (0, 1, 3):
        shape = (height + times * growth, width + times * growth, channels)
        try:
            field = _field_in_the_middle(model, shape, layer, unit)
        except UserError as error:
            if times == 0:
                raise
            name = type(model).__name__
            raise UserError(
                f"the fields of {layer} are larger than these images, and cannot be measured since "
                f"{name} takes no other: {error}"
            ) from error
        if field == "everything":
            return None
        if isinstance(field, ReceptiveField):
            return field
    return None


def _field_in_the_middle(
    model: Any, image_shape: tuple[int, int, int], layer: str, unit: int
) -> ReceptiveField | Literal["everything", "cut"]:
    """The field, or "everything", or "cut" if the image is too small to hold it."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    maps = jax.eval_shape(
        lambda x: layer_output(model, _positive_variables(model, image_shape), x, layer), images
    )
    if len(maps.shape) != 4:
        return "everything"
    if min(maps.shape[1:3]) < 2:
        return "cut"
    middle = (maps.shape[1] // 2 - 1, maps.shape[2] // 2 - 1)
    places = np.array([middle, (middle[0] + 1, middle[1] + 1)])
    first, second = boxes_seen(model, image_shape, layer, unit, places)
    if min(first[:2]) == 0 or second[2] == image_shape[0] or second[3] == image_shape[1]:
        return "cut"
    stride = (second[0] - first[0], second[1] - first[1])
    size = (first[2] - first[0], first[3] - first[1])
    start = (first[0] - middle[0] * stride[0], first[1] - middle[1] * stride[1])
    return ReceptiveField(start, size, stride)


def boxes_seen(
    model: Any, image_shape: tuple[int, int, int], layer: str, unit: int, places: np.ndarray
) -> list[Box]:
    """The pixels that units of a map see in images of this size, whose edges may cut their fields.

    Args:
        places: rows and columns [n, 2] of units of the layer.

    Raises:
        UserError: one of the units does not depend on the image.
    """
    height, width, _ = image_shape
    sides = np.repeat(places, 4, axis=0)  # each unit for its top, left, bottom and right

    @jax.jit
    def response(images: Array) -> Array:
        with plain_forms():  # they compile faster
            maps = layer_output(model, _positive_variables(model, image_shape), images, layer)[
                ..., unit
            ]
        return maps[jnp.arange(len(sides)), sides[:, 0], sides[:, 1]]

    def responses(images: np.ndarray) -> np.ndarray:
        with jax.default_device(_exact_device()):
            return np.asarray(response(jnp.asarray(images)))

    def changed(counts: np.ndarray) -> np.ndarray:
        """Whether raising the outermost `counts` rows or columns of a side changes its unit."""
        images = np.ones((len(sides), *image_shape), np.float32)
        for i, (image, count) in enumerate(zip(images, counts, strict=True)):
            part = image if i % 2 == 0 else image.swapaxes(0, 1)
            part[slice(count) if i % 4 < 2 else slice(len(part) - count, None)] = RAISED
        return responses(images) != unchanged

    size = np.tile([height, width], 2 * len(places))
    unchanged = responses(np.ones((len(sides), *image_shape), np.float32))
    few, many = np.zeros_like(size), size  # `few` do not change the unit, `many` do
    if not changed(many).all():
        raise UserError(f"{layer}, unit {unit}, does not depend on the image")
    while (many - few > 1).any():
        half = (few + many) // 2
        is_changed = changed(half)
        few, many = np.where(is_changed, few, half), np.where(is_changed, half, many)
    top, left, bottom, right = few.reshape(-1, 4).T
    return [
        (int(t), int(a), height - int(b), width - int(c))
        for t, a, b, c in zip(top, left, bottom, right, strict=True)
    ]


def _exact_device() -> Any:
    """A CPU, where a unit's sum has only its own terms; GPUs may convolve by Fourier transforms."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return None


def _positive_variables(model: Any, image_shape: tuple[int, int, int]) -> Any:
    """Variables of the model: kernels that average, and `WEIGHT` for everything else."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)

    def fill(leaf: Any) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        value = 1 / np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else WEIGHT
        return jnp.full(leaf.shape, value, leaf.dtype)

    return jax.tree.map(fill, shapes)

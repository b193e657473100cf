"""Which part of the image a unit sees: its receptive field, of any Flax network.

The network is asked, so that branches, and layers that nobody has listed, are no matter: what a
unit does not see can be changed without a change of the unit, to the last bit. How many rows that
is at the top is found by halving, and so are the other sides. So that no pixel's influence can
hide, all weights are positive, and pixels are only ever raised: no ReLU closes, nothing cancels,
and what is raised is the maximum of every window that it lies in. (Some twenty layers deep, the
influence of a field's outermost pixels is still within float32.)

Units near an edge see less. What they would see of a larger image is told by two units in the
middle, of an image that is enlarged until their fields lie inside.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnn_jax.errors import UserError
from cnn_jax.ops.geometry import Pair
from cnn_jax.ops.operators import plain_forms
from cnn_jax.see.layers import layer_output

Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two excluded

GRID = 64  # images grow by multiples of it, so that strides up to it, and "SAME", fall as they did
WEIGHT = 0.25  # of biases and scales: activations stay where tanh is not flat
RAISED = 1e4  # pixels, from 1


@dataclass(frozen=True)
class ReceptiveField:
    """What the units of a feature map see, in pixels; (row, column) each."""

    start: Pair  # first pixel of the first unit; negative where maps are padded
    size: Pair
    stride: Pair  # from a unit to the next

    def box(self, row: int, column: int) -> Box:
        """The field of a unit. Where it reaches beyond the image, the unit sees padding.

        (A unit at an edge that is padded by reflection sees no other pixels, but for a blur with an
        even number of taps: at the right and the bottom one more.)
        """
        top = self.start[0] + row * self.stride[0]
        left = self.start[1] + column * self.stride[1]
        return top, left, top + self.size[0], left + self.size[1]


def receptive_field(
    model: Any, image_shape: tuple[int, int, int], layer: str, unit: int = 0
) -> ReceptiveField | None:
    """The fields of a feature map; None if its units see the image as a whole, whatever its size.

    Args:
        model: a Flax Linen module, called as in evaluation. Its parameters do not matter.
        image_shape: [H, W, C], as the network sees images.
        layer: a name of `inside.layer_outputs`.
        unit: which of its maps: they differ where branches come together.

    Raises:
        UserError: the model is no Flax module, nothing of the image reaches the layer, or all its
            fields are cut by the image's edges and the model takes no larger image.
    """
    height, width, channels = image_shape
    growth = -(-max(height, width) // GRID) * GRID
    for times in (0, 1, 3):
        shape = (height + times * growth, width + times * growth, channels)
        try:
            found = _in_the_middle(model, shape, layer, unit)
        except UserError as error:
            if times == 0:
                raise
            name = type(model).__name__
            raise UserError(
                f"the fields of {layer} are larger than these images, and cannot be told since "
                f"{name} takes no other: {error}"
            ) from error
        if found == "everything":
            return None
        if isinstance(found, ReceptiveField):
            return found
    return None


def _in_the_middle(
    model: Any, image_shape: tuple[int, int, int], layer: str, unit: int
) -> ReceptiveField | str:
    """The field, or "everything", or "cut": the image is too small to tell."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    maps = jax.eval_shape(
        lambda x: layer_output(model, _positive(model, image_shape), x, layer), images
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
    """The pixels that units of a map see of images of this size, which may cut their fields.

    Args:
        places: rows and columns [n, 2] of units of the layer.

    Raises:
        UserError: nothing of the image reaches one of them.
    """
    height, width, _ = image_shape
    each = np.repeat(places, 4, axis=0)  # top, left, bottom, right of each unit

    @jax.jit
    def response(images: Array) -> Array:
        with plain_forms():  # compiled sooner
            maps = layer_output(model, _positive(model, image_shape), images, layer)[..., unit]
        return maps[jnp.arange(len(each)), each[:, 0], each[:, 1]]

    def answers(images: np.ndarray) -> np.ndarray:
        with jax.default_device(_exact_device()):
            return np.asarray(response(jnp.asarray(images)))

    def raised(counts: np.ndarray) -> np.ndarray:
        """Does it change a unit when the outermost rows or columns, so many, are raised?"""
        images = np.ones((len(each), *image_shape), np.float32)
        for i, (image, count) in enumerate(zip(images, counts, strict=True)):
            part = image if i % 2 == 0 else image.swapaxes(0, 1)
            part[slice(count) if i % 4 < 2 else slice(len(part) - count, None)] = RAISED
        return answers(images) != unchanged

    size = np.tile([height, width], 2 * len(places))
    unchanged = answers(np.ones((len(each), *image_shape), np.float32))
    few, many = np.zeros_like(size), size  # `few` do not change it, `many` do
    if not raised(many).all():
        raise UserError(f"nothing of the image reaches {layer}, unit {unit}")
    while (many - few > 1).any():
        half = (few + many) // 2
        changed = raised(half)
        few, many = np.where(changed, few, half), np.where(changed, half, many)
    top, left, bottom, right = few.reshape(-1, 4).T
    return [
        (int(t), int(a), height - int(b), width - int(c))
        for t, a, b, c in zip(top, left, bottom, right, strict=True)
    ]


def _exact_device() -> Any:
    """A CPU, where a unit's sum has no other terms; GPUs may take sums by Fourier transforms."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to do without
        return None


def _positive(model: Any, image_shape: tuple[int, int, int]) -> Any:
    """Variables of the model for images of that shape: kernels that average, the rest `WEIGHT`."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)

    def fill(leaf: Any) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        value = 1 / np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else WEIGHT
        return jnp.full(leaf.shape, value, leaf.dtype)

    return jax.tree.map(fill, shapes)

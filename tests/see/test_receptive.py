"""What units see, against the sizes and strides of the papers' layers, and against derivatives."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.models.layers import BlurPool, Conv, MaxPool
from cnn_jax.see.layers import layer_output
from cnn_jax.see.receptive import ReceptiveField, boxes_seen, receptive_field

SMALL: Any = {"maps": (4, 4, 4, 4, 4), "units": (8, 8), "classes": 4}
LENET = {"C1": (5, 1, 2), "S2": (2, 2, 0), "C3": (5, 1, 0), "S4": (2, 2, 0)}
ALEXNET = {
    **{"conv1": (11, 4, 2), "pool1": (3, 2, 0), "conv2": (5, 1, 2), "pool2": (3, 2, 0)},
    **{"conv3": (3, 1, 1), "conv4": (3, 1, 1), "conv5": (3, 1, 1), "pool5": (3, 2, 0)},
}
BLURRED = {
    **{"conv1": (11, 2, 2), "blur_conv1": (5, 2, 2), "pool1": (3, 1, 0), "blur_pool1": (5, 2, 2)},
    **{"conv2": (5, 1, 2), "pool2": (3, 1, 0), "blur_pool2": (5, 2, 2), "conv3": (3, 1, 1)},
    **{"conv4": (3, 1, 1), "conv5": (3, 1, 1), "pool5": (3, 1, 0), "blur_pool5": (5, 2, 2)},
}
# Window, stride and padding at the top left of each layer, as the papers and docstrings have them.
NETWORKS: dict[str, tuple[nn.Module, int, dict[str, tuple[int, int, int]]]] = {
    "LeNet5": (models.LeNet5(), 28, LENET),
    "LeNet5_1998": (models.LeNet5_1998(), 32, {**LENET, "C1": (5, 1, 0)}),
    "LeNet1989": (models.LeNet1989(), 16, {"H1": (5, 2, 2), "H2": (5, 2, 2)}),
    "SimardConvNet": (models.SimardConvNet(), 29, {"C1": (5, 2, 0), "C2": (5, 2, 0)}),
    "AlexNet2014": (models.AlexNet2014(**SMALL), 67, ALEXNET),
    "AlexNet2012": (models.AlexNet2012(**SMALL), 67, {**ALEXNET, "conv1": (11, 4, 0)}),
    "AlexNet2019": (models.AlexNet2019(**SMALL), 100, BLURRED),
}


def composed(layers: dict[str, tuple[int, int, int]], until: str) -> ReceptiveField:
    """The textbook's recursion."""
    start, size, stride = 0, 1, 1
    for name, (window, step, padding) in layers.items():
        start -= padding * stride
        size += (window - 1) * stride
        stride *= step
        if name == until:
            break
    return ReceptiveField((start, start), (size, size), (stride, stride))


def channels(name: str) -> int:
    return 3 if "Alex" in name else 1


@pytest.mark.parametrize("name", NETWORKS)
def test_fields_are_composed_of_windows_and_strides(name: str) -> None:
    """Of a deep map, whose fields no image here holds."""
    model, size, layers = NETWORKS[name]
    layer = "conv4" if channels(name) == 3 else list(layers)[-1]
    shape = (size, size, channels(name))
    assert receptive_field(model, shape, layer) == composed(layers, layer)


def test_known_sizes() -> None:
    assert composed(LENET, "C3").size == (14, 14) and composed(ALEXNET, "conv5").size == (163, 163)


@pytest.mark.parametrize(("name", "layer"), [("LeNet5", "C3"), ("AlexNet2014", "conv2")])
def test_derivatives_are_zero_outside_and_nowhere_inside(name: str, layer: str) -> None:
    """Of a random network whose pools are means and whose units are all open."""
    model, size, layers = NETWORKS[name]
    shape = (size, size, channels(name))
    random = np.random.default_rng(0)
    images = jnp.float32(random.uniform(0.5, 1, (1, *shape)))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(
        lambda x: jnp.float32(random.uniform(0.5, 1, x.shape) / np.prod(x.shape[:-1])), shapes
    )
    field = composed(layers, layer)
    row, column = 3, 2

    def unit(images: jax.Array) -> jax.Array:
        return layer_output(model, variables, images, layer)[0, row, column, 1]

    found = np.asarray(jax.jit(jax.grad(unit))(images))[0] != 0
    top, left, bottom, right = field.box(row, column)
    inside = np.zeros(shape, bool)
    inside[max(top, 0) : bottom, max(left, 0) : right] = True
    assert not found[~inside].any()
    if name == "LeNet5":
        assert found[inside].all()
    else:  # of each window one
        rows, columns = np.nonzero(found.any(-1))
        assert rows.max() + 1 <= bottom and columns.max() + 1 <= right


@pytest.mark.parametrize("name", ["LeNet5", "LeNet1989", "AlexNet2014"])
def test_at_an_edge_a_unit_sees_its_field_as_far_as_there_is_image(name: str) -> None:
    model, size, layers = NETWORKS[name]
    layer = list(layers)[1]
    field = composed(layers, layer)
    places = np.array([(0, 0), (0, 1), (1, 0)])
    found = boxes_seen(model, (size, size, channels(name)), layer, 0, places)
    expected = [field.box(*place) for place in places]
    for box, (top, left, bottom, right) in zip(found, expected, strict=True):
        assert box == (max(top, 0), max(left, 0), min(bottom, size), min(right, size))


class Branches(nn.Module):
    """Two windows side by side, after layers of one's own: a list of layers would not do."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, keys: Any = None) -> jax.Array:
        x = nn.BatchNorm(use_running_average=True, name="norm")(images)
        x = nn.max_pool(nn.gelu(nn.Conv(4, (3, 5), name="start")(x)), (2, 2), (2, 2))
        x = BlurPool(3, 1, name="blur")(x)
        both = [MaxPool(3, 1, name="wide")(x), Conv(2, 1, name="narrow")(x)[:, 1:-1, 1:-1]]
        x = Join(name="join")(jnp.concatenate(both, -1))
        return nn.Dense(2, name="output")(x.mean((1, 2)))


class Join(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * nn.sigmoid(x)


def test_branches_and_layers_of_ones_own() -> None:
    shape = (20, 24, 3)
    wide = receptive_field(Branches(), shape, "join", 0)
    narrow = receptive_field(Branches(), shape, "join", 5)
    # 3x5, then 2x2 every second pixel, then 3x3 of those, then 3x3 again or not.
    assert wide == ReceptiveField((-3, -4), (12, 14), (2, 2))
    assert narrow == ReceptiveField((-1, -2), (8, 10), (2, 2))
    assert receptive_field(Branches(), shape, "output") is None


def test_dense_layers_see_everything() -> None:
    assert receptive_field(models.MLP((20,)), (28, 28, 1), "fc1", 3) is None
    assert receptive_field(models.LeNet5(), (28, 28, 1), "C5") is None


class Blind(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, keys: Any = None) -> jax.Array:
        return Conv(2, 3, name="C1")(jnp.zeros_like(images)).mean((1, 2))


class Stubborn(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, keys: Any = None) -> jax.Array:
        if images.shape[1] != 12:
            raise UserError("images of 12x12 pixels")
        return Conv(2, 13, padding=6, name="C1")(images).mean((1, 2))


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(UserError, match="C1, unit 1, does not depend on the image"):
        receptive_field(Blind(), (12, 12, 1), "C1", 1)
    with pytest.raises(UserError, match="Stubborn takes no other: images of 12x12"):
        receptive_field(Stubborn(), (12, 12, 1), "C1")

"""The published networks: their sizes, shapes, values, and the contract that all models keep."""

from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.models import (
    MLP,
    AlexNet2012,
    AlexNet2014,
    AlexNet2019,
    Ciresan2010,
    LeNet5,
    LeNet5_1998,
    LeNet1989,
    SimardConvNet,
    SimardMLP,
    count_connections,
    count_parameters,
    layers,
)
from cnn_jax.models.lenet5_1998 import bitmaps
from cnn_jax.ops import operators

KEY = jax.random.key(0)


class Published(NamedTuple):
    model: Any
    image: tuple[int, int, int]
    total: int
    parameters: dict[str, int]
    shapes: dict[str, tuple[int, ...]]


# Parameters are plain arithmetic on the papers' tables: (inputs per unit + 1) * units or maps.
PUBLISHED = {
    "MLP": Published(
        MLP(),
        (28, 28, 1),
        636_010,
        {"fc1": 628_000, "output": 8_010},
        {"fc1": (800,), "output": (10,)},
    ),
    "LeNet1989": Published(
        LeNet1989(),
        (16, 16, 1),
        9_760,
        {"H1": 1_068, "H2": 2_592, "H3": 5_790, "output": 310},
        {"H1": (8, 8, 12), "H2": (4, 4, 12), "H3": (30,), "output": (10,)},
    ),
    "LeNet5_1998": Published(
        LeNet5_1998(),
        (32, 32, 1),
        60_000,
        {"C1": 156, "S2": 12, "C3": 1_516, "S4": 32, "C5": 48_120, "F6": 10_164},
        {
            "C1": (28, 28, 6),
            "S2": (14, 14, 6),
            "C3": (10, 10, 16),
            "S4": (5, 5, 16),
            "C5": (120,),
            "F6": (84,),
            "output": (10,),
        },
    ),
    "SimardMLP": Published(
        SimardMLP(),
        (28, 28, 1),
        636_010,
        {"fc1": 628_000, "output": 8_010},
        {"fc1": (800,), "output": (10,)},
    ),
    "SimardConvNet": Published(
        SimardConvNet(),
        (29, 29, 1),
        132_540,
        {"C1": 130, "C2": 6_300, "F3": 125_100, "output": 1_010},
        {"C1": (13, 13, 5), "C2": (5, 5, 50), "F3": (100,), "output": (10,)},
    ),
    "Ciresan2010": Published(
        Ciresan2010(1),
        (29, 29, 1),
        1_347_510,
        {"fc1": 842_000, "fc2": 500_500, "output": 5_010},
        {"fc1": (1000,), "fc2": (500,), "output": (10,)},
    ),
    "LeNet5": Published(
        LeNet5(),
        (28, 28, 1),
        61_706,
        {"C1": 156, "C3": 2_416, "C5": 48_120, "F6": 10_164, "output": 850},
        {
            "C1": (28, 28, 6),
            "S2": (14, 14, 6),
            "C3": (10, 10, 16),
            "S4": (5, 5, 16),
            "C5": (120,),
            "F6": (84,),
            "output": (10,),
        },
    ),
    "AlexNet2012": Published(
        AlexNet2012(),
        (224, 224, 3),
        60_965_224,
        {
            "conv1": 34_944,
            "conv2": 307_456,
            "conv3": 885_120,
            "conv4": 663_936,
            "conv5": 442_624,
            "fc6": 37_752_832,
            "fc7": 16_781_312,
            "fc8": 4_097_000,
        },
        {
            "conv1": (55, 55, 96),
            "norm1": (55, 55, 96),
            "pool1": (27, 27, 96),
            "conv2": (27, 27, 256),
            "norm2": (27, 27, 256),
            "pool2": (13, 13, 256),
            "conv3": (13, 13, 384),
            "conv4": (13, 13, 384),
            "conv5": (13, 13, 256),
            "pool5": (6, 6, 256),
            "fc6": (4096,),
            "drop6": (4096,),
            "fc7": (4096,),
            "drop7": (4096,),
            "fc8": (1000,),
        },
    ),
    "AlexNet2014": Published(
        AlexNet2014(),
        (224, 224, 3),
        61_100_840,
        {
            "conv1": 23_296,
            "conv2": 307_392,
            "conv3": 663_936,
            "conv4": 884_992,
            "conv5": 590_080,
            "fc6": 37_752_832,
            "fc7": 16_781_312,
            "fc8": 4_097_000,
        },
        {
            "conv1": (55, 55, 64),
            "pool1": (27, 27, 64),
            "conv2": (27, 27, 192),
            "pool2": (13, 13, 192),
            "conv3": (13, 13, 384),
            "conv4": (13, 13, 256),
            "conv5": (13, 13, 256),
            "pool5": (6, 6, 256),
            "drop6": (9216,),
            "fc6": (4096,),
            "drop7": (4096,),
            "fc7": (4096,),
            "fc8": (1000,),
        },
    ),
}

# torchvision's AlexNet, with a blur wherever it skips pixels.
PUBLISHED["AlexNet2019"] = Published(
    AlexNet2019(),
    (224, 224, 3),
    61_100_840,
    PUBLISHED["AlexNet2014"].parameters,
    PUBLISHED["AlexNet2014"].shapes
    | {
        "conv1": (109, 109, 64),
        "pool1": (53, 53, 64),
        "pool2": (25, 25, 192),
        "pool5": (11, 11, 256),
        "blur_conv1": (55, 55, 64),
        "blur_pool1": (27, 27, 64),
        "blur_pool2": (13, 13, 192),
        "blur_pool5": (6, 6, 256),
    },
)

NARROW: Any = {"classes": 10, "maps": (8, 8, 8, 8, 8), "units": (8, 8)}
HE = nn.initializers.he_normal()  # the paper's kernels would let the image fade in few maps

# Small enough to compute, with every layer in use.
SMALL = {
    "LeNet1989": (LeNet1989(), (16, 16, 1)),
    "LeNet5_1998": (LeNet5_1998(), (32, 32, 1)),
    "SimardMLP": (SimardMLP(), (10, 10, 1)),
    "SimardConvNet": (SimardConvNet(), (29, 29, 1)),
    "Ciresan2010": (Ciresan2010(1), (8, 8, 1)),
    "AlexNet2019": (AlexNet2019(**NARROW), (95, 97, 3)),
    "MLP": (MLP(widths=(16, 12)), (8, 8, 1)),
    "LeNet5": (LeNet5(), (28, 28, 1)),
    "AlexNet2012": (AlexNet2012(**NARROW, kernel_init=HE), (67, 64, 3)),
    "AlexNet2014": (AlexNet2014(**NARROW), (63, 67, 3)),
}

# The first five logits of `example`: what the first version of each network gave, so that no later
# change alters a network, its initial values or its names unnoticed.
GOLDEN = {
    "LeNet1989": [0.0011416, 0.00238265, 0.00322305, 0.000952593, -0.00375474],
    "LeNet5_1998": [-94.0259, -89.2849, -102.546, -85.569, -91.62],
    "SimardMLP": [-1.1803, -0.565524, 0.362623, 0.452064, -0.861715],
    "SimardConvNet": [-0.0217732, 0.0223101, 0.0641195, 0.0498884, -0.00363178],
    "Ciresan2010": [0.156057, 0.15682, -0.161077, -0.174867, -0.170528],
    "AlexNet2019": [0.187131, 0.363497, 0.105812, 0.2021, -0.174805],
    "MLP": [-0.530971, -0.525337, -0.192961, 0.885072, 0.0698392],
    "LeNet5": [-0.26764, -0.188625, -0.156061, 0.00693405, 0.256489],
    "AlexNet2012": [28.8046, -36.7815, 5.24085, 33.9993, 6.34751],
    "AlexNet2014": [0.377093, 0.409982, 0.112648, 0.485734, -0.364398],
}


@cache
def shapes_of(model: Any, image: tuple[int, int, int], batch: int = 2) -> tuple[Any, Any]:
    """Shapes of the variables and of every layer's output, without computing anything."""
    images = jax.ShapeDtypeStruct((batch, *image), jnp.float32)
    with operators.plain_forms():  # traced sooner
        variables = jax.eval_shape(model.init, KEY, images)
        _, state = jax.eval_shape(
            lambda variables, images: model.apply(variables, images, capture_intermediates=True),
            variables,
            images,
        )
    outputs = {
        name: layer["__call__"][0]
        for name, layer in state["intermediates"].items()
        if name != "__call__"
    }
    return variables, outputs


@pytest.fixture(scope="module")
def example() -> Any:
    """Variables and two images of each small network, made once."""
    made: dict[str, Any] = {}

    def make(name: str) -> Any:
        if name not in made:
            model, image = SMALL[name]
            random = np.random.default_rng(1)
            size = 100 if name.startswith("AlexNet") else 1  # against the biases
            images = jnp.asarray(size * random.standard_normal((2, *image), np.float32))
            made[name] = model, jax.jit(model.init)(KEY, images), images
        return made[name]

    return make


def test_every_public_model_is_published_and_small():
    public = {
        name
        for name, value in vars(models).items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    }
    assert public == PUBLISHED.keys() == SMALL.keys() == GOLDEN.keys()
    assert public <= set(models.__all__)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    published = PUBLISHED[name]
    variables, _ = shapes_of(published.model, published.image)
    params = variables["params"]
    assert {layer: count_parameters(params[layer]) for layer in params} == published.parameters
    assert count_parameters(params) == published.total == sum(published.parameters.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_layer_hands_out_its_maps_by_name(name):
    published = PUBLISHED[name]
    _, outputs = shapes_of(published.model, published.image)
    assert {layer: y.shape[1:] for layer, y in outputs.items()} == published.shapes


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_docstring_tells_every_layer_and_the_total(name):
    published = PUBLISHED[name]
    text = type(published.model).__doc__ or ""
    assert f"{published.total:,}" in text
    for layer, parameters in published.parameters.items():
        assert f"| {layer} " in text and f"{parameters:,}" in text


# The early papers' measure; Simard's are what the sizes given in 2003 imply.
CONNECTIONS = {
    "LeNet1989": (64_660, {"H1": 19_968, "H2": 38_592, "H3": 5_790, "output": 310}),
    "LeNet5_1998": (
        340_908,
        {
            "C1": 122_304,
            "S2": 5_880,
            "C3": 151_600,
            "S4": 2_000,
            "C5": 48_120,
            "F6": 10_164,
            "output": 840,
        },
    ),
    "SimardMLP": (636_010, {"fc1": 628_000, "output": 8_010}),
    "SimardConvNet": (305_580, {"C1": 21_970, "C2": 157_500, "F3": 125_100, "output": 1_010}),
}


@pytest.mark.parametrize("name", CONNECTIONS)
def test_connections_are_the_papers(name):
    model, image = PUBLISHED[name].model, PUBLISHED[name].image
    total, connections = CONNECTIONS[name]
    assert count_connections(model, image) == connections
    assert sum(connections.values()) == total
    assert all(f"{count:,}" in (model.__doc__ or "") for count in (total, *connections.values()))


def test_the_zip_code_network_has_the_units_of_the_paper():
    shapes = PUBLISHED["LeNet1989"].shapes.values()
    assert 16 * 16 + sum(int(np.prod(shape)) for shape in shapes) == 1_256


def test_the_digits_of_figure_3_are_apart():
    """The nearest two, 6 and 8, differ in 12 of 84 places."""
    digits = np.array(bitmaps())
    assert digits.shape == (10, 84) and set(digits.flat) == {-1.0, 1.0}
    apart = (digits[:, None] != digits[None]).sum(-1) + 84 * np.eye(10, dtype=int)
    assert apart.min() == 12 == apart[6, 8]


def test_alexnet_has_the_neurons_of_the_paper():
    """Section 3.5 states 650,000; Figure 2 prints 253,440 for conv1 where 55x55x96 is 290,400."""
    published = PUBLISHED["AlexNet2012"]
    assert sum(int(np.prod(published.shapes[layer])) for layer in published.parameters) == 659_272


@pytest.mark.parametrize(
    ("model", "image", "layer", "shape", "total"),
    (
        (LeNet5(padding=0), (32, 32, 1), "C1", (28, 28, 6), 61_706),
        (LeNet5(), (32, 32, 3), "S4", (6, 6, 16), 83_126),
        (LeNet5(padding=4), (8, 8, 1), "S4", (1, 1, 16), 15_626),
        (AlexNet2012(), (227, 227, 3), "conv1", (55, 55, 96), 60_965_224),
        (AlexNet2012(classes=10), (128, 96, 3), "pool5", (3, 2, 256), 25_451_914),
        (AlexNet2014(classes=10), (96, 128, 3), "pool5", (2, 3, 256), 25_587_530),
        (MLP(widths=()), (28, 28, 1), "output", (10,), 7_850),
        (MLP(widths=(300, 100)), (28, 28, 1), "fc2", (100,), 266_610),
    ),
)
def test_other_sizes_and_fields(model, image, layer, shape, total):
    variables, outputs = shapes_of(model, image)
    assert outputs[layer].shape[1:] == shape
    assert count_parameters(variables["params"]) == total


@pytest.mark.parametrize(
    ("model", "smallest"),
    (
        (LeNet5(), 12),
        (LeNet5(padding=0), 16),
        (AlexNet2012(), 64),
        (AlexNet2014(), 63),
        (AlexNet2019(), 95),
    ),
)
def test_images_that_are_too_small_are_refused_and_no_others(model, smallest):
    shapes_of(model, (smallest, smallest, 3))
    name = type(model).__name__
    message = f"{name} needs images of at least {smallest}x{smallest} pixels, got {smallest - 1}x"
    with pytest.raises(ValueError, match=message):
        shapes_of(model, (smallest - 1, smallest, 3))


@pytest.mark.parametrize("name", SMALL)
def test_golden_logits_and_those_of_a_batch(name, example):
    """An image's logits depend on no other; only dropout tells training from evaluation."""
    model, variables, images = example(name)
    assert variables.keys() == {"params"}
    keys = jax.random.split(jax.random.key(2), len(images))
    apply = jax.jit(partial(model.apply, mutable=[]), static_argnames="train")
    logits, state = apply(variables, images)
    assert (logits.shape, logits.dtype, state) == ((2, 10), jnp.float32, {})
    np.testing.assert_allclose(logits[0, :5], GOLDEN[name], rtol=1e-4, atol=2e-6)

    beside_another, _ = apply(variables, images.at[0].set(0))
    np.testing.assert_allclose(beside_another[1], logits[1], rtol=1e-4, atol=1e-5)

    if not name.startswith("AlexNet"):
        trained, evaluated = (
            str(jax.make_jaxpr(partial(model.apply, **fields))(variables, images))
            for fields in ({"train": True, "keys": keys}, {})
        )
        assert trained == evaluated
        return
    with operators.plain_forms():  # compiled sooner
        dropped, state = apply(variables, images, train=True, keys=keys)
    assert state == {}
    assert not np.allclose(dropped, logits, rtol=1e-4, atol=1e-5)
    with_others, _ = apply(variables, images, train=True, keys=keys[::-1])
    assert not np.array_equal(with_others, dropped)
    beside_another, _ = apply(variables, images.at[0].set(0), train=True, keys=keys)
    np.testing.assert_allclose(beside_another[1], dropped[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ("gpu", "tpu"))
@pytest.mark.parametrize("name", ("LeNet5", "AlexNet2012"))
def test_golden_logits_in_other_forms(name, backend, example, monkeypatch):
    forms = operators.forms(backend)
    monkeypatch.setattr(layers, "forms", lambda: forms)
    model, variables, images = example(name)
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits[0, :5], GOLDEN[name], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("model", "draws"),
    (
        (LeNet5(), 0),
        (AlexNet2012(), 2),
        (AlexNet2012(dropout_rate=0.0), 0),
        (AlexNet2014(), 2),
        (AlexNet2014(dropout_rate=0.0), 0),
    ),
)
def test_every_dropout_draws_while_training_and_none_in_evaluation(model, draws):
    image = (64, 64, 3)
    variables, _ = shapes_of(model, image)
    images = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    keys = jax.random.split(KEY, 2)
    with operators.plain_forms():  # traced sooner
        training = jax.make_jaxpr(lambda v, x, keys: model.apply(v, x, True, keys))
        assert str(training(variables, images, keys)).count("random_fold_in") == draws
        evaluation = jax.make_jaxpr(model.apply)
        assert "random" not in str(evaluation(variables, images))


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computes_in_bfloat16_with_float32_parameters(name, example):
    model, variables, images = example(name)
    half = model.clone(dtype=jnp.bfloat16)
    half_variables, outputs = shapes_of(half, images.shape[1:])
    assert {leaf.dtype for leaf in jax.tree.leaves(half_variables)} == {jnp.dtype("float32")}
    assert {layer.dtype for layer in outputs.values()} == {jnp.dtype("bfloat16")}

    if name not in ("LeNet5", "LeNet5_1998", "AlexNet2012"):  # every kind of layer with weights
        return
    with operators.plain_forms():  # compiled sooner
        coarse, fine = (jax.jit(m.apply)(variables, images) for m in (half, model))
    assert coarse.dtype == jnp.float32
    difference = np.abs(coarse - fine).max() / np.abs(fine).max()
    assert 0 < difference < 0.05

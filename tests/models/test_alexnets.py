"""The AlexNets' options: what the paper compares, what Caffe, cuda-convnet2 and torchvision do."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cnn_jax.models import AlexNet2012, AlexNet2014, count_parameters, layers, narrowed
from cnn_jax.models.alexnet2019 import AlexNet2019

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
PAPER, CAFFENET = "relu norm pool", "relu pool norm"
CUDA_CONVNET2 = ("norm pool relu", PAPER)
normal = nn.initializers.normal

# Small enough to compute, every layer in use.
SMALL: dict[str, Any] = {"classes": 10, "maps": (4, 6, 8, 6, 4), "units": (12, 10)}

# 64, 192, 384, 256, 256 maps without groups: torchvision's parameters and shapes.
AS_CUDA_CONVNET2 = AlexNet2012(
    maps=AlexNet2014.maps,
    groups=1,
    norm_alpha=1e-4 / 5,
    orders=CUDA_CONVNET2,
    kernel_inits=tuple((name, normal(0.03)) for name in ("conv3", "conv4", "conv5")),
    fc8_bias=-7.0,
)
AS_CAFFE = AlexNet2012(
    norm_k=1.0,
    norm_alpha=1e-4 / 5,
    kernel_inits=(("fc6", normal(0.005)), ("fc7", normal(0.005))),
    hidden_bias=0.1,
)


def outputs_of(model: Any, variables: Any, *inputs: Any) -> dict[str, jax.Array]:
    """What every layer hands on, by name."""
    _, state = model.apply(variables, *inputs, capture_intermediates=True)
    found = state["intermediates"]
    return {name: layer["__call__"][0] for name, layer in found.items() if name != "__call__"}


def shapes_of(model: Any, size: int) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Parameters' and outputs' shapes, without computing anything."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, KEY, images)
    outputs = jax.eval_shape(lambda v, x: outputs_of(model, v, x), variables, images)
    return variables["params"], {name: y.shape[1:] for name, y in outputs.items()}


def computed(model: Any, size: int = 67) -> tuple[Any, dict[str, np.ndarray]]:
    """Parameters and outputs of a small network, of images large enough for the norm to matter."""
    images = 100 * np.random.default_rng(1).standard_normal((2, size, size, 3), np.float32)

    @jax.jit
    def compute() -> tuple[Any, dict[str, jax.Array]]:
        variables = model.init(KEY, images)
        return variables["params"], outputs_of(model, variables, images)

    params, outputs = compute()
    return params, {name: np.asarray(y, np.float64) for name, y in outputs.items()}


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def norm(x: np.ndarray, k: float = 2.0, alpha: float = 1e-4, n: int = 5) -> np.ndarray:
    """The sum of squares over n neighbours times alpha, map by map."""
    sums = [
        np.sum(x[..., max(0, i - n // 2) : i + n // 2 + 1] ** 2, -1) for i in range(x.shape[-1])
    ]
    return x / (k + alpha * np.stack(sums, -1)) ** 0.75


def pool(x: np.ndarray, window: int = 3, stride: int = 2) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (window, window), axis=(1, 2))
    return windows[:, ::stride, ::stride].max(axis=(-2, -1))


def applied(layer: nn.Module, x: Any) -> np.ndarray:
    """Of a layer without parameters."""
    return np.asarray(layer.apply({}, jnp.asarray(x)))


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("model", "size", "total", "shapes"),
    (
        # Without groups each of conv2, conv4 and conv5 has twice its weights.
        (AlexNet2012(groups=1), 224, 60_965_224 + 307_200 + 663_552 + 442_368, {}),
        # The paper's one-GPU network: half of the maps, all of conv5, 50 million parameters.
        (
            AlexNet2012(groups=1, maps=(48, 128, 192, 192, 256)),
            224,
            17_472 + 153_728 + 221_376 + 331_968 + 442_624 + 37_752_832 + 16_781_312 + 4_097_000,
            {"conv4": (13, 13, 192), "pool5": (6, 6, 256)},
        ),
        (
            AlexNet2012(maps=(48, 128, 192, 192, 128), units=(2048, 2048)),
            224,
            17_472 + 76_928 + 221_376 + 166_080 + 110_720 + 9_439_232 + 4_196_352 + 2_049_000,
            {"fc7": (2048,)},
        ),
        (
            AlexNet2012(pool_window=2),
            224,
            60_965_224,
            {"pool1": (27, 27, 96), "pool5": (6, 6, 256)},
        ),
        (AlexNet2012(conv1_padding=0), 227, 60_965_224, {"conv1": (55, 55, 96)}),
        (AlexNet2012(conv1_padding=2), 224, 60_965_224, {"conv1": (55, 55, 96)}),
        (AlexNet2012(conv1_padding=0), 224, None, {"conv1": (54, 54, 96)}),
        (AS_CAFFE, 227, 60_965_224, {"norm2": (27, 27, 256)}),
        (AS_CUDA_CONVNET2, 224, 61_100_840, {"conv1": (55, 55, 64), "norm1": (55, 55, 64)}),
        # conv4 with 384 maps: 128 * (9 * 384 + 1) more there, 128 * 9 * 256 more in conv5.
        (
            AlexNet2014(maps=(64, 192, 384, 384, 256)),
            224,
            61_100_840 + 442_496 + 294_912,
            {"conv4": (13, 13, 384)},
        ),
        (AlexNet2014(orders=CUDA_CONVNET2), 224, 61_100_840, {"norm2": (27, 27, 192)}),
        (AlexNet2019(), 224, 61_100_840, {"conv1": (109, 109, 64), "blur_conv1": (55, 55, 64)}),
        (AlexNet2019(blur_conv1=False), 224, 61_100_840, {"conv1": (55, 55, 64)}),
    ),
)
def test_options_have_the_derived_parameters_and_shapes(model, size, total, shapes):
    params, outputs = shapes_of(model, size)
    assert total in (None, count_parameters(params))
    assert outputs | shapes == outputs


@pytest.mark.parametrize(
    ("taps", "blur_conv1"), ((1, True), (2, True), (3, False), (4, True), (5, False), (7, True))
)
def test_alexnet2019_downsamples_as_alexnet2014(taps, blur_conv1):
    model, smallest = AlexNet2019(taps=taps, blur_conv1=blur_conv1), 63 + 16 * (taps // 2)
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest} pixels"):
        shapes_of(model, smallest - 1)
    for size in (smallest, 131):
        params, blurred = shapes_of(model, size)
        expected_params, expected = shapes_of(AlexNet2014(), size)
        assert params == expected_params
        for number in "125":
            assert blurred[f"blur_pool{number}"] == expected[f"pool{number}"]


@pytest.mark.parametrize("model", (AlexNet2012, AlexNet2014))
@pytest.mark.parametrize("order", (PAPER, CAFFENET, CUDA_CONVNET2[0], "relu pool"))
def test_each_order_is_what_follows_conv1_and_conv2(model, order):
    alpha = 1e-4 if model is AlexNet2012 else 1e-4 / 5
    params, found = computed(model(**SMALL, orders=(order, order)))
    assert ("norm1" in found) == ("norm2" in found) == ("norm" in order)
    for number, following in ((1, "conv2"), (2, "conv3")):
        x = found[f"conv{number}"]
        for step in order.split():
            x = relu(x) if step == "relu" else pool(x) if step == "pool" else norm(x, alpha=alpha)
            if step != "relu":
                assert_close(found[f"{step}{number}"], x)
        # And the next layer sees the last of them.
        kernel, bias = (
            np.asarray(params[following][part], np.float64) for part in ("kernel", "bias")
        )
        centre, half = x.shape[1] // 2, kernel.shape[0] // 2
        around = slice(centre - half, centre + half + 1)
        groups = np.split(x[:, around, around], x.shape[-1] // kernel.shape[2], axis=-1)
        outputs = [
            np.einsum("bhwc,hwcd->bd", part, weights)
            for part, weights in zip(groups, np.split(kernel, len(groups), -1), strict=True)
        ]
        assert_close(found[following][:, centre, centre], np.concatenate(outputs, -1) + bias)


def test_dividing_the_sum_is_a_smaller_alpha():
    _, found = computed(AlexNet2012(**SMALL, norm_k=1.0, norm_alpha=1e-4 / 5))
    x = relu(found["conv1"])
    neighbours = [x[..., max(0, i - 2) : i + 3] for i in range(x.shape[-1])]
    divided = np.stack([np.sum(part**2, -1) / 5 for part in neighbours], -1)
    assert_close(found["norm1"], x / (1 + 1e-4 * divided) ** 0.75)


def test_an_order_that_is_none_is_refused():
    with pytest.raises(ValueError, match="order must be one of .*, got 'pool relu'"):
        shapes_of(AlexNet2012(orders=("pool relu", PAPER)), 64)  # pyright: ignore[reportArgumentType]


def test_pooling_without_overlap():
    _, found = computed(AlexNet2012(**SMALL, pool_window=2))
    assert_close(found["pool1"], pool(found["norm1"], window=2))
    assert_close(found["pool5"], pool(relu(found["conv5"]), window=2))


@pytest.mark.parametrize(
    ("model", "stds", "biases"),
    (
        (AlexNet2012(), {}, {}),
        (
            AS_CAFFE,
            {"fc6": 0.005, "fc7": 0.005},
            dict.fromkeys(("conv2", "conv4", "conv5", "fc6", "fc7"), 0.1),
        ),
        (
            AS_CUDA_CONVNET2,
            {"conv3": 0.03, "conv4": 0.03, "conv5": 0.03},
            {"fc8": -7.0},
        ),
    ),
    ids=("paper", "Caffe", "cuda-convnet2"),
)
def test_every_layer_starts_as_it_should(model, stds, biases):
    small = model.clone(maps=(32, 32, 32, 32, 32), units=(128, 128), classes=100)
    params = jax.jit(small.init)(KEY, jnp.zeros((1, 64, 64, 3)))["params"]
    ones = dict.fromkeys(("conv2", "conv4", "conv5", "fc6", "fc7"), 1.0)
    assert stds.keys() | biases.keys() <= params.keys()
    for layer, parameters in params.items():
        # At least 4,096 weights: 0.05 is 4.5 standard errors.
        assert abs(np.std(parameters["kernel"]) / stds.get(layer, 0.01) - 1) < 0.05
        expected = (ones | biases).get(layer, 0.0)
        np.testing.assert_array_equal(parameters["bias"], np.float32(expected))


@pytest.mark.parametrize("dropout_first", (True, False))
def test_dropout_comes_before_or_after_fc6_and_fc7(dropout_first):
    model = AlexNet2014(**SMALL, dropout_first=dropout_first)

    @jax.jit
    def train() -> dict[str, jax.Array]:
        images, keys = jnp.ones((8, 63, 63, 3)), jax.random.split(KEY, 8)
        return outputs_of(model, model.init(KEY, images), images, True, keys)

    found = {name: np.asarray(y) for name, y in train().items()}
    for drop, seen in zip(
        ("drop6", "drop7"), ("pool5", "fc6") if dropout_first else ("fc6", "fc7"), strict=True
    ):
        whole = relu(found[seen]).reshape(8, -1)
        assert found[drop].shape == whole.shape
        factors = found[drop][whole > 0] / whole[whole > 0]
        assert set(np.round(factors, 5)) == {0.0, 2.0}


def blurred(x: np.ndarray, taps: int, stride: int) -> np.ndarray:
    """SciPy's correlation with the binomial; its "mirror" is the reflection without the edge."""
    weights = np.poly1d([0.5, 0.5]) ** (taps - 1) if taps > 1 else np.poly1d([1.0])
    for axis in (1, 2):
        # An even filter reaches further after a pixel than before it.
        x = ndimage.correlate1d(
            x, weights.coeffs, axis, mode="mirror", origin=-1 if taps % 2 == 0 else 0
        )
    return x[:, ::stride, ::stride]


@pytest.mark.parametrize("shape", ((2, 9, 12, 3), (1, 4, 5, 2)))
@pytest.mark.parametrize("stride", (1, 2, 3))
@pytest.mark.parametrize("taps", range(1, 8))
def test_blur_pool_is_scipys(taps, stride, shape):
    x = np.random.default_rng(taps).standard_normal(shape)
    expected = blurred(x, taps, stride)
    np.testing.assert_allclose(applied(layers.BlurPool(taps, stride), x), expected, atol=1e-6)
    assert expected.shape[1:3] == (-(-shape[1] // stride), -(-shape[2] // stride))


def test_blur_pool_of_two_taps_is_the_mean_of_two_by_two():
    x = np.random.default_rng(0).standard_normal((1, 8, 6, 2), np.float32)
    blur, mean = applied(layers.BlurPool(2, 2), x), applied(layers.AvgPool(2, 2), x)
    np.testing.assert_allclose(blur, mean, atol=1e-6)


def test_blur_pool_computes_in_the_dtype_of_its_maps():
    ones = applied(layers.BlurPool(5, 2), jnp.ones((1, 6, 6, 1), jnp.bfloat16))
    assert ones.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ones.astype(np.float32), 1)


@pytest.mark.parametrize(
    ("layer", "message"),
    (
        (layers.BlurPool(0, 2, name="blur"), "blur: a blur has 1 to 7 taps, got 0"),
        (layers.BlurPool(8, 2, name="blur"), "blur: a blur has 1 to 7 taps, got 8"),
        (layers.BlurPool(6, 2, name="blur"), "blur: a 4x4 window does not fit maps of 3x9"),
    ),
)
def test_blur_pool_refuses_what_it_cannot_do(layer, message):
    with pytest.raises(ValueError, match=message):
        layer.apply({}, jnp.ones((1, 3, 9, 1)))


def change(one: np.ndarray, other: np.ndarray) -> float:
    """How little two sets of features go together: 0 if they are the same."""
    return 1 - float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_blurred_pooling_changes_less_than_max_pooling_under_a_shift_of_one_pixel():
    noise = np.random.default_rng(0).standard_normal((4, 32, 33, 3), np.float32)
    shifted = noise[:, :, :-1], noise[:, :, 1:]
    largest = change(*(applied(layers.MaxPool(3, 2), x) for x in shifted))
    dense = [applied(layers.MaxPool(3, 1), x) for x in shifted]
    blurred = [
        change(*(applied(layers.BlurPool(taps, 2), x) for x in dense)) for taps in (1, 2, 3, 5)
    ]
    assert blurred[0] == largest  # one tap blurs nothing
    assert 0.7 * largest > blurred[1] > blurred[2] > blurred[3]


def test_alexnet2019_changes_less_than_alexnet2014_under_a_shift_of_one_pixel():
    noise = np.random.default_rng(0).standard_normal((4, 96, 97, 3), np.float32)
    shifted = np.concatenate([noise[:, :, :-1], noise[:, :, 1:]])

    def change_of(model: Any, layer: str) -> float:
        @jax.jit
        def features() -> jax.Array:
            return outputs_of(model, model.init(KEY, shifted), shifted)[layer]

        return change(*np.split(np.asarray(features()), 2))

    # With the same parameters: both networks draw them by the names of the layers.
    sharp = change_of(AlexNet2014(**SMALL), "pool2")
    pools_blurred = change_of(AlexNet2019(**SMALL, blur_conv1=False), "blur_pool2")
    assert change_of(AlexNet2019(**SMALL), "blur_pool2") < 0.8 * pools_blurred < 0.8 * 0.8 * sharp


def test_a_narrowed_network_has_a_share_of_the_features() -> None:
    assert narrowed(AlexNet2012, 0.25) == {"maps": (24, 64, 96, 96, 64), "units": (1024, 1024)}
    assert AlexNet2012(**narrowed(AlexNet2012, 1.0)) == AlexNet2012()

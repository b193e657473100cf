"""The AlexNets' options: what the paper compares, what Caffe, cuda-convnet2 and torchvision do."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cnn_jax.models import AlexNet2012, AlexNet2014, count_parameters, layers, narrowed
from cnn_jax.models.alexnet2012 import (
    CaffeAlexNet,
    CaffeNet,
    CudaConvnet2,
    norm_pool_relu,
    relu_norm_pool,
    relu_pool,
    relu_pool_norm,
)
from cnn_jax.models.alexnet2019 import AlexNet2019
from cnn_jax.ops.operators import plain_forms

KEY = jax.random.key(0)

# Small enough to compute, every layer in use.
SMALL: dict[str, Any] = {"classes": 10, "maps": (4, 6, 8, 6, 4), "units": (12, 10)}


def outputs_of(model: Any, variables: Any, *inputs: Any) -> dict[str, jax.Array]:
    """The output of every layer, by name."""
    _, state = model.apply(variables, *inputs, capture_intermediates=True)
    intermediates = state["intermediates"]
    return {
        name: layer["__call__"][0] for name, layer in intermediates.items() if name != "__call__"
    }


def shapes_of(model: Any, size: int) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Parameters' and outputs' shapes, without computing anything."""

    def trace(images: jax.Array) -> Any:
        variables = model.init(KEY, images)
        return variables["params"], outputs_of(model, variables, images)

    with plain_forms():  # traced sooner
        params, outputs = jax.eval_shape(trace, jnp.zeros((1, size, size, 3)))
    return params, {name: y.shape[1:] for name, y in outputs.items()}


def initializers_of(model: Any) -> dict[str, tuple[Any, Any]]:
    """The initializers of every layer's kernel and bias, by name, without computing anything."""
    initializers: dict[str, tuple[Any, Any]] = {}

    def record(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        if isinstance(context.module, layers.Conv | layers.Dense):
            layer: Any = context.module
            initializers[layer.name] = layer.kernel_init, layer.bias_init
        return call(*arguments, **keywords)

    with nn.intercept_methods(record), plain_forms():
        jax.eval_shape(model.init, KEY, jnp.zeros((1, 64, 64, 3)))
    return initializers


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
    """The output of a layer without parameters."""
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
        # 56 outputs, of which windows of 3 leave one over.
        (AlexNet2012(), 228, 60_965_224, {"conv1": (56, 56, 96), "pool1": (27, 27, 96)}),
        (AlexNet2012(pool_window=2), 228, None, {"pool1": (28, 28, 96), "pool5": (7, 7, 256)}),
        (CaffeAlexNet(), 227, 60_965_224, {"conv1": (55, 55, 96), "norm2": (27, 27, 256)}),
        (CaffeNet(), 227, 60_965_224, {"norm1": (27, 27, 96), "norm2": (13, 13, 256)}),
        (CudaConvnet2(), 224, 61_100_840, {"conv1": (55, 55, 64), "norm1": (55, 55, 64)}),
        # conv4 with 384 maps: 128 * (9 * 384 + 1) more there, 128 * 9 * 256 more in conv5.
        (
            AlexNet2014(maps=(64, 192, 384, 384, 256)),
            224,
            61_100_840 + 442_496 + 294_912,
            {"conv4": (13, 13, 384)},
        ),
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
    params, blurred = shapes_of(model, smallest)
    expected_params, expected = shapes_of(AlexNet2014(), smallest)
    assert params == expected_params
    for number in "125":
        assert blurred[f"blur_pool{number}"] == expected[f"pool{number}"]


# A normalisation and a pooling that show in which order they and the ReLU came.
X = np.array([-3.0, 0.25, 5.0])


@pytest.mark.parametrize(
    ("order", "expected"),
    (
        (relu_norm_pool, 2 * (relu(X) - 1)),
        (relu_pool_norm, 2 * relu(X) - 1),
        (norm_pool_relu, relu(2 * (X - 1))),
        (relu_pool, 2 * relu(X)),
    ),
)
def test_each_order_is_as_its_name_says(order, expected):
    np.testing.assert_array_equal(order(jnp.asarray(X), lambda x: x - 1, lambda x: 2 * x), expected)


PAPER = (2.0, 5, 1e-4, 0.75)


@pytest.mark.parametrize(
    ("network", "orders", "constants", "window"),
    (
        (AlexNet2012, (relu_norm_pool, relu_norm_pool), PAPER, 3),
        (CaffeAlexNet, (relu_norm_pool, relu_norm_pool), (1.0, 5, 1e-4 / 5, 0.75), 3),
        (CaffeNet, (relu_pool_norm, relu_pool_norm), (1.0, 5, 1e-4 / 5, 0.75), 3),
        (CudaConvnet2, (norm_pool_relu, relu_norm_pool), (2.0, 5, 1e-4 / 5, 0.75), 3),
    ),
    ids=("paper", "Caffe", "CaffeNet", "cuda-convnet2"),
)
def test_what_follows_conv1_and_conv2(network, orders, constants, window):
    model = network(**SMALL)
    assert model.orders == orders
    calls = []

    def record(x: jax.Array, norm: Any, pool: Any) -> jax.Array:
        calls.append((norm.name, pool.name, x.shape[-1]))
        assert (norm.k, norm.n, norm.alpha, norm.beta) == constants
        assert (pool.window, pool.stride) == (window, 2)
        return relu_pool(x, norm, pool)

    _, outputs = shapes_of(model.clone(orders=(record, record)), 67)
    assert calls[:2] == [("norm1", "pool1", 4), ("norm2", "pool2", 6)]
    assert not {"norm1", "norm2"} & outputs.keys()


def test_the_network_in_numpy_up_to_conv3():
    """conv1 is followed by the first order, conv2 by the second, each by the layer after it."""
    model = CudaConvnet2(**SMALL, orders=(norm_pool_relu, relu_pool_norm))
    # Images large enough for the norm to matter.
    images = 100 * np.random.default_rng(1).standard_normal((2, 67, 67, 3), np.float32)

    @jax.jit
    def compute() -> tuple[Any, dict[str, jax.Array]]:
        variables = model.init(KEY, images)
        outputs = outputs_of(model, variables, images)
        first = ("conv1", "norm1", "pool1", "conv2", "pool2", "norm2", "conv3")
        return variables["params"], {name: outputs[name] for name in first}

    with plain_forms():
        params, outputs = compute()
    outputs = {name: np.asarray(y, np.float64) for name, y in outputs.items()}
    alpha = 1e-4 / 5
    assert_close(outputs["norm1"], norm(outputs["conv1"], alpha=alpha))
    assert_close(outputs["pool1"], pool(outputs["norm1"]))
    assert_close(outputs["pool2"], pool(relu(outputs["conv2"])))
    assert_close(outputs["norm2"], norm(outputs["pool2"], alpha=alpha))
    for name, x in (("conv2", relu(outputs["pool1"])), ("conv3", outputs["norm2"])):
        kernel, bias = (np.asarray(params[name][part], np.float64) for part in ("kernel", "bias"))
        centre, half = x.shape[1] // 2, kernel.shape[0] // 2
        window = slice(centre - half, centre + half + 1)
        sums = np.einsum("bhwc,hwcd->bd", x[:, window, window], kernel)
        assert_close(outputs[name][:, centre, centre], sums + bias)


HIDDEN = ("conv2", "conv4", "conv5", "fc6", "fc7")


@pytest.mark.parametrize(
    ("model", "stds", "biases"),
    (
        (AlexNet2012(), {}, dict.fromkeys(HIDDEN, 1.0)),
        (CaffeAlexNet(), {"fc6": 0.005, "fc7": 0.005}, dict.fromkeys(HIDDEN, 0.1)),
        (CaffeNet(), {"fc6": 0.005, "fc7": 0.005}, dict.fromkeys(HIDDEN, 1.0)),
        (
            CudaConvnet2(),
            {"conv3": 0.03, "conv4": 0.03, "conv5": 0.03},
            dict.fromkeys(HIDDEN, 1.0) | {"fc8": -7.0},
        ),
    ),
    ids=("paper", "Caffe", "CaffeNet", "cuda-convnet2"),
)
def test_every_layer_starts_as_it_should(model, stds, biases):
    initializers = initializers_of(model)
    assert list(initializers) == [*(f"conv{n}" for n in range(1, 6)), "fc6", "fc7", "fc8"]
    for name, (kernel_init, bias_init) in initializers.items():
        # 16,384 weights: 0.03 is 5 standard errors.
        std = np.std(kernel_init(KEY, (128, 128), jnp.float32))
        assert abs(std / stds.get(name, 0.01) - 1) < 0.03
        bias = np.float32(biases.get(name, 0.0))
        np.testing.assert_array_equal(bias_init(KEY, (3,), jnp.float32), bias)


def test_alexnet2014_starts_as_in_torchvision():
    params, _ = shapes_of(AlexNet2014(), 64)
    for name, initializers in initializers_of(AlexNet2014()).items():
        limit = np.prod(params[name]["kernel"].shape[:-1]) ** -0.5
        for init in initializers:
            values = init(KEY, (128, 128), jnp.float32)
            assert 0.99 * limit < np.abs(values).max() <= limit * (1 + 1e-6)
            # The standard deviation of a uniform distribution.
            assert abs(np.std(values) / (limit / 3**0.5) - 1) < 0.02


@pytest.mark.parametrize("network", (partial(AlexNet2012, hidden_bias=0.0), AlexNet2014))
def test_alexnets_take_another_initialisation(network):
    init = nn.initializers.he_normal()
    for kernel_init, bias_init in initializers_of(network(kernel_init=init)).values():
        assert kernel_init is init
        assert not bias_init(KEY, (3,), jnp.float32).any()


@pytest.mark.parametrize("network", (AlexNet2012, AlexNet2014, AlexNet2019))
def test_dropout_comes_after_fc6_and_fc7_or_before(network):
    """In 2012 after, in torchvision before: of 12 and 10 units, or of pool5's maps and 12 units."""
    _, outputs = shapes_of(network(**SMALL), 127)
    after = network is AlexNet2012
    assert outputs["drop6"] == ((12,) if after else (3 * 3 * 4,))
    assert outputs["drop7"] == ((10,) if after else (12,))


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

        with plain_forms():
            return change(*np.split(np.asarray(features()), 2))

    # With the same parameters: both networks draw them by the names of the layers.
    sharp = change_of(AlexNet2014(**SMALL), "pool2")
    pools_blurred = change_of(AlexNet2019(**SMALL, blur_conv1=False), "blur_pool2")
    assert change_of(AlexNet2019(**SMALL), "blur_pool2") < 0.8 * pools_blurred < 0.8 * 0.8 * sharp


def test_a_narrowed_network_has_a_share_of_the_features() -> None:
    assert narrowed(AlexNet2012, 0.25) == {"maps": (24, 64, 96, 96, 64), "units": (1024, 1024)}
    assert AlexNet2012(**narrowed(AlexNet2012, 1.0)) == AlexNet2012()

"""Own layers against slow, obvious NumPy; the fast forms against XLA's own operators."""

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models import layers
from cnn_jax.ops import operators, winograd

BACKENDS = ("cpu", "gpu", "tpu")
FAST = {backend: operators.forms(backend) for backend in BACKENDS[:2]}
CPU, GPU, PLAIN = (operators.forms(backend) for backend in BACKENDS)

# Image height and width, kernel [h, w, input maps / groups, maps], strides, pads, groups.
CONVOLUTIONS = {
    "LeNet-5 C1": ((28, 28), (5, 5, 1, 6), (1, 1), ((2, 2), (2, 2)), 1),
    "LeNet-5 C3": ((14, 14), (5, 5, 6, 16), (1, 1), ((0, 0), (0, 0)), 1),
    "colour, rectangular": ((9, 32), (3, 5, 3, 4), (1, 1), ((1, 0), (0, 2)), 1),
    "prime number of columns": ((6, 25), (2, 3, 2, 3), (1, 1), ((0, 0), (0, 0)), 1),
    "one column": ((7, 3), (4, 3, 2, 5), (1, 1), ((0, 0), (0, 0)), 1),
    "few maps, strided": ((11, 9), (3, 2, 2, 3), (2, 3), ((1, 1), (0, 1)), 1),
    "many maps": ((9, 7), (3, 3, 18, 5), (1, 1), ((1, 1), (1, 1)), 1),
    "few to many maps": ((8, 8), (3, 3, 1, 20), (1, 1), ((1, 1), (1, 1)), 1),
    "AlexNet conv1": ((30, 23), (11, 11, 3, 20), (4, 4), ((0, 1), (0, 0)), 1),
    "a remainder that no window sees": ((12, 13), (3, 3, 3, 17), (4, 4), ((0, 0), (2, 2)), 1),
    "padding beyond the kernel": ((4, 5), (2, 2, 3, 17), (1, 1), ((3, 2), (0, 3)), 1),
    "two groups": ((9, 9), (5, 5, 17, 6), (1, 1), ((2, 2), (2, 2)), 2),
    "three small groups": ((8, 6), (3, 3, 2, 9), (1, 1), ((1, 1), (1, 1)), 3),
    "AlexNet conv2": ((7, 9), (5, 5, 48, 50), (1, 1), ((2, 2), (2, 2)), 1),
    "AlexNet conv3": ((7, 8), (3, 3, 48, 49), (1, 1), ((0, 3), (1, 1)), 1),
}
WINOGRAD = [*CONVOLUTIONS][-2:]
# The others are, on a GPU, XLA's own convolution.
ON_GPU = {
    "LeNet-5 C1",
    "colour, rectangular",
    "prime number of columns",
    "few maps, strided",
    "AlexNet conv1",
    "a remainder that no window sees",
    "three small groups",
}


def normal(seed: int, shape: tuple[int, ...]) -> jax.Array:
    """From NumPy, because JAX would compile a generator for every shape."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def convolution(name: str, batch: int) -> tuple[jax.Array, jax.Array, tuple]:
    size, kernel_shape, strides, pads, groups = CONVOLUTIONS[name]
    x = normal(0, (batch, *size, kernel_shape[2] * groups))
    return x, normal(1, kernel_shape), (strides, pads, groups)


@cache
def convolved(name: str, backend: str) -> tuple[jax.Array, ...]:
    """The convolution of that name, and the gradients of a sum of its squares, compiled as one."""
    x, kernel, geometry = convolution(name, batch=3)

    @jax.jit
    def compute(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
        convolve = operators.forms(backend).convolve
        y, backward = jax.vjp(lambda x, kernel: convolve(x, kernel, *geometry), x, kernel)
        return y, *backward(2 * y)

    return compute(x, kernel)


def slow_convolve(x, kernel, strides, pads, groups) -> np.ndarray:
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    (height, width), (down, right) = kernel.shape[:2], strides
    rows = range(0, x.shape[1] - height + 1, down)
    columns = range(0, x.shape[2] - width + 1, right)
    y = np.zeros((len(x), len(rows), len(columns), kernel.shape[3]))
    inputs, outputs = kernel.shape[2], kernel.shape[3] // groups
    for d in range(kernel.shape[3]):
        group = d // outputs
        seen = x[..., group * inputs : (group + 1) * inputs]
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                patch = seen[:, row : row + height, column : column + width]
                y[:, i, j, d] = np.sum(patch * kernel[..., d], axis=(1, 2, 3))
    return y


def slow_pool(x, window: int, stride: int, reduce: Callable) -> np.ndarray:
    rows = range(0, x.shape[1] - window + 1, stride)
    columns = range(0, x.shape[2] - window + 1, stride)
    windows = [[x[:, i : i + window, j : j + window] for j in columns] for i in rows]
    return reduce(np.asarray(windows, np.float64), axis=(3, 4)).transpose(2, 0, 1, 3)


def slow_local_response_norm(x, k, n, alpha, beta) -> np.ndarray:
    x = np.asarray(x, np.float64)
    y = np.zeros_like(x)
    for i in range(x.shape[-1]):
        neighbours = x[..., max(0, i - n // 2) : i + n // 2 + 1]
        y[..., i] = x[..., i] / (k + alpha * np.sum(neighbours**2, axis=-1)) ** beta
    return y


def assert_close(actual, expected, tolerance: float = 2e-6) -> None:
    """Equal within `tolerance` of the largest value: what float32 sums of this size round to."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def gradients(function: Callable, *arrays: jax.Array) -> tuple:
    """The gradients of a sum of squares, so that every output has a gradient of its own."""

    def loss(*arrays):
        return jnp.sum(jnp.square(function(*arrays)))

    return jax.jit(jax.grad(loss, argnums=tuple(range(len(arrays)))))(*arrays)


@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, backend) for name in CONVOLUTIONS for backend in BACKENDS
     if backend != "gpu" or name in ON_GPU],
)  # fmt: skip
def test_convolve_is_the_slow_convolution_and_has_its_gradients(name, backend):
    x, kernel, geometry = convolution(name, batch=3)
    y, *grads = convolved(name, backend)
    # The transforms of 5 x 5 taps lose a digit: see `convolve_winograd`.
    loses = backend == "cpu" and name == "AlexNet conv2"
    assert_close(y, slow_convolve(x, kernel, *geometry), 1e-5 if loses else 2e-6)
    for grad, plain in zip(grads, convolved(name, "tpu")[1:], strict=True):
        assert_close(grad, plain, 2e-5 if loses else 2e-6)


def test_other_convolutions_are_xlas_own_on_a_gpu():
    for name in CONVOLUTIONS.keys() - ON_GPU:
        x, kernel, geometry = convolution(name, batch=1)
        jaxpr = str(jax.make_jaxpr(lambda x, k, g=geometry: GPU.convolve(x, k, *g))(x, kernel))
        bands = "dot_general" in jaxpr
        assert bands == (max(kernel.shape[2:]) <= 16)
        assert ("conv_general_dilated" in jaxpr) != bands


@pytest.mark.parametrize(("tile", "taps"), ((2, 3), (3, 5), (3, 3), (2, 2), (4, 3), (1, 5)))
def test_winograd_matrices_give_the_correlation(tile, taps):
    m, random = winograd.matrices(tile, taps), np.random.default_rng(0)
    pixels, kernel = random.standard_normal(tile + taps - 1), random.standard_normal(taps)
    outputs = m.output.T @ ((m.kernel @ kernel) * (m.input @ pixels))
    np.testing.assert_allclose(outputs, np.correlate(pixels, kernel, "valid"), atol=1e-13)


def test_winograd_takes_no_tile_for_which_there_are_no_points():
    with pytest.raises(ValueError, match="no points for tiles of 6 pixels and 3 taps"):
        winograd.matrices(6, 3)


@pytest.mark.parametrize("name", WINOGRAD)
def test_many_maps_become_products_of_winograd_unless_they_are_small(name):
    x, kernel, geometry = convolution(name, batch=1)

    def traced(dtype: type, pixels: int | None = None) -> str:
        arrays = x[:, :pixels].astype(dtype), kernel.astype(dtype)
        return str(jax.make_jaxpr(lambda x, kernel: CPU.convolve(x, kernel, *geometry))(*arrays))

    rows = len(kernel) + {3: 2, 5: 3}[len(kernel)] - 1  # of products, one operator each
    assert traced(jnp.float32).count("dot_general[") == rows * geometry[-1]
    assert "conv_general_dilated" not in traced(jnp.float32)
    assert "conv_general_dilated" in traced(jnp.bfloat16)  # which the transforms would round
    assert "conv_general_dilated" in traced(jnp.float32, pixels=5)


@pytest.mark.parametrize("batch", (1, 7, 32))
def test_convolve_takes_any_batch_size(batch):
    x, kernel, geometry = convolution("many maps", batch)
    cpu, plain = (
        jax.jit(lambda x, k, form=form: form.convolve(x, k, *geometry))(x, kernel)
        for form in (CPU, PLAIN)
    )
    assert_close(cpu, plain)


@pytest.mark.parametrize("name", ("AlexNet conv1", "AlexNet conv3"))
def test_convolve_in_a_scan_is_the_loop(name):
    x, kernel, geometry = convolution(name, batch=2)

    def descend(kernel):
        return kernel - 1e-4 * jax.grad(
            lambda k: jnp.sum(jnp.square(CPU.convolve(x, k, *geometry)))
        )(kernel)

    step = jax.jit(descend)
    looped = step(step(kernel))
    scanned, _ = jax.jit(lambda k: jax.lax.scan(lambda k, _: (descend(k), None), k, length=2))(
        kernel
    )
    assert_close(scanned, looped)


def test_gradients_on_cpu_are_in_the_order_that_stays_fast_in_a_scan():
    x, kernel, geometry = convolution("many maps", batch=1)

    def orders(convolve: Callable) -> list[str]:
        jaxpr = jax.make_jaxpr(
            jax.grad(lambda x, k: jnp.sum(convolve(x, k, *geometry) ** 2), argnums=(0, 1))
        )(x, kernel)
        return re.findall(r"ConvDimensionNumbers\(.*?\)\)", str(jaxpr))

    assert len(orders(CPU.convolve)) == 3
    assert len(set(orders(CPU.convolve))) == 1
    assert len(set(orders(PLAIN.convolve))) == 3


@pytest.mark.parametrize(
    ("images", "size", "parts"), ((32, (31, 30), 4), (48, (16, 18), 3), (32, (8, 9), 1))
)
def test_the_gradient_of_a_kernel_is_summed_over_parts(images, size, parts):
    kernel, geometry = normal(1, (2, 2, 1, 17)), ((1, 1), ((0, 1), (0, 1)), 1)
    x = normal(0, (images, *size, 1))

    def grads(form: operators.Forms) -> Callable:
        return jax.grad(lambda k: jnp.sum(form.convolve(x, k, *geometry) ** 2))

    # A batch of 32 or 48 is convolved in 8 chunks, forwards and, `parts` times each, backwards.
    convolutions = str(jax.make_jaxpr(grads(CPU))(kernel)).count("conv_general_dilated[")
    assert convolutions == 8 * (1 + parts + 1)  # and one for the input, which XLA drops
    if parts == 3:  # one case is enough to compile
        assert_close(jax.jit(grads(CPU))(kernel), jax.jit(grads(PLAIN))(kernel))


@pytest.mark.parametrize("fast", FAST)
def test_few_maps_become_matrix_products(fast):
    x, kernel, geometry = convolution("LeNet-5 C1", batch=1)
    jaxpr = str(jax.make_jaxpr(lambda x: FAST[fast].convolve(x, kernel, *geometry))(x))
    assert "dot_general" in jaxpr
    assert "conv_general_dilated" not in jaxpr


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("window", "stride"), ((2, 2), (3, 2), (2, 3), (4, 1), (1, 1)))
def test_pools_are_the_slow_pools(window, stride, backend):
    x = normal(0, (7, 9, 6, 3))
    forms = operators.forms(backend)
    pools = jax.jit(
        lambda x: (forms.max_pool(x, window, stride), forms.avg_pool(x, window, stride))
    )
    largest, mean = pools(x)
    assert_close(largest, slow_pool(x, window, stride, np.max))
    assert_close(mean, slow_pool(x, window, stride, np.mean))


@pytest.mark.parametrize("pool", ("max_pool", "avg_pool"))
@pytest.mark.parametrize(("window", "stride"), ((2, 2), (3, 2), (2, 3)))
def test_pools_have_the_same_gradients_in_all_forms(window, stride, pool):
    x = normal(0, (7, 9, 6, 3))
    cpu, plain = (
        gradients(lambda x, form=form: getattr(form, pool)(x, window, stride), x)[0]
        for form in (CPU, PLAIN)
    )
    assert_close(cpu, plain)


@pytest.mark.parametrize(("window", "stride"), ((2, 2), (3, 2), (2, 3), (3, 1), (5, 2)))
def test_the_first_of_equal_maxima_has_the_gradient_in_all_forms(window, stride):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (3, 9, 6, 2)), jnp.float32)
    dy = normal(1, PLAIN.max_pool(x, window, stride).shape)
    cpu, plain = (
        jax.jit(lambda x, f=f: jax.vjp(lambda x: f.max_pool(x, window, stride), x)[1](dy)[0])(x)
        for f in (CPU, PLAIN)
    )
    assert_close(cpu, plain)


def test_max_pool_of_many_members_in_a_scan_has_the_gradient_of_each():
    x = normal(0, (2, 3, 7, 9, 6))

    def grad(form: operators.Forms, x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(jnp.sin(form.max_pool(x, 3, 2))))(x)

    _, cpu = jax.jit(
        lambda x: jax.lax.scan(lambda _, x: (0, jax.vmap(partial(grad, CPU))(x)), 0, x)
    )(x[:, :, None])
    plain = jnp.stack([jnp.stack([grad(PLAIN, member[None]) for member in step]) for step in x])
    assert_close(cpu, plain)


@pytest.mark.parametrize("shape", ((3, 1100, 1000), (1, 2000, 600), (4, 30, 20)))
def test_dense_product_has_the_values_and_gradients_of_the_plain_one(shape):
    rows, inputs, outputs = shape
    x, kernel = normal(0, (rows, inputs)), normal(1, (inputs, outputs))

    def product(form: operators.Forms) -> jax.Array:
        return jax.jit(form.dense_product)(x, kernel)

    assert_close(product(CPU), product(PLAIN))
    cpu, plain = (gradients(form.dense_product, x, kernel) for form in (CPU, PLAIN))
    for one, other in zip(cpu, plain, strict=True):
        assert_close(one, other)


def test_dense_product_of_many_members_in_a_scan_is_that_of_each():
    x, kernel = normal(0, (2, 3, 4, 1100)), normal(1, (3, 1100, 1000))
    _, scanned = jax.jit(
        lambda x: jax.lax.scan(lambda _, x: (0, jax.vmap(CPU.dense_product)(x, kernel)), 0, x)
    )(x)
    assert_close(scanned, jnp.einsum("smbi,mio->smbo", x, kernel))


@pytest.mark.parametrize("bias", (True, False))
def test_dense_is_that_of_flax(bias):
    x = normal(0, (2, 1100))
    ours, theirs = layers.Dense(1000, use_bias=bias), nn.Dense(1000, use_bias=bias)
    variables = theirs.init(jax.random.key(0), x)
    assert jax.eval_shape(ours.init, jax.random.key(0), x) == jax.eval_shape(lambda: variables)
    assert_close(jax.jit(ours.apply)(variables, x), jax.jit(theirs.apply)(variables, x))


# k, n, alpha, beta; the second has fewer neighbours than maps, the last more.
NORMS = ((2.0, 5, 1e-4, 0.75), (1.0, 3, 0.5, 0.75), (2.0, 5, 0.1, 0.5), (1.0, 13, 0.2, 1.0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("constants", NORMS)
def test_local_response_norm_is_the_slow_one(constants, backend):
    x = 10 * normal(0, (2, 4, 3, 8))
    y = jax.jit(lambda x: operators.forms(backend).local_response_norm(x, *constants))(x)
    assert_close(y, slow_local_response_norm(x, *constants))


@pytest.mark.parametrize("constants", NORMS)
def test_local_response_norm_has_the_same_gradients_in_all_forms(constants):
    x = 10 * normal(0, (7, 4, 3, 8))
    cpu, plain = (
        gradients(lambda x, f=f: f.local_response_norm(x, *constants), x)[0] for f in (CPU, PLAIN)
    )
    assert_close(cpu, plain)


def test_local_response_norm_has_the_constants_of_the_paper():
    x = 100 * normal(0, (1, 2, 2, 8))
    y = layers.LocalResponseNorm().apply({}, x)
    assert_close(y, slow_local_response_norm(x, k=2, n=5, alpha=1e-4, beta=0.75))


def test_tanh_is_that_of_numpy_and_never_beyond_one():
    x = np.concatenate([np.linspace(-12, 12, 480_001), np.geomspace(1e-30, 1, 2001)])
    x = x.astype(np.float32)
    y, exact = np.asarray(jax.jit(CPU.tanh)(x), np.float64), np.tanh(x.astype(np.float64))
    np.testing.assert_allclose(y, exact, rtol=4e-7, atol=0)
    assert np.abs(y).max() < 1
    edges = jax.jit(CPU.tanh)(jnp.array([jnp.nan, jnp.inf, -jnp.inf, 0.0]))
    np.testing.assert_allclose(edges, [np.nan, 1, -1, 0], rtol=4e-7)  # not a number stays seen


def test_tanh_has_the_derivatives_of_xlas():
    x = jnp.linspace(-9, 9, 1001)
    own, plain = (
        (f, jax.vmap(jax.grad(f)), jax.vmap(jax.grad(jax.grad(f)))) for f in (CPU.tanh, PLAIN.tanh)
    )
    for a, b in zip(own, plain, strict=True):
        np.testing.assert_allclose(jax.jit(a)(x), jax.jit(b)(x), atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_forms_keep_bfloat16(backend):
    forms = operators.forms(backend)
    x, kernel, geometry = convolution("LeNet-5 C3", batch=2)
    half, half_kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)

    @jax.jit
    def every_form(x, kernel):
        return (
            forms.convolve(x, kernel, *geometry),
            forms.max_pool(x, 3, 2),
            forms.avg_pool(x, 2, 2),
            forms.local_response_norm(x, *NORMS[1]),
            forms.tanh(x),
        )

    for coarse, fine in zip(every_form(half, half_kernel), every_form(x, kernel), strict=True):
        assert coarse.dtype == jnp.bfloat16
        assert_close(coarse, fine, tolerance=1e-2)
    loss = jax.grad(lambda x, k: forms.convolve(x, k, *geometry).sum(), argnums=(0, 1))
    grads = jax.eval_shape(loss, half, half_kernel)
    assert [grad.dtype for grad in grads] == [jnp.bfloat16] * 2


def test_forms_are_chosen_by_backend():
    assert operators.forms() == CPU
    assert len({CPU, GPU, PLAIN}) == 3
    assert operators.forms("tpu") == PLAIN
    assert PLAIN.convolve is operators.convolve


@pytest.mark.parametrize(
    ("ours", "theirs"),
    (
        (layers.Conv(9, (3, 2)), nn.Conv(9, (3, 2), padding="VALID")),
        (layers.Conv(9, 3, 2, "SAME"), nn.Conv(9, (3, 3), (2, 2), "SAME")),
        (layers.Conv(9, 3, (1, 2), 1), nn.Conv(9, (3, 3), (1, 2), 1)),
        (
            layers.Conv(9, 3, padding=((0, 1), (2, 0)), groups=3),
            nn.Conv(9, (3, 3), padding=((0, 1), (2, 0)), feature_group_count=3),
        ),
        (layers.Conv(9, 1, use_bias=False), nn.Conv(9, (1, 1), use_bias=False)),
    ),
)
def test_conv_has_the_parameters_and_values_of_flax(ours, theirs):
    x, key = normal(0, (2, 9, 8, 6)), jax.random.key(0)
    shapes = jax.eval_shape(ours.init, key, x)
    assert shapes == jax.eval_shape(theirs.init, key, x)
    variables = jax.tree.map(lambda leaf: normal(1, leaf.shape), shapes)
    assert_close(jax.jit(ours.apply)(variables, x), jax.jit(theirs.apply)(variables, x))


@pytest.mark.parametrize(
    ("layer", "message"),
    (
        (layers.Conv(4, 3, groups=2, name="conv2"), "conv2: 2 groups do not divide 3 input and 4"),
        (layers.Conv(4, 3, groups=3, name="conv2"), "conv2: 3 groups do not divide 3 input and 4"),
        (layers.Conv(4, (2, 7), name="C1"), "C1: a 2x7 window does not fit maps of 5x6"),
        (layers.MaxPool(6, 2, name="pool1"), "pool1: a 6x6 window does not fit maps of 5x6"),
        (layers.AvgPool(6, 2, name="S2"), "S2: a 6x6 window does not fit maps of 5x6"),
        (layers.LocalResponseNorm(n=4, name="norm1"), "norm1: n must be odd"),
    ),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layers_refuse_what_does_not_fit(layer, message):
    with pytest.raises(ValueError, match=message):
        layer.init(jax.random.key(0), jnp.ones((1, 5, 6, 3)))


class TwoDropouts(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x, keys):
        return [layers.Dropout(self.rate, name=name)(x, keys) for name in ("drop6", "drop7")]


@partial(jax.jit, static_argnums=0)
def two_dropouts(rate: float, x: jax.Array, keys: jax.Array) -> Any:
    return TwoDropouts(rate).apply({}, x, keys)


def test_dropout_zeroes_at_its_rate_and_scales_the_rest():
    x = jnp.full((64, 10, 50), 3.0)
    y, _ = two_dropouts(0.25, x, jax.random.split(jax.random.key(0), 64))
    np.testing.assert_allclose(np.unique(y), [0.0, 4.0])
    # 32,000 draws: a standard deviation of 0.0024.
    assert abs(np.mean(y == 0) - 0.25) < 0.01


def test_dropout_masks_depend_on_the_key_of_the_example_only():
    keys, x = jax.random.split(jax.random.key(0), 8), jnp.ones((8, 40))
    whole, _ = two_dropouts(0.5, x, keys)
    part, _ = two_dropouts(0.5, x[2:5], keys[2:5])
    np.testing.assert_array_equal(part, whole[2:5])
    assert len({tuple(row) for row in np.asarray(whole)}) == 8


def test_dropouts_of_different_names_draw_different_masks():
    keys = jax.random.split(jax.random.key(0), 4)
    first, second = (np.asarray(y) for y in two_dropouts(0.5, jnp.ones((4, 40)), keys))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("rate", "keyed"), ((0.5, False), (0.0, True)))
def test_dropout_is_the_identity_without_keys_and_at_rate_zero(rate, keyed):
    x = normal(0, (4, 10))
    keys = jax.random.split(jax.random.key(0), 4) if keyed else None
    for y in TwoDropouts(rate).apply({}, x, keys):
        np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("rate", (-0.1, 1.0))
def test_dropout_refuses_impossible_rates(rate):
    with pytest.raises(ValueError, match=f"rate must be in .*, got {rate}"):
        TwoDropouts(rate).apply({}, jnp.ones((1, 2)), None)


def test_nothing_selects_and_scatters_on_a_gpu() -> None:
    """XLA for GPUs does not compile a select-and-scatter when it must be deterministic."""
    for form, scatters in ((GPU, False), (PLAIN, True)):
        gradient = jax.jit(jax.grad(lambda x, form=form: form.max_pool(x, 3, 2).sum()))
        program = gradient.lower(jnp.zeros((2, 13, 13, 4))).as_text()
        assert ("select_and_scatter" in program) == scatters


def test_conv1_of_alexnet_is_folded_on_a_gpu() -> None:
    """224 pixels of 3 maps in windows of 11, 4 apart, are 57 blocks of 48 in windows of 3."""
    x, kernel = jnp.zeros((2, 224, 224, 3)), jnp.zeros((11, 11, 3, 64))
    convolve = partial(GPU.convolve, strides=(4, 4), pads=((2, 2), (2, 2)), groups=1)
    jaxpr = jax.make_jaxpr(convolve)(x, kernel)
    (convolution,) = (e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated")
    assert [v.aval.shape for v in convolution.invars] == [(2, 57, 57, 48), (3, 3, 48, 64)]

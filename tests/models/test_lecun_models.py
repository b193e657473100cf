"""LeCun's network of 1989 and its heirs, and their layers, against the papers and slow NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.errors import UserError
from cnn_jax.losses import mean_squared_error
from cnn_jax.models import count_connections, count_parameters, lecun_layers
from cnn_jax.models.ciresan2010 import Ciresan2010
from cnn_jax.models.lecun_layers import Subsample, TableConv, scaled_tanh, uniform_fan_in
from cnn_jax.models.lenet1989 import H2_TABLE, LeNet1989
from cnn_jax.models.simard2003 import SimardConvNet, SimardMLP
from cnn_jax.ops import operators

KEY = jax.random.key(0)
TABLE = ((0, 2), (1,), (3, 1, 0), (0, 1, 2, 3), (2,))  # five maps over four, one row out of order


CIRESAN = {
    1: ((1000, 500), 1_347_510),
    2: ((1500, 1000, 500), 3_269_510),
    3: ((2000, 1500, 1000, 500), 6_692_010),
    4: ((2500, 2000, 1500, 1000, 500), 12_115_010),
    5: ((1000,) * 9, 8_860_010),
}


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def shapes_of(model: Any, *image: int) -> Any:
    return jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, *image), jnp.float32))["params"]


def some_params(model: Any, *image: int) -> Any:
    """Values of the right shapes from NumPy: quicker than the model's own, biases not zero."""
    leaves, tree = jax.tree.flatten(shapes_of(model, *image))
    return tree.unflatten([0.1 * normal(n, *leaf.shape) for n, leaf in enumerate(leaves)])


def slow_table_conv(x, params, table, size, stride, padding, pad_value) -> np.ndarray:
    """One multiplication at a time, connection by connection."""
    x, kernel = np.asarray(x, np.float64), np.asarray(params["kernel"], np.float64)
    bias = np.asarray(params.get("bias", 0.0), np.float64)
    batch, height, width, channels = x.shape
    padded = np.full((batch, height + 2 * padding, width + 2 * padding, channels), pad_value)
    padded[:, padding : padding + height, padding : padding + width] = x
    rows = (padded.shape[1] - size) // stride + 1
    columns = (padded.shape[2] - size) // stride + 1
    y = np.zeros((batch, rows, columns, len(table)))
    pair = 0
    for j, inputs in enumerate(table):
        for i in inputs:
            for row in range(rows):
                for column in range(columns):
                    for a in range(size):
                        for b in range(size):
                            pixels = padded[:, row * stride + a, column * stride + b, i]
                            y[:, row, column, j] += kernel[a, b, pair] * pixels
            pair += 1
    return y + bias


@pytest.mark.parametrize("net", CIRESAN)
def test_ciresans_nets_have_their_widths_and_sizes(net):
    widths, total = CIRESAN[net]
    params = shapes_of(Ciresan2010(net), 29, 29, 1)
    assert list(params) == [*(f"fc{n + 1}" for n in range(len(widths))), "output"]
    assert tuple(layer["kernel"].shape[1] for layer in params.values()) == (*widths, 10)
    assert count_parameters(params) == total
    assert sum(count_connections(Ciresan2010(net), (29, 29, 1)).values()) == total
    assert f"{total:,}" in (Ciresan2010.__doc__ or "")


@pytest.mark.parametrize("net", (0, 6))
def test_ciresan_has_no_other_net(net):
    with pytest.raises(UserError, match=f"net must be 1 to 5, got {net}"):
        shapes_of(Ciresan2010(net), 29, 29, 1)


def test_simards_convolutions_need_13_pixels():
    shapes_of(SimardConvNet(), 13, 13, 1)
    with pytest.raises(UserError, match="at least 13x13 pixels, got 12x13"):
        shapes_of(SimardConvNet(), 12, 13, 1)


def test_each_map_of_h2_sees_eight_and_all_are_seen_equally():
    assert {len(set(inputs)) for inputs in H2_TABLE} == {8} and len(H2_TABLE) == 12
    seen = np.bincount(np.concatenate(H2_TABLE), minlength=12)
    np.testing.assert_array_equal(seen, 8)


@pytest.mark.parametrize("backend", ("cpu", "gpu", "tpu"))
@pytest.mark.parametrize(
    ("stride", "padding", "pad_value", "bias"),
    ((1, 0, 0.0, "map"), (2, 2, -1.0, "unit"), (1, 1, 0.0, "map"), (3, 1, 0.5, "map")),
)
def test_table_conv_is_the_slow_one(backend, stride, padding, pad_value, bias, monkeypatch):
    forms = operators.forms(backend)
    monkeypatch.setattr(lecun_layers, "forms", lambda: forms)
    layer = TableConv(TABLE, 3, stride, padding, pad_value, bias)
    x, params = normal(9, 2, 7, 6, 4), some_params(layer, 7, 6, 4)
    assert params.keys() == {"kernel", "bias"}
    y = jax.jit(layer.apply)({"params": params}, x)
    expected = slow_table_conv(x, params, TABLE, 3, stride, padding, pad_value)
    assert params["kernel"].shape == (3, 3, sum(map(len, TABLE)))
    assert params["bias"].shape == (expected.shape[1:] if bias == "unit" else (len(TABLE),))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_an_output_map_depends_on_the_inputs_of_its_row_only():
    layer: Any = TableConv(TABLE, 3)
    params, x = some_params(layer, 5, 5, 4), normal(9, 1, 5, 5, 4)

    def sums(x):
        return layer.apply({"params": params}, x).sum((0, 1, 2))

    depends = np.abs(jax.jit(jax.jacrev(sums))(x)).sum((1, 2, 3)) > 0
    expected = [[i in inputs for i in range(4)] for inputs in TABLE]
    np.testing.assert_array_equal(depends, expected)


@pytest.mark.parametrize("table", (((0, 4),), ((0,), (1, 1)), ((-1,),)))
def test_tables_that_name_no_map_or_one_twice_are_refused(table):
    with pytest.raises(ValueError, match="each row of the table must name some of 4 maps once"):
        shapes_of(TableConv(table, 3), 5, 5, 4)


def test_a_kernel_larger_than_the_padded_maps_is_refused():
    layer = TableConv(((0,),), 5, padding=1, bias="unit")
    assert shapes_of(layer, 3, 3, 1)["bias"].shape == (1, 1, 1)
    for pad_value in (0.0, -1.0):
        with pytest.raises(ValueError, match="does not fit"):
            shapes_of(layer.clone(pad_value=pad_value), 2, 3, 1)


@pytest.mark.parametrize("backend", ("cpu", "gpu", "tpu"))
def test_subsample_is_the_slow_one(backend, monkeypatch):
    forms = operators.forms(backend)
    monkeypatch.setattr(lecun_layers, "forms", lambda: forms)
    x = normal(0, 2, 6, 5, 3)
    params = {"coefficient": normal(1, 3), "bias": normal(2, 3)}
    y = jax.jit(Subsample().apply)({"params": params}, x)
    expected = np.zeros((2, 3, 2, 3))
    for row in range(3):
        for column in range(2):
            patch = np.asarray(x, np.float64)[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected[:, row, column] = patch.sum((1, 2)) * params["coefficient"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert Subsample().connections((1, 28, 28, 6), (1, 14, 14, 6)) == 5_880  # LeNet-5's S2


def test_table_conv_counts_lenet5s_connections():
    c1 = TableConv(((0,),) * 6, 5)
    assert c1.connections((1, 32, 32, 1), (1, 28, 28, 6)) == 122_304
    assert TableConv(TABLE, 3).connections((1, 7, 7, 4), (1, 5, 5, 5)) == 25 * (9 * 11 + 5)


def test_scaled_tanh_is_one_at_one():
    x = np.linspace(-4, 4, 9)
    np.testing.assert_allclose(scaled_tanh(jnp.asarray(x)), 1.7159 * np.tanh(2 / 3 * x), rtol=1e-5)
    np.testing.assert_allclose(scaled_tanh(jnp.array([-1.0, 1.0])), [-1, 1], atol=1e-4)


def check_uniform(values: Any, limit: float) -> None:
    """Reaches nearly to the limits, not beyond, and has a uniform distribution's deviation."""
    assert 0.95 * limit < np.abs(values).max() <= limit * (1 + 1e-6)
    assert abs(np.std(values) / (limit / 3**0.5) - 1) < 0.1


def initial(model: Any, image: tuple[int, ...], *names: str) -> Any:
    """Initial parameters of the layers named; XLA computes nothing for the others."""

    @jax.jit
    def init():
        params = model.init(KEY, jnp.zeros((1, *image)))["params"]
        return {name: params[name] for name in names}

    return init()


def test_uniform_fan_in_counts_the_inputs_of_a_unit():
    check_uniform(uniform_fan_in()(KEY, (5, 5, 8, 12), jnp.float32), 2.4 / 200)
    check_uniform(uniform_fan_in(3.0, power=0.5)(KEY, (5, 5, 8, 12), jnp.float32), 3 / 200**0.5)


def test_each_map_starts_within_its_own_fan_in():
    table = ((0,), (0, 1, 2, 3), (1, 3))
    kernel = initial(TableConv(table, 15), (15, 15, 4), "kernel")["kernel"]
    for first, inputs in zip((0, 1, 5), table, strict=True):
        check_uniform(kernel[..., first : first + len(inputs)], 2.4 / (225 * len(inputs)))
    assert not np.allclose(kernel[..., 1] / kernel[..., 0], kernel[0, 0, 1] / kernel[0, 0, 0])


def test_the_zip_code_network_starts_within_the_fan_ins():
    params = initial(LeNet1989(), (16, 16, 1), "H1", "H2", "output")
    for name, inputs in (("H1", 25), ("H2", 200), ("output", 30)):
        check_uniform(params[name]["kernel"], 2.4 / inputs)
        assert not params[name]["bias"].any()


def test_the_nets_of_2003_and_2010_start_small():
    for layer in initial(Ciresan2010(), (29, 29, 1), "fc2").values():
        check_uniform(layer["kernel"], 0.05)
        check_uniform(layer["bias"], 0.05)
    conv = initial(SimardConvNet(), (29, 29, 1), "C2", "F3")
    for layer in (*conv.values(), initial(SimardMLP(), (28, 28, 1), "output")["output"]):
        assert abs(np.std(layer["kernel"]) / 0.05 - 1) < 0.05
        assert not layer["bias"].any()


def test_subsampling_starts_as_a_mean():
    x = normal(0, 1, 4, 6, 3)
    y, variables = Subsample().init_with_output(KEY, x)
    np.testing.assert_allclose(y, x.reshape(1, 2, 2, 3, 2, 3).mean((2, 4)), rtol=1e-5, atol=1e-6)
    assert variables["params"].keys() == {"coefficient", "bias"}


def test_the_zip_code_network_as_written_out_in_numpy():
    """Every layer by the slow loops, squashed; the border of H1 and H2 holds the background."""
    model: Any = LeNet1989()
    images, params = normal(99, 2, 16, 16, 1), some_params(model, 16, 16, 1)

    def squash(x):
        return 1.7159 * np.tanh(2 / 3 * x)

    x = squash(slow_table_conv(images, params["H1"], ((0,),) * 12, 5, 2, 2, -1.0))
    x = squash(slow_table_conv(x, params["H2"], H2_TABLE, 5, 2, 2, -1.0)).reshape(2, -1)
    for name in ("H3", "output"):
        x = squash(x @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"]))
    outputs = jax.jit(model.apply)({"params": params}, images)
    np.testing.assert_allclose(outputs, x, rtol=1e-4, atol=1e-5)


def test_a_step_down_the_gradient_lowers_the_squared_error():
    """The path that training takes: gradients through the table, unit biases and the loss."""
    model: Any = LeNet1989()
    images, labels, params = normal(99, 8, 16, 16, 1), jnp.arange(8), some_params(model, 16, 16, 1)

    @jax.jit
    def mean_loss(params):
        outputs = model.apply({"params": params}, images)
        return mean_squared_error()(outputs, labels).mean()

    with operators.plain_forms():  # compiled sooner
        before, grads = jax.jit(jax.value_and_grad(mean_loss))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
    after = mean_loss(jax.tree.map(lambda p, g: p - 0.001 * g, params, grads))
    slope = sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads))
    np.testing.assert_allclose(before - after, 0.001 * slope, rtol=0.1)

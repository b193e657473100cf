"""The backward pass of second derivatives, against Hessians where it is exact, and by hand."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from cnn_jax.losses import discriminative_map, mean_squared_error
from cnn_jax.models import LeNet5_1998
from cnn_jax.models.layers import Conv
from cnn_jax.models.lecun_curvature import diagonal_curvature
from cnn_jax.models.lecun_layers import EuclideanRBF, Subsample, TableConv, scaled_tanh
from cnn_jax.ops.operators import plain_forms

RANDOM = np.random.default_rng(0)
LABELS = jnp.asarray([0, 2, 1, 2])
CENTRES = ((1.0, -1.0, 1.0, 1.0, -1.0), (-1.0, -1.0, 1.0, -1.0, 1.0), (1.0, 1.0, -1.0, 1.0, 1.0))


class Net(nn.Module):
    """Layers of every kind, small."""

    squash: Any = scaled_tanh
    head: bool = True

    @nn.compact
    def __call__(self, images, train=False, keys=None):
        x = self.squash(Conv(2, 3, name="C1")(images))
        x = self.squash(Subsample(name="S2")(x))
        x = self.squash(TableConv(((0,), (0, 1), (1,)), 2, name="C3")(x))
        x = self.squash(nn.Dense(5, name="F4")(x.reshape(len(x), -1)))
        return EuclideanRBF(CENTRES, name="output")(x) if self.head else x


def example(model: nn.Module, size: int) -> tuple[Any, jax.Array]:
    images = jnp.asarray(RANDOM.standard_normal((4, size, size, 1)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(
        lambda p: jnp.asarray(RANDOM.standard_normal(p.shape) / 2, p.dtype), shapes
    )
    return params, images


def curvature_of(model: nn.Module, params: Any, images: jax.Array, labels: Any, loss: Any) -> Any:
    """`diagonal_curvature`, compiled."""
    with plain_forms():
        return jax.jit(lambda p: diagonal_curvature(model, p, images, labels, loss))(params)


def hessian_diagonal(
    model: nn.Module, params: Any, images: jax.Array, loss: Any, layer: str
) -> Any:
    """The diagonal of the mean loss's Hessian by one layer's parameters, by brute force."""
    flat, rebuild = ravel_pytree(params[layer])

    def mean_loss(flat: jax.Array) -> jax.Array:
        variables = {"params": params | {layer: rebuild(flat)}}
        return loss(model.apply(variables, images), LABELS).mean()

    with plain_forms():
        return rebuild(jnp.diagonal(jax.jit(jax.hessian(mean_loss))(flat)))


@pytest.mark.parametrize(
    ("loss", "head"),
    [(discriminative_map(0.5), True), (mean_squared_error(), False)],
    ids=["map", "squares"],
)
def test_the_last_layer_has_its_hessian_where_the_activation_is_linear(loss, head):
    """Nothing is left out there: no activation, and every weight has one connection per example."""
    model = Net(squash=lambda x: x, head=head)
    params, images = example(model, 6)
    curvature = curvature_of(model, params, images, LABELS, loss)["F4"]
    expected = hessian_diagonal(model, params, images, loss, "F4")
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(curvature[name], expected[name], rtol=2e-4, atol=1e-5)


def test_it_is_the_papers_recursion():
    """Appendix C, written out in loops for one example: squares of weights, inputs and slopes."""
    model, loss = Net(), discriminative_map(0.5)
    params, images = example(model, 6)
    curvature = curvature_of(model, params, images, LABELS, loss)
    totals: Any = jax.tree.map(np.zeros_like, params)
    for image, label in zip(np.asarray(images, np.float64), LABELS, strict=True):
        for layer, values in by_hand(params, image, int(label)).items():
            for name, value in values.items():
                totals[layer][name] += value / len(images)
    for layer in ("C1", "S2", "C3", "F4"):
        for name, value in totals[layer].items():
            np.testing.assert_allclose(curvature[layer][name], value, rtol=1e-3, atol=1e-7)


def slope(a: np.ndarray) -> np.ndarray:
    return 1.7159 * 2 / 3 / np.cosh(2 * a / 3) ** 2


@jax.jit
@jax.hessian
def cost_hessian(z: jax.Array, label: int) -> jax.Array:
    """Of `discriminative_map(0.5)` behind the last layer."""
    logits = -jnp.square(z - jnp.asarray(CENTRES)).sum(-1)
    return jnp.logaddexp(jax.nn.logsumexp(logits), -0.5) - logits[label]


def by_hand(params: Any, image: np.ndarray, label: int) -> dict[str, dict[str, np.ndarray]]:
    """Second derivatives of one example's loss by each parameter, unit by unit."""
    p: Any = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def squash(a: np.ndarray) -> np.ndarray:
        return 1.7159 * np.tanh(2 * a / 3)

    table = ((0,), (0, 1), (1,))
    pairs = [(i, j) for j, inputs in enumerate(table) for i in inputs]
    a1 = np.zeros((4, 4, 2)) + p["C1"]["bias"]
    for y, x, v, w in np.ndindex(4, 4, 3, 3):
        a1[y, x] += image[y + v, x + w, 0] * p["C1"]["kernel"][v, w, 0]
    z1 = squash(a1)
    sums = z1.reshape(2, 2, 2, 2, 2).sum((1, 3))
    a2 = sums * p["S2"]["coefficient"] + p["S2"]["bias"]
    z2 = squash(a2)
    a3 = p["C3"]["bias"].copy()
    for n, (i, j) in enumerate(pairs):
        a3[j] += (z2[:, :, i] * p["C3"]["kernel"][:, :, n]).sum()
    z3 = squash(a3)
    a4 = z3 @ p["F4"]["kernel"] + p["F4"]["bias"]
    z4 = squash(a4)

    with jax.enable_x64(True):
        h = np.diagonal(cost_hessian(jnp.asarray(z4), label))
    curvature: dict[str, dict[str, np.ndarray]] = {}
    h = h * slope(a4) ** 2
    curvature["F4"] = {"kernel": np.outer(z3**2, h), "bias": h}
    h = p["F4"]["kernel"] ** 2 @ h * slope(a3) ** 2
    kernel, back = np.zeros((2, 2, len(pairs))), np.zeros((2, 2, 2))
    for n, (i, j) in enumerate(pairs):
        kernel[:, :, n] = z2[:, :, i] ** 2 * h[j]
        back[:, :, i] += p["C3"]["kernel"][:, :, n] ** 2 * h[j]
    curvature["C3"] = {"kernel": kernel, "bias": h}
    h = back * slope(a2) ** 2
    squares = (z1**2).reshape(2, 2, 2, 2, 2).sum((1, 3))
    curvature["S2"] = {"coefficient": (h * squares).sum((0, 1)), "bias": h.sum((0, 1))}
    h = (h * p["S2"]["coefficient"] ** 2).repeat(2, 0).repeat(2, 1) * slope(a1) ** 2
    kernel = np.zeros((3, 3, 1, 2))
    for y, x, v, w in np.ndindex(4, 4, 3, 3):
        kernel[v, w, 0] += image[y + v, x + w, 0] ** 2 * h[y, x]
    curvature["C1"] = {"kernel": kernel, "bias": h.sum((0, 1))}
    return curvature


def test_lenet5_has_a_curvature_for_every_parameter():
    model = LeNet5_1998()
    images = jnp.asarray(RANDOM.standard_normal((3, 32, 32, 1)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(
        lambda p: jnp.asarray(RANDOM.standard_normal(p.shape) / 9, p.dtype), shapes
    )
    loss = discriminative_map(0.1)
    labels = jnp.asarray([3, 1, 4])
    h = curvature_of(model, params, images, labels, loss)
    assert jax.tree.map(jnp.shape, h) == jax.tree.map(jnp.shape, params)
    assert all((leaf > 0).all() for leaf in jax.tree.leaves(h))

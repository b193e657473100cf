"""The diagonal of the Gauss-Newton matrix, by LeCun's backward pass of second derivatives.

Source: LeCun, Bottou, Bengio and Haffner (1998), appendix C; LeCun, Bottou, Orr and Müller (1998),
Efficient BackProp, section 7.2. It sets the rate of each weight in
`optim.diagonal_levenberg_marquardt`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax.models.layers import Conv
from cnn_jax.models.lecun_layers import EuclideanRBF, Subsample, TableConv

# Linear in their input, and linear in their parameters.
BILINEAR = (Conv, nn.Dense, TableConv, Subsample)


def diagonal_curvature(
    model: Any,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
) -> Any:
    """The second derivative of the mean loss by each parameter, a tree like `params`, at least 0.

    The backward pass of a gradient, with the squares of weights w, inputs x and slopes f'. It
    leaves out the second derivative of the activation, and the cross terms between units and
    between the connections that share a weight. The loss enters exactly, as a function of the input
    of the last layer where that is an `EuclideanRBF`, else of the logits.

    Args:
        model: a Linen module made of `BILINEAR` layers, whose field `squash` is the activation.
        images: float32 [B, H, W, C].
        labels: int32 [B].
        loss: per example, (logits [B, classes], labels [B]) -> [B].
    """
    heads: list[nn.Module] = []

    def square_backward(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        layer = context.module
        if context.method_name != "__call__" or not layer.path:  # no path: the clone below
            return call(*arguments, **keywords)
        if isinstance(layer, EuclideanRBF):
            heads.append(layer.clone(parent=None))
            return arguments[0]
        if not isinstance(layer, BILINEAR):
            return call(*arguments, **keywords)
        detached = of_squares = layer.clone(parent=None)
        if isinstance(detached, TableConv):
            of_squares = detached.clone(pad_value=detached.pad_value**2)  # an input like the others
        squared = _squared(
            lambda params, x: detached.apply({"params": params}, x),
            lambda params, x: of_squares.apply({"params": params}, x),
        )
        return squared(layer.variables["params"], arguments[0])

    def outputs(params: Any) -> Any:
        squash = _squared(lambda _, x: model.squash(x), None)
        with nn.intercept_methods(square_backward):
            return model.clone(squash=lambda x: squash((), x)).apply({"params": params}, images)

    def example_loss(y: jax.Array, label: jax.Array) -> jax.Array:
        logits: Any = heads[0].apply({}, y[None]) if heads else y[None]
        return loss(logits, label[None])[0]

    y, backward = jax.vjp(outputs, params)
    hessians = jax.vmap(jax.hessian(example_loss))(y, labels)
    diagonals = jnp.diagonal(hessians, axis1=1, axis2=2)
    (curvature,) = backward(jnp.maximum(diagonals, 0) / len(images))
    return curvature


def _squared(
    function: Callable[[Any, jax.Array], Any], of_squares: Callable[[Any, jax.Array], Any] | None
) -> Callable[..., Any]:
    """Return `function(params, x)` with a backward pass that carries second derivatives.

    A layer that is linear in x and in its parameters has the derivatives w and x; its transpose at
    w^2 and x^2 sums their squares. `of_squares` is the layer at these squares; None means an
    activation, whose derivative f'(x) is squared.
    """

    @jax.custom_vjp
    def forward(params: Any, x: jax.Array) -> jax.Array:
        return function(params, x)

    def backward(residuals: Any, curvature: jax.Array) -> Any:
        params, x = residuals
        if of_squares is None:
            _, slope = jax.jvp(lambda x: function(params, x), (x,), (jnp.ones_like(x),))
            return params, jnp.square(slope) * curvature
        squares = jax.tree.map(jnp.square, (params, x))
        return jax.vjp(of_squares, *squares)[1](curvature)

    forward.defvjp(lambda params, x: (function(params, x), (params, x)), backward)
    return forward

"""What a network's layers are called with and return, recorded while it runs."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax.models.layer_calls import record_layer_calls


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(2, name="a")(nn.Dense(3, name="z")(x))


class Net(nn.Module):
    """A block, a layer that is called twice, and a block that forgets what it computed."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, keys: Any = None) -> jax.Array:
        x = Block(name="block")(images.reshape(len(images), -1))
        twice = nn.Dense(2, name="twice")
        x = twice(inputs=twice(x))
        return nn.remat(Block)(name="again")(x)


def test_calls_are_recorded_in_the_order_of_returning() -> None:
    images = jnp.ones((1, 2, 2, 1))
    with record_layer_calls():
        variables = Net().init(jax.random.key(0), images)
    assert set(variables) == {"params"}
    with record_layer_calls() as calls:
        logits, state = Net().apply(variables, images, mutable=["intermediates"])
    block, again = ["block/z", "block/a", "block"], ["again/z", "again/a", "again"]
    assert [call.name for call in calls] == [*block, "twice", "twice", *again, ""]
    leaves = [call.name for call in calls if call.is_leaf]
    assert leaves == ["block/z", "block/a", "twice", "twice", "again/z", "again/a"]
    assert calls[-1].input is images and calls[-1].output is logits
    assert calls[4].input is calls[3].output  # passed by keyword
    assert calls[0].layer.features == 3  # pyright: ignore
    assert calls[5].output.shape == (1, 3)  # inside nn.remat
    sown: Any = state["intermediates"]
    assert [len(sown[name]["__call__"]) for name in ("block", "twice", "again")] == [1, 2, 1]
    assert sown["twice"]["__call__"][1] is calls[4].output
    assert (sown["again"]["__call__"][0] == logits).all()


def test_nothing_is_recorded_outside() -> None:
    with record_layer_calls() as calls:
        pass
    nn.Dense(2).init_with_output(jax.random.key(0), jnp.ones((1, 2)))
    assert calls == []

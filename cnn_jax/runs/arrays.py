"""Describe and hash a pytree of arrays, and turn it into NumPy arrays that can be stored.

Typed random keys (`jax.random.key`) may be among the arrays, in an optimizer's state for example.
They are stored and hashed as their bits.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def describe(tree: Any) -> dict[str, str]:
    """Types and shapes by name: {".params['C1']['bias']": "float32(6,)"}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}" for path, leaf in leaves}


def sha256(tree: Any) -> str:
    """Hash the names, types, shapes and bytes of a tree's arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(_stored(leaf))
        name = jax.tree_util.keystr(path)
        digest.update(f"{name} {leaf.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def to_stored(tree: Any) -> Any:
    """Turn all leaves into NumPy arrays, which may share memory with the leaves."""
    return jax.tree.map(_stored, tree)


def stored_shapes(like: Any) -> Any:
    """The shapes and types of `to_stored(tree)` for a tree like `like`, as `ShapeDtypeStruct`s."""

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        leaf = _stored(_blank_key(leaf)) if _is_key(leaf) else leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    return jax.tree.map(shape, like)


def from_stored(stored: Any, like: Any) -> Any:
    """Undo `to_stored`: the same arrays, with random keys where `like` has them."""

    def restored(leaf: Any, array: np.ndarray) -> Any:
        if not _is_key(leaf):
            return array
        impl = jax.random.key_impl(_blank_key(leaf))
        return jax.random.wrap_key_data(jnp.asarray(array), impl=impl)

    return jax.tree.map(restored, like, stored)


def _stored(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _blank_key(like: Any) -> jax.Array:
    """Keys of a shape and type: `jax.random` asks arrays, not shapes, which generator is theirs."""
    return jnp.empty(like.shape, like.dtype)

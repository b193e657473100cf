"""A tree of arrays by name: what it holds, its checksum, and one file of it.

The file is in the safetensors format, which reads without this package and without JAX.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file


def describe(tree: Any) -> dict[str, str]:
    """Types and shapes by name: {".params['C1']['bias']": "float32(6,)"}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}" for path, leaf in leaves}


def sha256(tree: Any) -> str:
    """Of the names, types, shapes and bytes of a tree's arrays: equal if and only if they are."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        name = jax.tree_util.keystr(path)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write(tree: Any, path: Path) -> None:
    """Write the arrays of a tree, named as in `params/C1/bias`, and see them on the disk.

    Raises:
        OSError, safetensors.SafetensorError: there is no room, or no leave to write.
    """
    save_file({name: np.asarray(leaf, order="C") for name, leaf in _named(tree).items()}, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def read(path: Path, like: Any) -> Any:
    """The tree that was written to `path`, as NumPy arrays in the structure of `like`.

    What the file holds is not compared with the types and shapes of `like`.

    Raises:
        OSError, safetensors.SafetensorError, KeyError: the file cannot be read, or not all the
            names of `like` are there.
    """
    held: Mapping[str, np.ndarray] = load_file(path)
    return jax.tree.unflatten(jax.tree.structure(like), [held[name] for name in _named(like)])


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}

"""The batch law: which examples step t trains on is a pure function of (seed, t).

Nothing about the order is ever saved. Resumed or not, streamed or resident, in one process or
several, every run asks this file and gets the same answer.
"""

from functools import lru_cache

import numpy as np

_WORD = 2**64


# A few epochs are kept: consecutive steps ask for the same one, and readers that run ahead for the
# next one too.
@lru_cache(maxsize=4)
def epoch_permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order in which `epoch` visits the examples 0 .. n-1: int64 [n], read-only.

    The order is the stable argsort of n raw 64-bit words from a Philox counter generator with the
    key (seed, epoch). NumPy guarantees the raw stream of a bit generator for ever (NEP 19), but
    not that of `Generator.permutation`, which may change with any release.
    """
    key = np.array([seed % _WORD, epoch % _WORD], dtype=np.uint64)
    words = np.random.Philox(key=key).random_raw(n)
    order = np.argsort(words, kind="stable").astype(np.int64, copy=False)
    order.setflags(write=False)  # the cache hands the same array to every caller
    return order


def batch_indices(seed: int, step: int, batch_size: int, n: int) -> np.ndarray:
    """The examples in the global batch of `step`: int64 [batch_size], each in 0 .. n-1.

    The permutations of all epochs, one after the other, form one endless sequence, of which step t
    takes the elements [t * batch_size, (t + 1) * batch_size). So every epoch visits every example
    exactly once and drops none; a batch may begin in one epoch and end in the next, or span several
    if n < batch_size. Raises ValueError if n or batch_size is not positive, or step is negative.
    """
    if n < 1 or batch_size < 1 or step < 0:
        raise ValueError(
            f"need n >= 1, batch_size >= 1 and step >= 0; got {n}, {batch_size} and {step}"
        )
    position, end = step * batch_size, (step + 1) * batch_size
    pieces = []
    while position < end:
        epoch, offset = divmod(position, n)
        piece = epoch_permutation(seed, epoch, n)[offset : offset + end - position]
        pieces.append(piece)
        position += len(piece)
    return np.concatenate(pieces)

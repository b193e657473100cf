"""Transforms of one image, `(key, image) -> image`, that run on the devices inside the step.

The plain ones are named here; `deform.py`, `photographs.py` and `corrupt.py` hold the others.
"""

from cnn_jax.augment.basic import (
    ByLabel,
    CentreCrop,
    Transform,
    View,
    centre_crop,
    crop_at,
    given,
    pad,
    random_crop,
    random_flip,
    random_shift,
    resize,
)

__all__ = [
    "ByLabel",
    "CentreCrop",
    "Transform",
    "View",
    "centre_crop",
    "crop_at",
    "given",
    "pad",
    "random_crop",
    "random_flip",
    "random_shift",
    "resize",
]

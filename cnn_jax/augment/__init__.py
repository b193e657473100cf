"""Random and fixed changes of one image, `(key, image) -> image`, on the device inside the step.

An experiment lists them as `train_transforms` and `eval_transforms`; each is applied to every
example of a batch with a key of the example's own.

basic.py         the rules for a transform; pad, resize, crop, shift, flip, importable from here
deform.py        affine and elastic deformation, for handwritten digits
photographs.py   random resized crops, colour noise
corrupt.py       rotation, scaling, noise, blur, contrast in five severities, for tests
"""

from cnn_jax.augment.basic import (
    ByLabel,
    CentreCrop,
    Transform,
    View,
    centre_crop,
    crop_at,
    pad,
    random_crop,
    random_flip,
    random_shift,
    require_key,
    resize,
)

__all__ = [
    "ByLabel",
    "CentreCrop",
    "Transform",
    "View",
    "centre_crop",
    "crop_at",
    "pad",
    "random_crop",
    "random_flip",
    "random_shift",
    "require_key",
    "resize",
]

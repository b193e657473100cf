"""Corruptions that make images harder to recognise, in five severities, on the device.

`corruption(name, severity)` is a transform like those of `basic.py`: images [H, W, C] with values
0 .. 255, to float32, not rounded. Severity 0 is the image itself.

| name     | its number, for the image as stored       | severities 1 to 5             |
|----------|-------------------------------------------|-------------------------------|
| rotation | degrees, left or right drawn per example  | 11.5, 22.9, 34.4, 45.8, 57.3  |
| scaling  | factor of height and width                | 0.9, 0.8, 0.7, 0.6, 0.5       |
| noise    | standard deviation, Gaussian, each value  | 20.4, 30.6, 45.9, 66.3, 96.9  |
| blur     | standard deviation of a Gaussian, pixels  | 1, 2, 3, 4, 6                 |
| contrast | factor of the distance to each channel's mean | 0.4, 0.3, 0.2, 0.1, 0.05  |

Rotation and scaling are about the centre and bilinear, with 0 (black) outside the image. Noise is
clipped to 0 .. 255; its draw is the same for every severity, only its size differs. Blur extends
the image by the pixels at its edges.

Sources: Hendrycks and Dietterich (2019), Benchmarking neural network robustness to common
corruptions and perturbations, whose ImageNet-C has these severities of noise, blur and contrast
(their code divides values by 255); Mu and Gilmer (2019), MNIST-C: a robustness benchmark for
computer vision, whose code repeats them and adds rotation (0.2 .. 1 radian) and scaling. Blur is in
pixels, so a severity is weaker on a photograph than on a digit of 28 pixels.
"""

import jax
import jax.numpy as jnp

from cnn_jax.augment.basic import Transform, require_key
from cnn_jax.augment.deform import affine_sources, resample, smooth
from cnn_jax.errors import UserError

SEVERITIES = {
    "rotation": (11.5, 22.9, 34.4, 45.8, 57.3),
    "scaling": (0.9, 0.8, 0.7, 0.6, 0.5),
    "noise": (20.4, 30.6, 45.9, 66.3, 96.9),
    "blur": (1.0, 2.0, 3.0, 4.0, 6.0),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
}


def corruption(name: str, severity: int) -> Transform:
    """The transform of a row of the table above, to float32 [H, W, C] in 0 .. 255.

    Raises:
        UserError: there is no such corruption or severity. The transforms for rotation and noise
            raise ValueError without a key.
    """
    if name not in SEVERITIES:
        raise UserError(f"no corruption {name!r}; there are: {', '.join(SEVERITIES)}")
    if severity not in range(6):
        raise UserError(f"severity must be 0 to 5, got {severity}")
    if severity == 0:
        return lambda key, image: image.astype(jnp.float32)
    amount, change = SEVERITIES[name][severity - 1], _CHANGES[name]
    return lambda key, image: change(key, image.astype(jnp.float32), amount)


def _rotate(key: jax.Array | None, image: jax.Array, degrees: float) -> jax.Array:
    left = jax.random.bernoulli(require_key(key))
    return _affine(image, rotation=jnp.where(left, degrees, -degrees), factor=1.0)


def _scale(key: jax.Array | None, image: jax.Array, factor: float) -> jax.Array:
    return _affine(image, rotation=0.0, factor=factor)


def _affine(image: jax.Array, rotation: jax.Array | float, factor: float) -> jax.Array:
    height, width, _ = image.shape
    sources = affine_sources(
        jnp.arange(height, dtype=jnp.float32)[:, None],
        jnp.arange(width, dtype=jnp.float32)[None],
        centre=((height - 1) / 2, (width - 1) / 2),
        shift=(0.0, 0.0),
        factors=(factor, factor),
        shear=0.0,
        rotation=rotation,
    )
    return resample(image, *sources)


def _add_noise(key: jax.Array | None, image: jax.Array, sigma: float) -> jax.Array:
    return jnp.clip(image + sigma * jax.random.normal(require_key(key), image.shape), 0, 255)


def _blur(key: jax.Array | None, image: jax.Array, sigma: float) -> jax.Array:
    height, width, _ = image.shape
    reach = int(4 * sigma + 0.5)  # where `smooth` cuts its Gaussian
    extended = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    smoothed = jnp.moveaxis(smooth(jnp.moveaxis(extended, -1, 0), sigma), 0, -1)
    return smoothed[reach : reach + height, reach : reach + width]


def _lower_contrast(key: jax.Array | None, image: jax.Array, factor: float) -> jax.Array:
    mean = image.mean((0, 1), keepdims=True)
    return mean + factor * (image - mean)


_CHANGES = {
    "rotation": _rotate,
    "scaling": _scale,
    "noise": _add_noise,
    "blur": _blur,
    "contrast": _lower_contrast,
}

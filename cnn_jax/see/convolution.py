"""Slide a kernel over an image, with the same layer that the networks are made of.

At each place the kernel and the patch under it are multiplied number by number, and the products
are added up. The sums, arranged like the places, are the feature map: large where the patch looks
like the kernel, negative where it looks like its opposite. (Strictly this is cross-correlation: a
convolution would rotate the kernel by 180 degrees first.)
"""

import json
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from cnn_jax.command_line.flags import local_path
from cnn_jax.errors import UserError
from cnn_jax.errors.machine_limits import limit_reached
from cnn_jax.errors.wording import brief, nearest
from cnn_jax.models.layers import Conv

MOST_WEIGHTS = 10_000_000  # of a kernel

_TOP = np.array([[-1, -1, -1], [1, 1, 1], [0, 0, 0]], np.float32)  # dark above bright
_CORNER = np.array([[-1, -1, -1], [-1, 2, 1], [-1, 1, 1]], np.float32)  # of a bright object

# The weights of all but the blur add up to zero, so that an even patch gives zero.
KERNELS = {
    "top-edge": _TOP,
    "bottom-edge": _TOP[::-1],
    "left-edge": _TOP.T,
    "right-edge": _TOP.T[:, ::-1],
    "corner-top-left": _CORNER,
    "corner-top-right": _CORNER[:, ::-1],
    "corner-bottom-left": _CORNER[::-1],
    "corner-bottom-right": _CORNER[::-1, ::-1],
    "blur": np.full((3, 3), 1 / 9, np.float32),
}


@dataclass(frozen=True)
class Convolution:
    """An image, a kernel and their feature map. A place is the top left corner of a patch."""

    image: np.ndarray  # float32 [H, W, C], 0 .. 1
    kernel: np.ndarray  # float32 [h, w, C]
    feature_map: np.ndarray  # float32 [H - h + 1, W - w + 1]

    @property
    def strongest(self) -> tuple[int, int]:
        """Row and column of the largest response, the first of several."""
        row, column = np.unravel_index(self.feature_map.argmax(), self.feature_map.shape)
        return int(row), int(column)

    def patch(self, row: int, column: int) -> np.ndarray:
        """The patch of the image under the kernel at a place, [h, w, C].

        Raises:
            UserError: the kernel would reach beyond the image.
        """
        rows, columns = self.feature_map.shape
        if not (0 <= row < rows and 0 <= column < columns):
            raise UserError(
                f"--at {row} {column} is outside the feature map, which has rows 0 to {rows - 1} "
                f"and columns 0 to {columns - 1}"
            )
        height, width = self.kernel.shape[:2]
        return self.image[row : row + height, column : column + width]


def convolve(image: np.ndarray, kernel: np.ndarray) -> Convolution:
    """Slide a kernel over an image in steps of one pixel, without padding.

    Args:
        image: uint8 [H, W, C]; 0 .. 255 becomes 0 .. 1.
        kernel: [h, w, C], one grid per channel of the image, or [h, w], the same for all channels.

    Raises:
        UserError: the kernel is larger than the image, or has another number of channels.
    """
    height, width, channels = image.shape
    if kernel.ndim == 2:
        kernel = np.repeat(kernel[..., None], channels, axis=-1)
    if kernel.shape[2] != channels:
        raise UserError(
            f"the kernel has {kernel.shape[2]} channels and the image {channels}: "
            "give one grid for each channel, or a single grid for all"
        )
    if kernel.shape[0] > height or kernel.shape[1] > width:
        raise UserError(
            f"a kernel of {kernel.shape[0]}x{kernel.shape[1]} does not fit "
            f"an image of {height}x{width} pixels"
        )
    scaled, kernel = image.astype(np.float32) / 255, kernel.astype(np.float32)
    layer = Conv(features=1, kernel_size=kernel.shape[:2], use_bias=False)
    with jax.default_matmul_precision("highest"):  # agrees with the products that are printed
        maps = layer.apply({"params": {"kernel": kernel[..., None]}}, scaled[None])
    return Convolution(scaled, kernel, np.asarray(maps)[0, :, :, 0])


def kernel_of(text: str) -> np.ndarray:
    """Read a kernel [h, w] or [h, w, C] from a name, a file or numbers.

    Args:
        text: a name in KERNELS, a file `.npy`, or nested lists such as "[[-1, 1]]".

    Raises:
        UserError: the text is none of these, or not a grid of finite numbers.
    """
    if text in KERNELS:
        return KERNELS[text]
    name = f"--kernel {brief(text)}"
    file = local_path(text) if text.endswith(".npy") else None
    try:
        kernel = np.array(json.loads(text)) if file is None else _read_array(file)
    except RecursionError:
        raise UserError(f"{name} has more brackets in each other than a kernel has") from None
    except (OSError, ValueError, EOFError) as error:
        if limit := limit_reached(error):
            raise UserError(f"{name}: {limit}") from error
        ways = 'or give a .npy file, or rows of numbers such as "[[-1, -1], [1, 1]]"'
        if text.lstrip().startswith("["):
            ways = 'give rows of equally many numbers, such as "[[-1, -1], [1, 1]]"'
            raise UserError(f"{name} is not a grid of numbers: {ways}") from error
        raise UserError(f"{name} is not a kernel: {nearest(text, KERNELS)}; {ways}") from error
    if kernel.ndim not in (2, 3) or kernel.size == 0 or kernel.dtype.kind not in "iuf":
        raise UserError(f"{name} is not a grid of numbers [rows, columns(, channels)]")
    if kernel.size > MOST_WEIGHTS:
        raise UserError(f"{name} holds {kernel.size:,} numbers, of at most {MOST_WEIGHTS:,}")
    with np.errstate(over="ignore"):  # is found in the next line
        kernel = kernel.astype(np.float32)
    if not np.isfinite(kernel).all():
        raise UserError(f"{name} holds numbers that are not finite, or too large for float32")
    return kernel


def _read_array(path: Path) -> np.ndarray:
    """An array of a .npy file, not yet read. Raises ValueError if the file holds another thing."""
    if path.exists() and not path.is_file():
        raise ValueError("not a file")  # but a pipe, perhaps, for which a reader would wait
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive of arrays")
    return array

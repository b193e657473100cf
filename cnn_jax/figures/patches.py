"""Draw the patches that excite a unit, and where they lie in their images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnn_jax.figures.page import INCHES, STYLE, page

OUTSIDE = (0.80, 0.86, 0.93)  # pale blue, for padding, which is no pixel of the image
MARK = "#D55E00"
ACROSS = 9  # patches per row
Box = tuple[int, int, int, int]


@rc_context(STYLE)
def patches(
    images: Sequence[np.ndarray],
    boxes: Sequence[Box],
    captions: Sequence[str],
    title: str,
) -> Figure:
    """Draw pairs side by side: a patch, and below it its image with the patch outlined.

    The part of a patch beyond its image is pale blue, and the title then says so. If all patches
    are whole images, no images are drawn below them.

    Args:
        images: [H, W, 1 or 3], 0 .. 1, all of one size.
        boxes: top, left, bottom, right, the last two excluded.
        captions: one for each, up to two short lines.
    """
    count = len(images)
    columns = min(count, ACROSS)
    rows = -(-count // columns)
    whole = all(box == (0, 0, *image.shape[:2]) for image, box in zip(images, boxes, strict=True))
    if any(_reaches_out(image, box) for image, box in zip(images, boxes, strict=True)):
        title += " (pale blue: padding)"
    panels = 1 if whole else 2  # per patch
    side = min(INCHES["page"] / columns, 1.1)
    # The heights of patch and image relative to their width.
    tall = [(box[2] - box[0]) / (box[3] - box[1]) for box in boxes[:1]]
    tall += [images[0].shape[0] / images[0].shape[1]] * (panels - 1)
    figure, axes = page(
        panels * rows,
        columns,
        width=side * columns,
        height=rows * (0.94 * side * sum(tall) + 0.22) + 0.3,
        height_ratios=tall * rows,
    )
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.02, hspace=0, wspace=0)
    for ax in axes.flat:
        ax.set_axis_off()
    for number, (image, box, caption) in enumerate(zip(images, boxes, captions, strict=True)):
        row, column = divmod(number, columns)
        upper = axes[panels * row, column]
        _show(upper, cut(image, box))
        upper.set_title(caption, fontsize=6.5, pad=2)
        if not whole:
            lower = axes[panels * row + 1, column]
            _show(lower, image)
            _outline(lower, image.shape, box)
    figure.suptitle(title, fontsize=8)
    return figure


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """The patch [height, width, 3] of an image [H, W, 1 or 3]; `OUTSIDE` beyond the image."""
    top, left, bottom, right = box
    height, width, channels = image.shape
    patch = np.empty((bottom - top, right - left, 3), np.float32)
    patch[:] = OUTSIDE
    rows, columns = (max(top, 0), min(bottom, height)), (max(left, 0), min(right, width))
    inside = image[rows[0] : rows[1], columns[0] : columns[1]]
    inside = np.repeat(inside, 3, -1) if channels == 1 else inside
    patch[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left] = inside
    return patch


def _reaches_out(image: np.ndarray, box: Box) -> bool:
    height, width = image.shape[:2]
    return min(box[:2]) < 0 or box[2] > height or box[3] > width


def _show(ax: Any, image: np.ndarray) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _outline(ax: Any, shape: tuple[int, ...], box: Box) -> None:
    """Draw the outline of a box on its image, cut off at the image's edges."""
    top, left = max(box[0], 0), max(box[1], 0)
    bottom, right = min(box[2], shape[0]), min(box[3], shape[1])
    place = (left - 0.5, top - 0.5)
    frame = Rectangle(place, right - left, bottom - top, fill=False, edgecolor=MARK, linewidth=1.2)
    ax.add_patch(frame)

"""Decodes images, and brings photographs to one fixed size."""

import contextlib
import io
import struct
import threading
import warnings
import zlib
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}

# Pillow has some forty other decoders, chosen by content and not by a file's suffix; that of EPS
# starts Ghostscript.
_FORMATS = ("JPEG", "PNG")

# Uncompressed, the largest image that Pillow decodes (178,956,970 pixels) has 3 bytes a pixel less
# than this, so no photograph needs more. A sparse or endless file would take all memory.
MAX_BYTES = 2**29

# Scaled to a shorter side of 1, an image of 50,000 x 1 pixels would become 50,000 times as large.
_MAX_ASPECT = 16

# Of images with more pixels, one is prepared at a time: four bytes a pixel, and copies.
_LARGE_PIXELS = 2**25
_large = threading.Lock()

# Pillow warns above half of the pixels that it refuses, and several lines long; cameras reach that.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# The colour spaces of JPEGs that libjpeg-turbo itself converts to so many channels, as for Pillow.
_SAME_COLOURS = {1: ("Gray",), 3: ("YCbCr", "RGB", "Gray"), 4: ()}

# What Pillow raises for files that are no images, truncated, broken, or of far too many pixels.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, AssertionError, Image.DecompressionBombError)
_OTHER_ERRORS = (EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
DECODE_ERRORS = (*_PILLOW_ERRORS, *_OTHER_ERRORS)


def read_encoded(file: BinaryIO, size: int) -> bytes:
    """Read an encoded image from an open file of `size` bytes. Raises ValueError over MAX_BYTES."""
    if size > MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes; images may have {MAX_BYTES:,}")
    return file.read(size)


def fit(image: Image.Image, size: int) -> Image.Image:
    """The image with its shorter side scaled to `size`, then cropped to the central size x size.

    This is how the AlexNet paper prepares ImageNet (Krizhevsky et al. 2012, section 2, size 256).
    Bicubic, and antialiased when it shrinks: Pillow widens the kernel by the scale. Of an image
    longer than 16 times its shorter side, only so much of the centre is scaled: the rest would be
    cropped away, and fills the memory where the shorter side has few pixels.
    """
    shorter, longer = sorted(image.size)
    if longer > _MAX_ASPECT * shorter:
        kept = _MAX_ASPECT * shorter + longer % 2  # an even number is cut off, half on each side
        start, stop = (longer - kept) // 2, (longer + kept) // 2
        wide = image.width == longer
        image = image.crop((start, 0, stop, shorter) if wide else (0, start, shorter, stop))
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def decode(data: bytes, channels: int, size: int | None = None) -> np.ndarray:
    """Decode an image to uint8 [H, W, channels], brought to `size` as `fit` does if it is given.

    Of a grey image, all 3 channels are equal. What is transparent shows white, unless there are 4
    channels. Raises one of DECODE_ERRORS, for more than 8 bits a channel too.
    """
    with _open(data) as opened:
        image = _with_channels(opened, channels)
        pixels = np.asarray(image if size is None else fit(image, size))
    return pixels.reshape(*pixels.shape[:2], channels)


def _open(data: bytes) -> Image.Image:
    """Open an encoded image without decoding it yet. Raises one of DECODE_ERRORS."""
    if not data:
        raise ValueError("it is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError("it is not a JPEG or PNG") from error
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"it has more than 8 bits a channel (mode {image.mode})")
    return image


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    """The image in the mode of `channels`; what is transparent shows white if these are 1 or 3.

    The colours beneath transparent pixels are not meant to be seen. Paint programs leave black.
    """
    if channels != 4 and image.has_transparency_data:
        drawn = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(drawn, mask=drawn)
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def decode_into(data: bytes, pixels: np.ndarray) -> None:
    """Decode an image into `pixels`, a contiguous uint8 [H, W, channels], as `decode` would.

    JPEGs go to simplejpeg, which takes half of Pillow's time. Both are libjpeg-turbo with the same
    settings, so the pixels are the same. Pillow decodes everything else: what simplejpeg would give
    other colours (CMYK, and colour to grey), damaged files, other formats. Raises one of
    DECODE_ERRORS, among them ValueError for an image of another shape.
    """
    height, width, channels = pixels.shape
    try:
        *size, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in _SAME_COLOURS[channels] and size == [height, width]:
            simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", buffer=pixels)
            return
    except (ValueError, KeyError):
        pass  # Pillow decodes it, or gives a better reason
    image = decode(data, channels)
    if image.shape != pixels.shape:
        raise ValueError(f"its shape is {image.shape}, not {pixels.shape}")
    pixels[:] = image


def to_stored(data: bytes, channels: int, size: int) -> bytes:
    """Re-encode a photograph as the JPEG of size x size pixels that a prepared dataset stores.

    Quality 95 changes a pixel by 1.2 of 255 levels on average (Imagenette at 160 pixels), takes
    29% of the bytes of PNG, and decodes in a third of the time. An image that already has this size
    and these channels is kept byte for byte, so that small drawings stay lossless. The EXIF
    orientation is not applied, as in other ImageNet pipelines. What is transparent shows white.
    Raises one of DECODE_ERRORS, for more than 8 bits a channel too.
    """
    with _open(data) as image:
        large = image.width * image.height > _LARGE_PIXELS
        with _large if large else contextlib.nullcontext():
            image.load()
            is_opaque = not image.has_transparency_data
            if image.size == (size, size) and image.mode == MODES[channels] and is_opaque:
                return data
            stored = io.BytesIO()
            fit(_with_channels(image, channels), size).save(stored, format="JPEG", quality=95)
            return stored.getvalue()

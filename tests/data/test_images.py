"""Decoding into a batch: the pixels that Pillow gives, whoever decodes, and its errors."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import decode

RANDOM = np.random.default_rng(0)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Blurred noise: large differences between neighbours, and none that JPEG would drop."""
    noise = RANDOM.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height)).convert(mode)


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


JPEG = encoded(picture(45, 38))
CASES = {
    "plain": JPEG,
    "best": encoded(picture(64, 64), quality=100, subsampling=0),
    "worst": encoded(picture(64, 64), quality=1),
    "422": encoded(picture(31, 33), subsampling=1),
    "progressive": encoded(picture(45, 38), progressive=True),
    "not in YCbCr": encoded(picture(20, 30), keep_rgb=True),
    "one pixel": encoded(picture(1, 1)),
    "odd": encoded(picture(17, 3)),
    "grey": encoded(picture(45, 38, "L")),
    "cmyk": encoded(picture(45, 38, "CMYK")),
    "more behind": JPEG + b"more",
    "png": encoded(picture(45, 38), "PNG"),
    "grey png": encoded(picture(45, 38, "L"), "PNG"),
}


def into(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Decode into the middle one of three, whose neighbours must stay as they are."""
    pixels = np.full((3, *shape), 77, np.uint8)
    decode.decode_into(data, pixels[1])
    assert np.all(pixels[[0, 2]] == 77)
    return pixels[1]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_the_pixels_are_pillows(case: str, channels: int) -> None:
    with Image.open(io.BytesIO(CASES[case])) as opened:
        expected = np.asarray(opened.convert(decode.MODES[channels]))
    expected = expected.reshape(*expected.shape[:2], channels)
    np.testing.assert_array_equal(into(CASES[case], expected.shape), expected)


@pytest.mark.parametrize(("case", "channels"), [("plain", 3), ("grey", 3), ("grey", 1)])
def test_jpegs_are_decoded_without_pillow(
    case: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decode.decode(CASES[case], channels)
    monkeypatch.delattr(decode, "decode")
    np.testing.assert_array_equal(into(CASES[case], expected.shape), expected)


@pytest.mark.parametrize("data", [JPEG[:-2], JPEG[: len(JPEG) // 2], b"", b"<html>", JPEG[:30]])
def test_what_cannot_be_read_is_refused_as_pillow_does(data: bytes) -> None:
    with pytest.raises(decode.DECODE_ERRORS) as refused:
        decode.decode(data, 3)
    with pytest.raises(refused.type):
        into(data, (38, 45, 3))


@pytest.mark.parametrize("shape", [(38, 44, 3), (37, 45, 3), (45, 38, 3), (50, 50, 3), (1, 1, 3)])
@pytest.mark.parametrize("case", ["plain", "png"])
def test_another_shape_is_refused(case: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"its shape is \(38, 45, 3\), not"):
        into(CASES[case], shape)

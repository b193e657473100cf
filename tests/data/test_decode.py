"""Decoding: Pillow's pixels and errors, whichever library decodes; fitting to one size."""

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


def test_the_shorter_side_is_scaled_and_the_centre_kept() -> None:
    # Red, green, blue, each a third of the width: the central square is the green third.
    stripes = np.repeat(np.eye(3, dtype=np.uint8) * 255, 40, axis=0)[None].repeat(40, axis=0)
    wide = Image.fromarray(stripes)
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    for image in (wide, tall):
        pixels = np.asarray(decode.fit(image, 20))
        assert pixels.shape == (20, 20, 3)
        assert np.all(pixels[2:-2, 2:-2] == (0, 255, 0))
    assert decode.fit(Image.new("L", (3, 7)), 16).size == (16, 16)


def test_scaling_down_averages_instead_of_picking() -> None:
    chess = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    np.testing.assert_allclose(np.asarray(decode.fit(chess, 16))[1:-1, 1:-1], 127.5, atol=10)


def test_what_has_the_size_already_is_kept_byte_for_byte() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    content = encoded(Image.fromarray(noise), "PNG")
    assert decode.to_stored(content, channels=3, size=16) == content
    np.testing.assert_array_equal(decode.decode(content, channels=3), noise)
    assert decode.to_stored(content, channels=1, size=16) != content


# ---- what is not an ordinary photograph ----

INK = (10, 10, 10)


def drawing(mode: str) -> bytes:
    """A dark dot in the middle of a transparent ground whose hidden colour is black."""
    image = Image.new("RGBA", (9, 9), (0, 0, 0, 0))
    image.putpixel((4, 4), (*INK, 255))
    if mode in ("RGB", "L"):  # with one colour that means transparent
        key = (0, 0, 0) if mode == "RGB" else 0
        return encoded(image.convert(mode), "PNG", transparency=key)
    return encoded(image.quantize(8) if mode == "P" else image.convert(mode), "PNG")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_shows_white(mode: str, channels: int) -> None:
    expected = np.full((9, 9, channels), 255, np.uint8)
    expected[4, 4] = 10
    content = drawing(mode)
    np.testing.assert_array_equal(decode.decode(content, channels), expected)
    np.testing.assert_array_equal(into(content, expected.shape), expected)
    stored = decode.decode(decode.to_stored(content, channels, 9), channels)
    assert stored[0, 0].min() > 250 and stored[4, 4].max() < 60


def test_half_transparent_is_half_white() -> None:
    image = Image.new("RGBA", (3, 3), (0, 100, 200, 51))  # a fifth
    pixels = decode.decode(encoded(image, "PNG"), 3)
    assert pixels[1, 1].tolist() == [204, 224, 244]
    np.testing.assert_array_equal(decode.decode(encoded(image, "PNG"), 4), np.asarray(image))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<html>", "it is not a JPEG or PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", "it is not a JPEG or PNG"),
        (encoded(picture(9, 9), "BMP"), "it is not a JPEG or PNG"),
        (encoded(picture(9, 9), "GIF"), "it is not a JPEG or PNG"),
        (encoded(picture(9, 9), "TIFF"), "it is not a JPEG or PNG"),
        (encoded(picture(9, 9), "WEBP"), "it is not a JPEG or PNG"),
        (encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"), "more than 8 bits"),
        (encoded(picture(99, 99), "PNG")[:-900], "image file is truncated|broken PNG|truncated"),
        (
            encoded(Image.new("1", (20_000, 20_000)), "PNG"),
            "Image size .400000000 pixels. exceeds limit of 178956970",
        ),
    ],
    ids=["empty", "html", "eps", "bmp", "gif", "tiff", "webp", "16 bits", "cut", "bomb"],
)
def test_what_is_no_ordinary_image_is_refused_in_one_line(content: bytes, message: str) -> None:
    for reading in (
        lambda: decode.decode(content, 3),
        lambda: decode.to_stored(content, 3, 9),
        lambda: into(content, (9, 9, 3)),
    ):
        with pytest.raises(decode.DECODE_ERRORS, match=message) as refused:
            reading()
        assert "BytesIO" not in str(refused.value)


def fitted_before(image: Image.Image, size: int) -> Image.Image:
    """`fit` without a bound on what it scales: everything, which is then cropped."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


SHAPES = [(1, 1), (3, 7), (45, 38), (500, 375), (375, 500), (31, 496), (16, 1), (33, 2), (640, 40)]


@pytest.mark.parametrize("shape", [*SHAPES, (17, 1), (1, 34), (100, 5), (321, 20), (20, 330)])
def test_long_images_are_cropped_before_they_are_scaled(shape: tuple[int, int]) -> None:
    for mode, size in (("RGB", 28), ("L", 160), ("RGB", 8)):
        image = picture(*shape, mode)
        expected = np.asarray(fitted_before(image, size))
        np.testing.assert_array_equal(np.asarray(decode.fit(image, size)), expected)


def test_a_line_of_pixels_takes_no_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    line, scaled = encoded(Image.new("RGB", (50_000, 1), INK), "PNG"), []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a: scaled.append(size) or resize(self, size, *a)
    )
    assert np.ptp(decode.decode(line, 3, 160)) == 0
    assert scaled == [(160 * 16, 160)]

"""Images from files: the decoder and the words of `data prepare`."""

import io
import os
from pathlib import Path

import numpy as np
import programs
import pytest
from PIL import Image

from cnn_jax.errors import UserError
from cnn_jax.see.images import open_file, open_image


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    drawing = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    drawing.putpixel((4, 4), (0, 0, 0, 255))
    for mode in ("RGBA", "LA"):
        (tmp_path / "x.png").write_bytes(png(drawing.convert(mode)))
        for pixels in (open_image(str(tmp_path / "x.png")), open_file(tmp_path / "x.png", 1, 8)):
            assert pixels.shape == (8, 8, 1)
            assert pixels[4, 4] == 0 and pixels.sum() == 63 * 255


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(Image.fromarray(np.full((9, 9), 9_000, np.uint16))), "more than 8 bits a channel"),
        (b"", "it is empty"),
        (b"<html>", "it is not a JPEG or PNG"),
        (png(Image.new("1", (20_000, 20_000))), "exceeds limit of 178956970 pixels"),
        (10**12, "it has 1,000,000,000,000 bytes; images may have 536,870,912"),
        (None, "is neither an image file nor DATASET:SPLIT:INDEX"),
    ],
    ids=["16 bits", "empty", "html", "bomb", "sparse", "pipe"],
)
def test_what_is_no_ordinary_image_is_refused(
    tmp_path: Path, content: bytes | int | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.png"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else b"")
        os.truncate(path, content if isinstance(content, int) else len(content))
    with pytest.raises(UserError, match=message) as refused:
        open_file(path, channels=1, size=28)
    assert "\n" not in str(refused.value) and "BytesIO" not in str(refused.value)
    programs.assert_refused(["convolve", str(path)], message, capsys)

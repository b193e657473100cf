"""Small datasets, photographs and batches that several tests of the room use."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax import data
from cnn_jax.data import prepare as preparation


def arrays(n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(n)
    return random.integers(0, 256, (n, 4, 6, 3)).astype(np.uint8), np.arange(n) % 3


def small() -> data.Dataset:
    return data.array_dataset("small", {"train": arrays(20), "test": arrays(7)}, "abc")


def same(first: data.Batch, second: data.Batch) -> bool:
    return all(
        first[key].dtype == second[key].dtype and np.array_equal(first[key], second[key])
        for key in ("image", "label")
    )


def picture(colour: Any, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def encoded(image: Image.Image, name: str = "x.png") -> bytes:
    stored = io.BytesIO()
    image.save(stored, format="PNG" if name.endswith("png") else "JPEG", quality=95)
    return stored.getvalue()


PHOTOS: Mapping[str, bytes] = {
    name: encoded(image, name)
    for name, image in {
        "train/dog/1.jpg": picture((200, 0, 0)),
        "train/dog/2.JPEG": picture((180, 10, 0), (20, 40)),
        "train/cat/1.png": picture((0, 0, 200)),
        "train/cat/2.Jpg": picture(90, mode="L"),
        "val/cat/1.JPG": picture((0, 0, 190)),
    }.items()
}


def make_folder(folder: Path, photos: Mapping[str, bytes] = PHOTOS) -> Path:
    for name, content in photos.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def make_tar(tar: Path, photos: Mapping[str, bytes] = PHOTOS, around: str = "") -> Path:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w:gz" if tar.suffix == ".tgz" else "w") as archive:
        for name, content in photos.items():
            member = tarfile.TarInfo(around + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return tar


def prepare_pets(source: Path, data_dir: Path, **options: Any) -> data.Dataset:
    return preparation.prepare("folder/pets", source, data_dir, **{"size": 16, **options})

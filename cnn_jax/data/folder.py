"""The TFDS builder of your own photographs, `split/class/*.jpg` in a folder or in tars."""

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from cnn_jax.data import decode
from cnn_jax.errors import UserError

_SUFFIXES = (".jpg", ".jpeg", ".png")
_TARS = (".tar", ".tar.gz", ".tgz")
_EXPECTED = (
    "expected SPLIT/CLASS/*.jpg, *.jpeg or *.png with a split called train, "
    "in a folder, in .tar or .tgz files in a folder, or in one such file"
)


class Photo(NamedTuple):
    """Where a photograph lies, and what its path says about it."""

    container: Path  # the folder or the tar
    member: str  # its path in the container
    split: str
    class_name: str
    file_name: str

    def __str__(self) -> str:
        if self.container.is_dir():
            return str(self.container / self.member)
        return f"{self.member} in {self.container}"


def list_photos(source: Path) -> list[Photo]:
    """All photographs in `source`, which is a folder, a folder of tars, or a tar.

    Hidden files are ignored, and so is a folder around all splits (as in a tar of a whole dataset).
    Raises UserError for any other structure, and for a file among the photographs whose name is not
    that of a photograph.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist; {_EXPECTED}")
    tars = [source] if source.is_file() else [p for p in source.iterdir() if _is_tar(p)]
    photos = [photo for tar in sorted(tars) for photo in _photos_in(tar, _tar_members(tar))]
    if source.is_dir():
        photos += _photos_in(source, sorted(_folder_members(source)))
    if not any(photo.split == "train" for photo in photos):
        raise UserError(f"{source} has no photographs for training; {_EXPECTED}")
    by_name: dict[tuple[str, ...], Photo] = {}
    for photo in photos:
        if (first := by_name.setdefault(photo[2:], photo)) is not photo:
            raise UserError(f"two photographs are {'/'.join(photo[2:])}: {first} and {photo}")
    return photos


def builder(name: str, photos: list[Photo], size: int, channels: int) -> Callable[..., Any]:
    """A function that makes the TFDS builder of folder/`name`, stored as size x size x channels.

    Labels are the positions in the sorted class names of all splits. The builder raises UserError
    for a photograph that cannot be decoded.
    """

    class Folder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None  # where TFDS would look for addresses and checksums of downloads

        def _info(self) -> tfds.core.DatasetInfo:
            classes = sorted({photo.class_name for photo in photos})
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Photographs, their shorter side scaled to {size}, central square.",
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(
                            shape=(size, size, channels), encoding_format="jpeg"
                        ),
                        "label": tfds.features.ClassLabel(names=classes),
                    }
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
            splits = sorted({photo.split for photo in photos})
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
            members = _read(photo for photo in photos if photo.split == split)
            # Pillow releases the interpreter lock while it works, so threads use all cores.
            with ThreadPoolExecutor() as threads:
                while batch := list(islice(members, 256)):
                    encode = partial(_encode, size=size, channels=channels)
                    for (photo, _), stored in zip(batch, threads.map(encode, batch), strict=True):
                        key = f"{photo.class_name}/{photo.file_name}"
                        yield key, {"image": stored, "label": photo.class_name}

    return partial(Folder, config=tfds.core.BuilderConfig(name=name))


def _photos_in(container: Path, members: Iterable[str]) -> Iterator[Photo]:
    paths = {member: PurePosixPath(member).parts for member in members}
    paths = {m: parts for m, parts in paths.items() if not any(p.startswith(".") for p in parts)}
    images = [parts for parts in paths.values() if parts[-1].lower().endswith(_SUFFIXES)]
    around = 0  # the number of folders around all photographs, above their splits
    while images and min(map(len, images)) > 3 + around and len({p[around] for p in images}) == 1:
        around += 1
    for member, parts in paths.items():
        is_photo = parts[-1].lower().endswith(_SUFFIXES)
        if len(parts) == around + 3:
            photo = Photo(container, member, *parts[around:])
            if not is_photo:
                raise UserError(f"{photo} does not have the name of a photograph; {_EXPECTED}")
            if not photo.split.isidentifier():
                raise UserError(f"{photo}: {photo.split!r} cannot be the name of a split")
            yield photo
        elif is_photo:
            raise UserError(f"{member} in {container} is in the wrong place; {_EXPECTED}")


def _folder_members(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(parent, name)
            if path.parent != folder or name.lower().endswith(_SUFFIXES):
                yield path.relative_to(folder).as_posix()


def _tar_members(tar: Path) -> list[str]:
    try:
        with tarfile.open(tar) as archive:
            return [member.name for member in archive if member.isfile()]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{tar} is not a complete tar file: {error}") from error


def _is_tar(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(_TARS)


def _read(photos: Iterable[Photo]) -> Iterator[tuple[Photo, bytes]]:
    for container, group in groupby(photos, key=lambda photo: photo.container):
        if container.is_dir():
            for photo in group:
                yield photo, (container / photo.member).read_bytes()
            continue
        by_member = {photo.member: photo for photo in group}
        with tarfile.open(container) as archive:
            for member in archive:  # in its own order: looking up a name searches the whole tar
                if photo := by_member.get(member.name):
                    content = archive.extractfile(member)
                    assert content is not None  # list_photos takes regular files only
                    yield photo, content.read()


def _encode(photo_and_data: tuple[Photo, bytes], size: int, channels: int) -> bytes:
    photo, data = photo_and_data
    try:
        return decode.to_stored(data, channels, size)
    except decode.DECODE_ERRORS as error:
        raise UserError(f"{photo} cannot be read as an image: {error}") from error

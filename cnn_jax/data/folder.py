"""The TFDS builder of your own photographs."""

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from cnn_jax.data import decode
from cnn_jax.data.photos import Photo, some
from cnn_jax.errors import UserError
from cnn_jax.errors.wording import message


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

        def _generate_examples(self, split: str) -> Iterator[tuple[str | bytes, dict]]:
            pending = _encoded((p for p in photos if p.split == split), size, channels)
            for photo, stored in pending:
                if isinstance(stored, str):  # the reason why it cannot be
                    later = _encoded((p for p in photos if p.split > split), size, channels)
                    rest = (pair for pair in chain(pending, later) if isinstance(pair[1], str))
                    raise _refusal([(photo, stored), *rest])
                key = f"{photo.class_name}/{photo.file_name}"
                # Bytes, since names of files need not be UTF-8; TFDS hashes both alike.
                yield (
                    key.encode(errors="surrogateescape"),
                    {"image": stored, "label": photo.class_name},
                )

    return partial(Folder, config=tfds.core.BuilderConfig(name=name))


def _encoded(
    photos: Iterable[Photo], size: int, channels: int
) -> Iterator[tuple[Photo, bytes | str]]:
    """Each photograph with what is stored of it, or with the reason why it cannot be."""
    members, encode = _read(photos), partial(_encode, size=size, channels=channels)
    # Pillow releases the interpreter lock while it works, so threads use all cores.
    with ThreadPoolExecutor() as threads:
        while batch := _batch(members):
            stored = threads.map(encode, [data for _, data in batch])
            yield from zip((photo for photo, _ in batch), stored, strict=True)


def _batch(members: Iterator[tuple[Photo, bytes | str]]) -> list[tuple[Photo, bytes | str]]:
    """The next members: at most 256, and no more when they have 64 MiB together."""
    batch, total = [], 0
    for member in islice(members, 256):
        batch.append(member)
        total += len(member[1])
        if total >= 2**26:
            break
    return batch


def _read(photos: Iterable[Photo]) -> Iterator[tuple[Photo, bytes | str]]:
    """Each photograph with its file's content, or with the reason why it cannot be read."""
    for container, group in groupby(photos, key=lambda photo: photo.container):
        if container.is_dir():
            for photo in group:
                yield photo, _content(container / photo.member)
            continue
        by_member = {photo.member: photo for photo in group}
        with tarfile.open(container) as archive:
            for member in archive:  # in its own order: looking up a name searches the whole tar
                if photo := by_member.get(member.name):
                    content = archive.extractfile(member)
                    assert content is not None  # list_photos takes regular files only
                    yield photo, content.read()


def _content(path: Path) -> bytes | str:
    try:
        with path.open("rb") as file:
            return decode.read_encoded(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError) as error:
        return message(error)


def _encode(data: bytes | str, size: int, channels: int) -> bytes | str:
    """Encode a photograph as it is stored, or return the reason why it cannot be."""
    if isinstance(data, str):
        return data
    try:
        return decode.to_stored(data, channels, size)
    except decode.DECODE_ERRORS as error:
        return message(error)


def _refusal(failures: list[tuple[Photo, Any]]) -> UserError:
    if len(failures) == 1:
        ((photo, reason),) = failures
        return UserError(f"{photo} cannot be read as an image: {reason}")
    named = some([f"{photo} ({reason})" for photo, reason in failures])
    return UserError(f"{len(failures):,} files cannot be read as images: {named}")

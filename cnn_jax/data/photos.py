"""Lists the photographs of `split/class/*.jpg` in a folder or in tars."""

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from cnn_jax.data.decode import MAX_BYTES
from cnn_jax.errors import UserError, warn
from cnn_jax.errors.machine_limits import unreadable
from cnn_jax.errors.wording import message

_SUFFIXES = (".jpg", ".jpeg", ".png")
_SPLITS = ("train", "val", "valid", "validation", "test")  # their usual names
_TARS = (".tar", ".tar.gz", ".tgz")
_EXPECTED = (
    "expected train/CLASS/NAME.jpg or .png, and so for each split, in a folder, a tar or several"
)


class Photo(NamedTuple):
    """The place of a photograph, and what its path says about it."""

    container: Path  # the folder or the tar
    member: str  # its path in the container
    split: str
    class_name: str
    file_name: str

    def __str__(self) -> str:
        if self.container.is_dir():
            return shown(str(self.container / self.member))
        return f"{shown(self.member)} in {self.container}"


def list_photos(source: Path) -> list[Photo]:
    """All photographs in `source`, which is a folder, a folder of tars, or a tar.

    Hidden files are ignored, and so is a folder around all splits (as in a tar of a whole dataset).
    A class folder without photographs is left out, with a warning. There is one too of a class that
    "train" lacks. Raises UserError for any other structure, and for a file among the photographs
    that is no regular file or whose name is not that of a photograph.
    """
    if not (source.is_dir() or source.is_file()):
        state = "is neither a folder nor a tar file" if source.exists() else "does not exist"
        raise UserError(f"{source} {state}; {_EXPECTED}")
    photos: list[Photo] = []
    empty: list[str] = []
    for container, members in _containers(source):
        around = _folders_around(members.files)
        inside = list(_photos_in(container, members, around))
        photos += inside
        empty += _without_photos(members.folders, inside, around)
    if not any(photo.split == "train" for photo in photos):
        raise UserError(f"{source} has no photographs for training; {_EXPECTED}")
    by_name: dict[tuple[str, ...], Photo] = {}
    for photo in photos:
        if (first := by_name.setdefault(photo[2:], photo)) is not photo:
            twice = f"{first} and {photo}" if first != photo else f"{photo}, which holds it twice"
            raise UserError(f"two photographs are {shown('/'.join(photo[2:]))}: {twice}")
    if empty:
        warn(f"no photographs in {some(empty)} of {source}: a class without any is left out")
    trained = {photo.class_name for photo in photos if photo.split == "train"}
    if untrained := sorted({photo.class_name for photo in photos} - trained):
        warn(f"no photographs for training of the classes {some(untrained)} in {source}")
    return photos


class _Members(NamedTuple):
    """The contents of a folder or tar, by path, without hidden files."""

    files: list[str]  # all that are no folders
    folders: list[str]
    irregular: set[str]  # which of `files` are links to nothing, pipes, sockets or devices


def _containers(source: Path) -> Iterator[tuple[Path, _Members]]:
    """The folder or tars of a source, each with its members. Raises UserError."""
    try:
        tars = [source] if source.is_file() else [p for p in source.iterdir() if _is_tar(p)]
        for tar in sorted(tars):
            yield tar, _tar_members(tar)
        if source.is_dir():
            yield source, _folder_members(source)
    except OSError as error:
        raise unreadable(shown(str(error.filename or source)), error) from error


def _folders_around(files: Iterable[str]) -> int:
    """The number of folders around all photographs, above their splits."""
    images = [PurePosixPath(file).parts for file in files if file.lower().endswith(_SUFFIXES)]
    above = [parts[: parts.index("train")] for parts in images if "train" in parts[:-2]]
    if above:
        shared = min(above, key=len)
        return len(shared) if all(parts[: len(shared)] == shared for parts in images) else 0
    around = 0
    while images and min(map(len, images)) > 3 + around and len({p[around] for p in images}) == 1:
        around += 1
    return around


def _photos_in(container: Path, members: _Members, around: int) -> Iterator[Photo]:
    splits = {part for f in members.files for part in PurePosixPath(f).parts[around : around + 1]}
    irregular: list[str] = []
    for member in members.files:
        parts = PurePosixPath(member).parts[around:]
        is_photo = member.lower().endswith(_SUFFIXES)
        if len(parts) == 3:
            photo = Photo(container, member, *parts)
            if not is_photo:
                raise UserError(f"{photo} does not have the name of a photograph; {_EXPECTED}")
            if not photo.split.isidentifier():
                raise UserError(f"{photo}: {photo.split!r} cannot be the name of a split")
            if not photo.class_name.isprintable() or photo.class_name != photo.class_name.strip():
                raise UserError(
                    f"{photo}: {photo.class_name!r} cannot be the name of a class: rename it to "
                    "printable characters in UTF-8, without spaces at its ends"
                )
            if member in members.irregular:
                irregular.append(str(photo))
            yield photo
        elif is_photo:
            if len(parts) == 2 and (parts[0] in _SPLITS or splits & {*_SPLITS} - {parts[0]}):
                raise UserError(
                    f"{shown(member)} in {container}: class folders are missing in {parts[0]!r}, "
                    f"expected {shown('/'.join((parts[0], 'CLASS', parts[1])))}"
                )
            raise UserError(f"{shown(member)} in {container} is in the wrong place; {_EXPECTED}")
        elif len(parts) == 2 and member in members.irregular:  # in a tar, a link to a class folder
            irregular.append(f"{member} in {container}")
    if irregular:
        raise UserError(
            f"{some(irregular)}: not a regular file, but a link to nothing, a pipe, a socket or a "
            "device (in a tar, any link); remove it, or pack the tar again with --dereference"
        )


def _without_photos(folders: Iterable[str], photos: list[Photo], around: int) -> list[str]:
    """The class folders that hold no photographs, and such folders of the usual splits."""
    full = {photo[2:4] for photo in photos}
    splits = {split for split, _ in full}
    empty = []
    for folder in sorted(folders):
        parts = PurePosixPath(folder).parts[around:]
        is_class = len(parts) == 2 and parts[0] in splits and parts not in full
        if is_class or (len(parts) == 1 and parts[0] in _SPLITS and parts[0] not in splits):
            empty.append(folder)
    return empty if photos else []


def _folder_members(folder: Path) -> _Members:
    """Walk through a folder, and through links. Raises UserError for one that leads in a circle."""
    members = _Members([], [], set())
    waiting: list[tuple[str, frozenset]] = [("", frozenset())]
    while waiting:
        inside, above = waiting.pop()
        status = (folder / inside).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise UserError(f"{shown(str(folder / inside))} links to a folder that it lies in")
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                path = f"{inside}/{entry.name}".lstrip("/")
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    members.folders.append(path)
                    waiting.append((path, above | {identity}))
                elif inside or path.lower().endswith(_SUFFIXES):
                    members.files.append(path)
                    if not entry.is_file():
                        members.irregular.add(path)
    members.files.sort()
    return members


def _tar_members(tar: Path) -> _Members:
    """List a tar. Raises UserError if it is damaged, or holds a photograph larger than allowed."""
    members = _Members([], [], set())
    try:
        with tarfile.open(tar) as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                if any(part.startswith(".") for part in parts):
                    continue
                if member.isdir():
                    members.folders.append(member.name)
                    continue
                members.files.append(member.name)
                if not member.isreg():
                    members.irregular.add(member.name)
                if member.size > MAX_BYTES and member.name.lower().endswith(_SUFFIXES):
                    raise UserError(
                        f"{shown(member.name)} in {tar} has {member.size:,} bytes; "
                        f"images may have {MAX_BYTES:,}"
                    )
            _check_end(archive)
    except OSError as error:
        if error.errno is not None:  # the machine's, not tarfile's
            raise
        raise UserError(f"{tar} is not a complete tar file: {message(error)}") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{tar} is not a complete tar file: {message(error)}") from error
    return members


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise ReadError unless zeros follow the last member, as at the end of every tar.

    tarfile takes a damaged header, a missing one, and a second archive behind the first for the
    end, and would lose the photographs that follow without a word.
    """
    stored = cast(Any, archive).fileobj
    stored.seek(cast(Any, archive).offset)
    end = stored.read(2**20)
    if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
        raise tarfile.ReadError(f"no end, but other bytes, behind its {len(archive.getmembers())}")


def _is_tar(path: Path) -> bool:
    is_hidden = path.name.startswith(".")
    return path.is_file() and path.name.lower().endswith(_TARS) and not is_hidden


def some(texts: list[str]) -> str:
    """The first ten of them, and how many more there are."""
    more = f", and {len(texts) - 10:,} more" if len(texts) > 10 else ""
    return ", ".join(map(shown, texts[:10])) + more


def shown(path: str) -> str:
    """A path as one line can show it: escaped if it has line breaks or is not UTF-8."""
    return path if path.isprintable() else repr(path)

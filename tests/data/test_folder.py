"""Preparing photographs from folders and tars."""

import gzip
import os
import re
import socket
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples import PHOTOS, encoded, make_folder, make_tar, picture, prepare_pets

from cnn_jax import data
from cnn_jax.data import prepare as preparation
from cnn_jax.data import read
from cnn_jax.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_a_folder_of_photographs(tmp_path: Path) -> None:
    dataset = prepare_pets(make_folder(tmp_path / "pets"), tmp_path / "tfds")
    assert dataset.class_names == ("cat", "dog") and dataset.image_shape == (16, 16, 3)
    assert (dataset.num_examples("train"), dataset.num_examples("val")) == (4, 1)
    batch = data.load_resident(dataset, "train")
    found = {
        (int(label), tuple(image[8, 8].tolist()))
        for label, image in zip(batch["label"], batch["image"], strict=True)
    }
    near = {(1, (200, 0, 0)), (1, (180, 10, 0)), (0, (0, 0, 200)), (0, (90, 90, 90))}
    assert {(label, tuple(round(c, -1) for c in colour)) for label, colour in found} == near
    assert data.load_resident(dataset, "val")["label"].tolist() == [0]


def test_folders_and_tars_of_the_same_photographs_are_the_same_dataset(tmp_path: Path) -> None:
    train = {name: content for name, content in PHOTOS.items() if name.startswith("train")}
    val = {name: content for name, content in PHOTOS.items() if name.startswith("val")}
    make_tar(tmp_path / "tars/train.tar", train, around="./")
    make_tar(tmp_path / "tars/val_a.TAR", val)
    (tmp_path / "tars/README.md").write_text("not a photograph, and not in the place of one")
    make_tar(tmp_path / "mixed/train.tar", train)
    make_folder(tmp_path / "mixed", val)
    hidden = {"train/cat/._1.jpg": b"", ".DS_Store": b"", "labels.csv": b"a,b"}
    sources = [
        make_folder(tmp_path / "folder", {**PHOTOS, **hidden}),
        make_tar(tmp_path / "all.tar"),
        make_tar(tmp_path / "around.tgz", {**PHOTOS, **hidden}, around="pets-v2/data/"),
        tmp_path / "tars",
        tmp_path / "mixed",
    ]
    datasets = [prepare_pets(source, tmp_path / f"tfds{i}") for i, source in enumerate(sources)]
    assert len({dataset.statistics.sha256 for dataset in datasets}) == 1
    assert {dataset.num_examples("val") for dataset in datasets} == {1}


def test_grey_photographs_as_one_channel(tmp_path: Path) -> None:
    dataset = prepare_pets(make_folder(tmp_path / "pets"), tmp_path / "tfds", channels=1)
    assert dataset.image_shape == (16, 16, 1)
    assert len(dataset.mean) == len(dataset.std) == 1


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("folder", b""),
        ("folder", b"<html>not found</html>"),
        ("folder", encoded(picture(9, (60, 60)), "x.jpg")[:-300]),
        ("folder", encoded(Image.fromarray(np.full((30, 30), 40_000, np.uint16)))),
        ("tar", b""),
    ],
    ids=["empty", "html", "truncated", "16 bits", "in a tar"],
)
def test_a_file_that_is_no_image_is_named_and_nothing_remains(
    tmp_path: Path, form: str, content: bytes
) -> None:
    photos = {**PHOTOS, "train/cat/bad.jpg": content}
    if form == "folder":
        source, message = make_folder(tmp_path / "pets", photos), "pets/train/cat/bad.jpg cannot be"
    else:
        source, message = (
            make_tar(tmp_path / "a.tar", photos),
            f"bad.jpg in {tmp_path}/a.tar cannot",
        )
    with pytest.raises(UserError, match=message):
        prepare_pets(source, tmp_path / "tfds")
    assert read.find("folder/pets", tmp_path / "tfds") is None
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))
    with pytest.raises(UserError, match="not prepared"):
        data.load_dataset("folder/pets", tmp_path / "tfds")
    (tmp_path / "good").mkdir()
    prepare_pets(make_folder(tmp_path / "good"), tmp_path / "tfds")  # and nothing is in the way


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ({}, "no photographs for training; expected train/CLASS/"),
        ({"notes.txt": b""}, "no photographs for training; expected train/CLASS/"),
        ({"val/cat/1.jpg": b""}, "no photographs for training; expected train/CLASS/"),
        ({"cat/1.jpg": b"", "dog/2.jpg": b""}, "cat/1.jpg in .* is in the wrong place; expected"),
        ({"1.jpg": b""}, "1.jpg in .* is in the wrong place; expected"),
        ({"train/a/1.jpg": b"", "train/b/c/2.jpg": b""}, "b/c/2.jpg in .* is in the wrong place"),
        ({"train/a/1.jpg": b"", "train/a/2.gif": b""}, "train/a/2.gif.* not have the name of"),
        ({"train/a/1.jpg": b"", "half-1/a/1.jpg": b""}, "'half-1' cannot be the name of a split"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_other_structures_are_refused_with_the_expected_one(
    tmp_path: Path, photos: Mapping[str, bytes], message: str, form: str
) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    source = make_folder(folder, photos) if form == "folder" else make_tar(folder / "x.tar", photos)
    with pytest.raises(UserError, match=message):
        prepare_pets(source, tmp_path / "tfds")
    assert not (tmp_path / "tfds").exists()


def test_the_same_photograph_twice_is_refused(tmp_path: Path) -> None:
    make_tar(make_folder(tmp_path / "pets") / "again.tar", {"train/cat/1.png": b""})
    with pytest.raises(
        UserError, match="two photographs are train/cat/1.png: .*again.tar and .*pets/train"
    ):
        prepare_pets(tmp_path / "pets", tmp_path / "tfds")


@pytest.mark.slow
def test_imagenette(tmp_path: Path) -> None:
    source = SHARED / "imagenette2-160"
    if not source.is_dir():
        pytest.skip(f"{source} is missing")
    dataset = preparation.prepare("folder/imagenette", source, tmp_path, size=128)
    assert dataset.shard_lengths.keys() == {"train", "val"} and len(dataset.class_names) == 10
    assert (dataset.num_examples("train"), dataset.num_examples("val")) == (9469, 1966)
    # The usual figures of ImageNet are 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225.
    np.testing.assert_allclose(dataset.mean, (0.47, 0.46, 0.43), atol=0.01)
    np.testing.assert_allclose(dataset.std, (0.28, 0.27, 0.30), atol=0.01)


# ---- everything that may lie among photographs ----


def refusal(source: Path, root: Path, **options: Any) -> str:
    """The one line by which `source` is refused; nothing may be written."""
    with pytest.raises(UserError) as refused:
        prepare_pets(source, root, **options)
    assert not root.exists() and "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_all_broken_photographs_are_named_at_once(tmp_path: Path, form: str) -> None:
    photos = {
        f"{split}/a/{i}.png": encoded(picture(i)) for split in ("train", "val") for i in (1, 2)
    }
    photos |= {"test/a/9.png": b"<html>", "train/a/2.png": b"", "val/ü b/x\ny.png": b"7" * 99}
    source = tmp_path / "pets.tar" if form == "tar" else tmp_path / "pets"
    (make_tar if form == "tar" else make_folder)(source, photos)
    text = refusal(source, tmp_path / "tfds")
    assert text.startswith("3 files cannot be read as images: ")
    for part in ("test/a/9.png", "(it is not a JPEG or PNG)", "train/a/2.png", "(it is empty)"):
        assert part in text
    assert "val/ü b/x\\ny.png" in text
    many = {f"train/a/{i}.png": b"" for i in range(300)}
    text = refusal(make_folder(tmp_path / "many", many), tmp_path / "tfds")
    assert text.startswith("300 files") and text.endswith(", and 290 more")
    assert text.count("it is empty") == 10


@pytest.mark.parametrize("around", ["", "data/"])
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_a_split_without_class_folders_is_named(tmp_path: Path, form: str, around: str) -> None:
    photos = {"train/n01/n01_1.JPEG": b"", "train/n02/n02_1.JPEG": b"", "val/val_1.JPEG": b""}
    photos = {around + name: content for name, content in photos.items()}
    source = tmp_path / "pets.tar" if form == "tar" else tmp_path / "pets"
    (make_tar if form == "tar" else make_folder)(source, photos)
    text = refusal(source, tmp_path / "tfds")
    assert text == (
        f"{around}val/val_1.JPEG in {source}: class folders are missing in 'val', expected "
        "val/CLASS/val_1.JPEG"
    )


def test_a_folder_beside_tars_may_be_flat_too(tmp_path: Path) -> None:
    make_tar(tmp_path / "pets/train.tar", {"train/a/1.jpg": b""})
    make_folder(tmp_path / "pets", {"val/1.jpg": b""})
    assert "class folders are missing in 'val'" in refusal(tmp_path / "pets", tmp_path / "tfds")


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    vehicles = {name.replace("dog", "train"): content for name, content in PHOTOS.items()}
    vehicles["val/train/1.png"] = vehicles["val/cat/1.JPG"]
    train = {name: content for name, content in vehicles.items() if name.startswith("train")}
    val = {name: content for name, content in vehicles.items() if name.startswith("val")}
    make_tar(tmp_path / "tars/train.tar", train)
    make_tar(tmp_path / "tars/val.tar", val)
    dataset = prepare_pets(tmp_path / "tars", tmp_path / "tfds")
    assert dataset.class_names == ("cat", "train") and dataset.num_examples("val") == 2


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_a_class_folder_without_photographs_is_said(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture
) -> None:
    source = make_folder(tmp_path / "pets")
    for folder in ("train/empty", "val/dog", "test", "notes", "train/cat/.hidden"):
        (source / folder).mkdir()
    (source / "val/dog/.DS_Store").write_bytes(b"")
    if form == "tar":
        with tarfile.open(tmp_path / "pets.tar", "w") as archive:
            archive.add(source, "pets")
        source = tmp_path / "pets.tar"
    around = "pets/" if form == "tar" else ""
    assert prepare_pets(source, tmp_path / "tfds").class_names == ("cat", "dog")
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning")]
    names = ", ".join(around + name for name in ("test", "train/empty", "val/dog"))
    assert line.startswith(f"warning: no photographs in {names} of {source}: a class without")


def test_a_class_that_is_not_trained_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """As where the folders of one split have the names of classes, of another their numbers."""
    source = make_folder(tmp_path / "pets", {**PHOTOS, "val/n01/1.png": PHOTOS["train/cat/1.png"]})
    (source / "._train.tar").write_bytes(b"of a Mac")
    assert prepare_pets(source, tmp_path / "tfds").class_names == ("cat", "dog", "n01")
    assert f"warning: no photographs for training of the classes n01 in {source}\n" in (
        capsys.readouterr().err
    )


def pipe(path: Path) -> None:
    os.mkfifo(path)


def open_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.path.relpath(path))


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**12)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("train/cat/x.jpg", pipe, "train/cat/x.jpg: not a regular file, but a link to nothing, a"),
        ("train/cat/x.jpg", open_socket, "train/cat/x.jpg: not a regular file"),
        ("train/cat/x.jpg", link_to("/dev/zero"), "train/cat/x.jpg: not a regular file"),
        ("train/cat/x.jpg", link_to("nowhere"), "train/cat/x.jpg: not a regular file"),
        ("train/cat/x.jpg", link_to("x.jpg"), "train/cat/x.jpg cannot be read: Too many levels"),
        ("train/cat/x", link_to(".."), "train/cat/x links to a folder that it lies in"),
        ("train/cat/x", link_to("../.."), "train/cat/x links to a folder that it lies in"),
        ("around", link_to("."), "around links to a folder that it lies in"),
        ("train/cat/x.jpg", sparse, "x.jpg cannot be read as an image: it has 1,000,000,000,000 b"),
        ("train/cat/x.jpg", Path.mkdir, None),
    ],
)
def test_what_is_no_regular_file_is_refused_and_never_read(
    tmp_path: Path,
    name: str,
    make: Callable[[Path], None],
    message: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = make_folder(tmp_path / "pets")
    monkeypatch.chdir(source)  # the address of a socket is short
    make(source / name)
    if message is None:
        prepare_pets(source, tmp_path / "tfds")
        return
    assert message in refusal(source, tmp_path / "tfds")


@pytest.mark.parametrize("source", ["/dev/zero", "pipe"])
def test_a_source_that_is_neither_folder_nor_tar_is_refused(tmp_path: Path, source: str) -> None:
    pipe(tmp_path / "pipe")
    assert "is neither a folder nor a tar" in refusal(tmp_path / source, tmp_path / "tfds")


def test_links_to_folders_and_photographs_are_followed(tmp_path: Path) -> None:
    stored, linked = make_folder(tmp_path / "stored"), tmp_path / "linked"
    (linked / "val/cat").mkdir(parents=True)
    (linked / "train").symlink_to(stored / "train")
    (linked / "val/cat/1.JPG").symlink_to(stored / "val/cat/1.JPG")
    datasets = [
        prepare_pets(source, tmp_path / source.name / "tfds") for source in (stored, linked)
    ]
    assert datasets[0].statistics.sha256 == datasets[1].statistics.sha256
    assert datasets[1].num_examples("val") == 1


def test_a_folder_that_cannot_be_listed_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, scandir = make_folder(tmp_path / "pets"), os.scandir

    def refuse_dogs(path: Path) -> Any:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_dogs)
    text = refusal(source, tmp_path / "tfds")
    assert text == f"{source}/train/dog cannot be read: Permission denied"


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_names_need_not_be_utf_8(tmp_path: Path, form: str) -> None:
    photos = {
        f"train/cat/{os.fsdecode(bytes([250 + i]))}.png": PHOTOS["train/cat/1.png"] for i in (1, 2)
    }
    source = tmp_path / "pets.tar" if form == "tar" else tmp_path / "pets"
    make = make_tar if form == "tar" else make_folder
    assert prepare_pets(make(source, photos), tmp_path / "tfds").num_examples("train") == 2
    photos[f"train/{os.fsdecode(bytes([255]))}/1.png"] = b""
    other = source.with_name("b" + source.name)
    text = refusal(make(other, photos), tmp_path / "other")
    assert "'\\udcff' cannot be the name of a class" in text and text.encode()


@pytest.mark.parametrize("name", ["a\nb", " a", "a ", "\x07"])
def test_names_that_cannot_be_classes_are_refused(tmp_path: Path, name: str) -> None:
    source = make_folder(tmp_path / "pets", {f"train/{name}/1.png": b""})
    assert f"{name!r} cannot be the name of a class" in refusal(source, tmp_path / "tfds")


# ---- tars ----


def member(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (member("train/cat/1.png"), "which holds it twice"),
        (member("./train/cat/1.png"), "two photographs are train/cat/1.png: train/cat/1.png in "),
        (
            member("train/cat/x.png", tarfile.SYMTYPE, link="1.png"),
            "x.png in .*: not a regular file",
        ),
        (member("train/cat/x.png", tarfile.LNKTYPE, link="train/cat/1.png"), "in a tar, any link"),
        (member("train/cat/x.png", tarfile.FIFOTYPE), "x.png in .*: not a regular file"),
        (member("train/cat/x.png", tarfile.CHRTYPE), "x.png in .*: not a regular file"),
        (member("train/wolf", tarfile.SYMTYPE, link="dog"), "train/wolf in .*: not a regular file"),
        (member("train/cat/x.png", size=2**40), "x.png in .* has 1,099,511,627,776 bytes; images"),
    ],
)
def test_odd_members_of_a_tar_are_named(
    tmp_path: Path, added: tarfile.TarInfo, message: str
) -> None:
    tar = make_tar(tmp_path / "pets.tar")
    with tarfile.open(tar, "a") as archive:
        archive.addfile(added)
    assert re.search(message, refusal(tar, tmp_path / "tfds"))


def lose_the_end(content: bytes) -> bytes:
    return content.rstrip(b"\0") + bytes(-len(content.rstrip(b"\0")) % 512)


@pytest.mark.parametrize(
    "damage",
    [
        lose_the_end,
        lambda content: lose_the_end(content) + b"half a header",
        lambda content: content.replace(b"train/dog/2", b"train/dog/3", 1),  # breaks a checksum
        lambda content: content + content,  # as `cat` of two tars
        lambda content: content[:1000],
        lambda content: b"",
    ],
    ids=["no end", "half a header", "a header", "two tars", "cut", "empty"],
)
@pytest.mark.parametrize("suffix", ["tar", "tgz"])
def test_a_damaged_tar_loses_no_photograph_in_silence(
    tmp_path: Path, damage: Callable[[bytes], bytes], suffix: str
) -> None:
    content = damage(make_tar(tmp_path / "whole.tar").read_bytes())
    tar = tmp_path / f"pets.{suffix}"
    tar.write_bytes(gzip.compress(content) if suffix == "tgz" else content)
    assert f"{tar} is not a complete tar file: " in refusal(tar, tmp_path / "tfds")


@pytest.mark.parametrize("cut", [-1, -9, 300])
def test_a_damaged_tgz_is_named(tmp_path: Path, cut: int) -> None:
    tar = make_tar(tmp_path / "pets.tgz")
    tar.write_bytes(tar.read_bytes()[:cut])
    assert f"{tar} is not a complete tar file: " in refusal(tar, tmp_path / "tfds")

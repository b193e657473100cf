"""Preparing photographs from folders and tars."""

from collections.abc import Mapping
from pathlib import Path

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
        ({}, "no photographs for training; expected SPLIT/CLASS/"),
        ({"notes.txt": b""}, "no photographs for training; expected SPLIT/CLASS/"),
        ({"val/cat/1.jpg": b""}, "no photographs for training.*split called train"),
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


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_tar_cut_short_is_named(tmp_path: Path, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3)).astype(np.uint8)
    photos = {f"train/a/{i}.png": encoded(Image.fromarray(n)) for i, n in enumerate(noise)}
    tar = make_tar(tmp_path / "cut.tar", photos)
    tar.write_bytes(tar.read_bytes()[: int(kept * sum(map(len, photos.values())))])
    with pytest.raises(UserError, match=f"{tar} is not a complete tar file"):
        prepare_pets(tar, tmp_path / "tfds")


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

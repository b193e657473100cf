"""Preparing: photographs in folders and tars, MNIST's and USPS's files, and what goes wrong."""

import gzip
import http.server
import io
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import checksums

from cnn_jax import data
from cnn_jax.data import decode, read
from cnn_jax.data import prepare as preparation
from cnn_jax.errors import UserError

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"


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


def prepare(source: Path, data_dir: Path, **options: Any) -> data.Dataset:
    return preparation.prepare("folder/pets", source, data_dir, **{"size": 16, **options})


def test_a_folder_of_photographs(tmp_path: Path) -> None:
    dataset = prepare(make_folder(tmp_path / "pets"), tmp_path / "tfds")
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
    datasets = [prepare(source, tmp_path / f"tfds{i}") for i, source in enumerate(sources)]
    assert len({dataset.statistics.sha256 for dataset in datasets}) == 1
    assert {dataset.num_examples("val") for dataset in datasets} == {1}


def test_grey_photographs_as_one_channel(tmp_path: Path) -> None:
    dataset = prepare(make_folder(tmp_path / "pets"), tmp_path / "tfds", channels=1)
    assert dataset.image_shape == (16, 16, 1)
    assert len(dataset.mean) == len(dataset.std) == 1


def test_the_shorter_side_is_scaled_and_the_centre_kept() -> None:
    # Red, green, blue, each a third of the width: the central square is the green third.
    stripes = np.repeat(np.eye(3, dtype=np.uint8) * 255, 40, axis=0)[None].repeat(40, axis=0)
    wide = Image.fromarray(stripes)
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    for image in (wide, tall):
        pixels = np.asarray(decode.fit(image, 20))
        assert pixels.shape == (20, 20, 3)
        assert np.all(pixels[2:-2, 2:-2] == (0, 255, 0))
    assert decode.fit(picture(0, (3, 7), "L"), 16).size == (16, 16)


def test_scaling_down_averages_instead_of_picking() -> None:
    chess = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    np.testing.assert_allclose(np.asarray(decode.fit(chess, 16))[1:-1, 1:-1], 127.5, atol=10)


def test_what_has_the_size_already_is_kept_byte_for_byte() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    content = encoded(Image.fromarray(noise))
    assert decode.to_stored(content, channels=3, size=16) == content
    np.testing.assert_array_equal(decode.decode(content, channels=3), noise)
    assert decode.to_stored(content, channels=1, size=16) != content


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not found</html>",
        encoded(picture(9, (60, 60)), "x.jpg")[:-300],
        encoded(Image.fromarray(np.full((30, 30), 40_000, np.uint16))),
    ],
    ids=["empty", "html", "truncated", "16 bits"],
)
def test_a_file_that_is_no_image_is_named_and_nothing_remains(
    tmp_path: Path, form: str, content: bytes
) -> None:
    photos = {**PHOTOS, "train/cat/bad.jpg": content}
    if form == "folder":
        source, said = make_folder(tmp_path / "pets", photos), "pets/train/cat/bad.jpg cannot"
    else:
        source, said = make_tar(tmp_path / "a.tar", photos), f"bad.jpg in {tmp_path}/a.tar cannot"
    with pytest.raises(UserError, match=said):
        prepare(source, tmp_path / "tfds")
    assert read.find("folder/pets", tmp_path / "tfds") is None
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))
    with pytest.raises(UserError, match="not prepared"):
        data.load_dataset("folder/pets", tmp_path / "tfds")
    (tmp_path / "good").mkdir()
    prepare(make_folder(tmp_path / "good"), tmp_path / "tfds")  # and nothing is in the way


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
        prepare(source, tmp_path / "tfds")
    assert not (tmp_path / "tfds").exists()


def test_the_same_photograph_twice_is_refused(tmp_path: Path) -> None:
    make_tar(make_folder(tmp_path / "pets") / "again.tar", {"train/cat/1.png": b""})
    with pytest.raises(UserError, match="two .* train/cat/1.png: .*again.tar and .*pets/train"):
        prepare(tmp_path / "pets", tmp_path / "tfds")


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_tar_cut_short_is_named(tmp_path: Path, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3)).astype(np.uint8)
    photos = {f"train/a/{i}.png": encoded(Image.fromarray(n)) for i, n in enumerate(noise)}
    tar = make_tar(tmp_path / "cut.tar", photos)
    tar.write_bytes(tar.read_bytes()[: int(kept * sum(map(len, photos.values())))])
    with pytest.raises(UserError, match=f"{tar} is not a complete tar file"):
        prepare(tar, tmp_path / "tfds")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("folder/pets", {}, "does not exist"),
        ("folder/pets", {"manual_dir": None}, "needs its photographs: .*--manual-dir"),
        ("folder/pets", {"channels": 2}, "channels 1 or 3"),
        ("folder/pets", {"size": 0}, "size must be positive"),
        ("folder/../pets", {}, "the name after folder/"),
        ("folder/", {}, "the name after folder/"),
        ("mnist", {"size": 28}, "size and channels are for folder/NAME"),
        ("mnist", {"channels": 1}, "size and channels are for folder/NAME"),
        ("usps", {"size": 16}, "size and channels are for folder/NAME"),
        (
            "usps",
            {"manual_dir": None},
            "no download .* Kaggle .* usps --manual-dir DIR_WITH_usps.h5",
        ),
        ("mnits", {}, "there is no dataset 'mnits': neither digits, mnist, fashion_mnist, usps or"),
    ],
)
def test_wrong_arguments_are_refused(
    tmp_path: Path, name: str, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        preparation.prepare(
            name, **{"manual_dir": tmp_path / "nothing", "data_dir": tmp_path, **options}
        )


def test_preparing_again_says_so_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = make_folder(tmp_path / "pets")
    first = prepare(source, tmp_path / "tfds")
    assert first.folder is not None
    assert "is prepared in" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    second = preparation.prepare(
        "folder/pets", data_dir=tmp_path / "tfds"
    )  # not even the photographs
    assert capsys.readouterr().out == f"folder/pets 1.0.0 is already prepared in {first.folder}\n"
    assert second.statistics == first.statistics
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before
    with pytest.raises(UserError, match=r"already prepared in .* shape \(16, 16, 3\); delete"):
        prepare(source, tmp_path / "tfds", size=32)


def test_a_preparation_that_is_killed_leaves_nothing_to_be_taken_for_whole(tmp_path: Path) -> None:
    source = make_folder(
        tmp_path / "pets",
        {f"train/a/{i}.png": encoded(picture((i, 0, 0))) for i in range(600)},
    )
    script = """
import os, signal, sys
from cnn_jax.data import folder, prepare as preparation
encode, calls = folder._encode, []
def encode_or_die(*arguments, **options):
    calls.append(1)
    if len(calls) == 400:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(*arguments, **options)
folder._encode = encode_or_die
preparation.prepare("folder/pets", sys.argv[1], sys.argv[2], size=16)
"""
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "tfds")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert list((tmp_path / "tfds").rglob("*incomplete*"))  # it was in the middle
    with pytest.raises(UserError, match="not prepared"):
        data.load_dataset("folder/pets", tmp_path / "tfds")
    assert "folder/pets" not in {listed.name for listed in data.list_datasets(tmp_path / "tfds")}
    assert prepare(source, tmp_path / "tfds").num_examples("train") == 600


# ---- MNIST's files ----


def make_idx_folder(folder: Path) -> Path:
    from cnn_jax.data import builders

    folder.mkdir()
    for info in builders.idx_files("mnist").values():
        (folder / info.filename).write_bytes(b"\0" * int(info.size))
    return folder


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    source = make_idx_folder(tmp_path / "files")
    first = source / "train-images-idx3-ubyte.gz"
    with pytest.raises(UserError, match=f"{first} has the sha256 .*, not the expected 440fcabf"):
        preparation.prepare("mnist", source, tmp_path / "tfds")
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{first} has 9,912,421 bytes, not the expected 9,912,422"):
        preparation.prepare("mnist", source, tmp_path / "tfds")
    first.unlink()
    with pytest.raises(UserError, match=f"{first} is missing; 'mnist' needs .*t10k-labels"):
        preparation.prepare("mnist", source, tmp_path / "tfds")
    assert not (tmp_path / "tfds").exists()


@pytest.mark.parametrize("trouble", ["no route", "no answer"])
def test_no_network_is_said_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def urlopen(*_: Any, **__: Any) -> None:
        if trouble == "no route":
            raise OSError(trouble)
        time.sleep(60)  # as the look-up of a host's name may: no timeout covers it
        raise OSError(trouble)  # nobody is waiting any more

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(preparation, "_PROBE_SECONDS", 0.1)
    begin = time.monotonic()
    with pytest.raises(
        UserError, match=f"{trouble}.*--manual-dir to a folder with train-images.*t10k"
    ):
        preparation.prepare("mnist", data_dir=tmp_path)
    assert time.monotonic() - begin < 5


@contextmanager
def mnist_served_from(folder: Path) -> Iterator[None]:
    """Has TFDS find MNIST's files on this machine instead of at their address."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    stock: Any = tfds.builder_cls("mnist")
    known = checksums.get_all_url_infos()
    with (
        http.server.ThreadingHTTPServer(("localhost", 0), handler) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        url = f"http://localhost:{server.server_port}/"
        for file in read.FILES["mnist"]:
            patch.setitem(known, url + file, known[stock.URL + file])
        patch.setattr(stock, "URL", url)
        patch.setattr(checksums, "get_all_url_infos", lambda: known)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.mark.parametrize("served", ["wrong files", "nothing"])
def test_a_download_that_fails_says_so(tmp_path: Path, served: str) -> None:
    for file in read.FILES["mnist"] if served == "wrong files" else ():
        (tmp_path / file).write_text("<html>please log in</html>")
    with (
        mnist_served_from(tmp_path),
        pytest.raises(UserError, match="'mnist' failed: .*-ubyte"),
    ):
        preparation.prepare("mnist", data_dir=tmp_path / "tfds")
    assert read.find("mnist", tmp_path / "tfds") is None


@pytest.mark.slow
def test_mnist_is_downloaded_without_tensorflow(tmp_path: Path) -> None:
    if not (SHARED / "mnist").is_dir():
        pytest.skip(f"{SHARED / 'mnist'} is missing")
    with mnist_served_from(SHARED / "mnist"):
        dataset = preparation.prepare("mnist", data_dir=tmp_path)
    assert (dataset.num_examples("train"), dataset.num_examples("test")) == (60_000, 10_000)
    assert "tensorflow" not in sys.modules


def test_a_stock_builder_needs_tensorflow_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "find_spec", lambda name: None)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("network"))
    with pytest.raises(UserError, match="pip install tensorflow-cpu .* once; training never needs"):
        preparation.prepare("cifar10", data_dir=tmp_path)


TRAIN_COUNTS = {
    "mnist": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "fashion_mnist": [6000] * 10,
}
TEST_BEGINS = {"mnist": [2, 0, 4, 8, 7, 6, 0, 6], "fashion_mnist": [4, 4, 9, 7, 5, 1, 0, 5]}
MEAN_STD = {"mnist": (0.1307, 0.3081), "fashion_mnist": (0.2860, 0.3530)}


def idx_images(path: Path) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes())[16:], np.uint8).reshape(-1, 28, 28, 1)


@pytest.mark.slow
def test_mnist_and_fashion_mnist_are_those_of_tfds(tmp_path: Path) -> None:
    # One after the other into one folder, which is how TFDS itself mixes them up.
    for name in ("mnist", "fashion_mnist"):
        source = SHARED / name
        if not source.is_dir():
            pytest.skip(f"{source} is missing")
        dataset = preparation.prepare(name, source, tmp_path)
        assert dataset.version == "3.0.1"
        np.testing.assert_allclose((*dataset.mean, *dataset.std), MEAN_STD[name], atol=5e-5)
        train, test = (data.load_resident(dataset, split) for split in ("train", "test"))
        assert np.bincount(train["label"]).tolist() == TRAIN_COUNTS[name]
        assert len(test["label"]) == 10_000 and test["label"][:8].tolist() == TEST_BEGINS[name]
        stored = {image.tobytes() for image in train["image"]}
        original = idx_images(source / read.FILES[name][0])
        assert stored == {image.tobytes() for image in original}


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


# ---- USPS's file ----

USPS_COUNTS = {"train": (3, 2, 1, 1, 1, 1, 1, 1, 1, 1), "test": (1,) * 10}


@pytest.fixture
def few_usps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets USPS have 13 + 10 examples."""
    from cnn_jax.data import builders

    monkeypatch.setattr(builders.Usps, "class_counts", USPS_COUNTS)


def usps_pixels(split: str) -> np.ndarray:
    n = sum(USPS_COUNTS[split])
    return np.random.default_rng(n).integers(0, 256, (n, 16, 16, 1)).astype(np.uint8)


def usps_labels(split: str) -> np.ndarray:
    return np.repeat(np.arange(10, dtype=np.int32), USPS_COUNTS[split])


def make_usps(folder: Path, changes: Mapping[str, Any]) -> Path:
    """A folder with the usps.h5 of `few_usps`, in which `changes` replace values by their path."""
    folder.mkdir()
    with h5py.File(folder / "usps.h5", "w") as file:
        for split in USPS_COUNTS:
            pixels = usps_pixels(split).reshape(-1, 256)
            between = np.random.default_rng(0).uniform(-0.4, 0.4, pixels.shape)  # to be rounded off
            file[f"{split}/data"] = np.clip((pixels + between) / 255, 0, 1).astype(np.float32)
            file[f"{split}/target"] = usps_labels(split)
        for path, values in changes.items():
            del file[path]
            if values is not None:
                file[path] = values
    return folder


def test_usps_is_what_its_file_says(tmp_path: Path, few_usps: None) -> None:
    root = tmp_path / "tfds"
    assert ("usps", "", "not prepared") in data.list_datasets(root)
    with pytest.raises(UserError, match="prepare usps --manual-dir DIR_WITH_usps.h5 --data-dir"):
        data.load_dataset("usps", root)
    dataset = preparation.prepare("usps", make_usps(tmp_path / "files", {}), root)
    assert ("usps", "1.0.0", "train 13, test 10") in data.list_datasets(root)
    assert data.describe("usps", root)["image_shape"] == [16, 16, 1]
    assert dataset.class_names == tuple("0123456789")
    order_begins = {"train": [6, 12, 5, 4, 10], "test": [6, 1, 8, 9, 4]}
    for split in USPS_COUNTS:
        pixels, labels = usps_pixels(split), usps_labels(split)
        place = {image.tobytes(): i for i, image in enumerate(pixels)}
        stored = data.load_resident(dataset, split)
        order = [place[image.tobytes()] for image in stored["image"]]
        assert sorted(order) == list(range(len(pixels)))
        assert order[:5] == order_begins[split]  # which the indices alone decide
        np.testing.assert_array_equal(stored["label"], labels[order])


def dark(split: str, value: float) -> np.ndarray:
    """Images of USPS that are 0 but for one `value`."""
    values = np.zeros((sum(USPS_COUNTS[split]), 256), np.float32)
    values[3, 7] = value
    return values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": None}, "is not a complete usps.h5: cannot read train"),
        ({"test/target": None}, "is not a complete usps.h5: cannot read test"),
        ({"test/data": "seven"}, "is not a complete usps.h5: cannot read test"),
        ({"train/data": dark("train", 0)[1:]}, r"train .* \(12, 256\) and \(13,\), not \(13, 2"),
        ({"test/data": dark("test", 0)[:, 1:]}, r"test .* \(10, 255\) and \(10,\), not \(10, 2"),
        ({"test/target": usps_labels("test")[:-1]}, r"test .* \(10, 256\) and \(9,\), not \(10"),
        ({"train/data": dark("train", 1.5)}, "train/data has values .* from 0.0 to 1.5"),
        ({"test/data": dark("test", -1)}, "test/data has values .* from -1.0 to 0.0"),
        ({"test/data": dark("test", np.nan)}, "test/data has values .* from nan to nan"),
        ({"test/target": usps_labels("test") + 1}, r"test/target has \(0, 1, .* not \(1, 1, "),
        ({"train/target": usps_labels("train")[::-1] % 9}, r"train/target has \(4, .* not \(3, 2"),
    ],
)
def test_a_file_that_is_not_usps_is_refused_with_the_reason(
    tmp_path: Path, few_usps: None, changes: Mapping[str, Any], message: str
) -> None:
    source = make_usps(tmp_path / "files", changes)
    with pytest.raises(UserError, match=message) as raised:
        preparation.prepare("usps", source, tmp_path / "tfds")
    assert str(raised.value).startswith(f"{source}/usps.h5 is not") and "\n" not in str(
        raised.value
    )
    assert not (tmp_path / "tfds").exists()


def test_usps_of_13_examples_is_not_usps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\(13, 256\) and \(13,\), not \(7291, 256\) and \(7291,"):
        preparation.prepare("usps", make_usps(tmp_path / "files", {}), tmp_path / "tfds")


@pytest.mark.parametrize("kept", [0, 100, -1], ids=["nothing", "the beginning", "all but a byte"])
def test_a_usps_file_cut_short_is_refused(tmp_path: Path, few_usps: None, kept: int) -> None:
    file = make_usps(tmp_path / "files", {}) / "usps.h5"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=f"{file} is not a complete usps.h5: cannot read train"):
        preparation.prepare("usps", file.parent, tmp_path / "tfds")
    file.unlink()
    with pytest.raises(UserError, match=f"{file} is missing; 'usps' needs usps.h5"):
        preparation.prepare("usps", file.parent, tmp_path / "tfds")
    assert not (tmp_path / "tfds").exists()


@pytest.mark.slow
def test_usps_never_changes(tmp_path: Path) -> None:
    source = SHARED / "usps"
    if not source.is_dir():
        pytest.skip(f"{source} is missing")
    dataset = preparation.prepare("usps", source, tmp_path)
    with h5py.File(source / "usps.h5") as file:
        for split, begin in {"train": [7, 9, 8, 0, 2, 7], "test": [6, 5, 2, 9, 3, 9]}.items():
            values = np.asarray(file[f"{split}/data"])
            rounded = {image.tobytes() for image in np.rint(values * 255).astype(np.uint8)}
            stored = data.load_resident(dataset, split)
            assert rounded == {image.tobytes() for image in stored["image"]}
            assert stored["label"][:6].tolist() == begin
            assert abs(stored["image"].mean() / 255 - values.mean()) < 1e-5
    # Written down once. If this fails, results on USPS can't be compared with those before.
    assert dataset.statistics.sha256 == (
        "b1cfd1713f4a9cb5a3711c14b8a27aa148e47141a1371538480be5f06c4c7d5c"
    )

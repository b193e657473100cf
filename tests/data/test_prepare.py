"""Preparing: arguments, a second time, a kill in the middle, MNIST's files and their download."""

import gzip
import hashlib
import http.server
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from samples import encoded, make_folder, picture, prepare_pets
from tensorflow_datasets.core.download import checksums

from cnn_jax import data
from cnn_jax.data import idx, read
from cnn_jax.data import prepare as preparation
from cnn_jax.errors import UserError

ROOT = Path(__file__).parents[2]


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("folder/pets", {}, "does not exist"),
        ("folder/pets", {"manual_dir": None}, "needs its photographs: .*--manual-dir"),
        ("folder/pets", {"channels": 2}, "channels must be 1 or 3"),
        ("folder/pets", {"size": 0}, "size must be at least 1"),
        ("folder/pets", {"size": 100_000}, "size must be .* at most 4,096"),
        ("folder/../pets", {}, "the name after folder/"),
        ("folder/", {}, "the name after folder/"),
        ("mnist", {"size": 28}, "size and channels are for folder/NAME"),
        ("mnist", {"channels": 1}, "size and channels are for folder/NAME"),
        ("usps", {"size": 16}, "size and channels are for folder/NAME"),
        (
            "usps",
            {"manual_dir": None},
            "no download address.*Kaggle .* usps --manual-dir DIR_WITH_usps.h5",
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
    first = prepare_pets(source, tmp_path / "tfds")
    assert first.folder is not None
    counts = ", ".join(f"{sum(n):,} {split}" for split, n in first.shard_lengths.items())
    said = f"folder/pets 1.0.0 is prepared in {first.folder}: {counts}\n"
    assert capsys.readouterr() == (said, "")  # and nothing of TFDS's own
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    second = preparation.prepare(
        "folder/pets", data_dir=tmp_path / "tfds"
    )  # not even the photographs
    assert capsys.readouterr().out == f"folder/pets 1.0.0 is already prepared in {first.folder}\n"
    assert second.statistics == first.statistics
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before
    with pytest.raises(UserError, match=r"already prepared in .* shape \(16, 16, 3\); delete"):
        prepare_pets(source, tmp_path / "tfds", size=32)


def test_a_preparation_that_is_killed_leaves_nothing_to_be_taken_for_whole(tmp_path: Path) -> None:
    source = make_folder(
        tmp_path / "pets",
        {f"train/a/{i}.png": encoded(picture((i, 0, 0))) for i in range(300)},
    )
    script = """
import os, signal, sys
from cnn_jax.data import folder, prepare as preparation
encode, calls = folder._encode, []
def encode_or_die(*arguments, **options):
    calls.append(1)
    if len(calls) == 280:  # in the second batch of 256
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
    assert prepare_pets(source, tmp_path / "tfds").num_examples("train") == 300


# ---- MNIST's files ----


FEW = {  # what MNIST's files contain, in these tests
    "train-images-idx3-ubyte": bytes(range(100)) * 9,
    "train-labels-idx1-ubyte": bytes(range(90)),
    "t10k-images-idx3-ubyte": bytes(range(100)) * 8,
    "t10k-labels-idx1-ubyte": bytes(range(80)),
}


@pytest.fixture
def few_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {file: (len(c), hashlib.sha256(c).hexdigest()) for file, c in FEW.items()}
    fashion = idx.CONTENTS["fashion_mnist"]
    monkeypatch.setattr(idx, "CONTENTS", {"mnist": contents, "fashion_mnist": fashion})


def make_idx_folder(folder: Path, as_people_have: str) -> Path:
    for file, content in FEW.items():
        dotted = file.replace("-idx", ".idx")
        stored = {
            "original": {f"{file}.gz": gzip.compress(content, mtime=1)},
            "unpacked": {file: content},
            "compressed again": {f"{file}.gz": gzip.compress(content, 1, mtime=7)},
            "with a dot": {dotted: content},
            "with a dot, compressed": {f"{dotted}.gz": gzip.compress(content)},
            "a folder for each": {f"{dotted}/{dotted}": content},
            "unpacked, still .gz": {f"{file}.gz": content},
            "compressed, no suffix": {file: gzip.compress(content)},
            "both, one broken": {f"{file}.gz": b"\x1f\x8b", file: content},
            "torchvision": {
                f"MNIST/raw/{file}.gz": gzip.compress(content),
                f"MNIST/raw/{file}": content,
            },
        }
        for name, bytes_of_it in stored[as_people_have].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(bytes_of_it)
    return folder


HABITS = ("original", "unpacked", "compressed again", "with a dot", "with a dot, compressed")
HABITS += ("a folder for each", "unpacked, still .gz", "compressed, no suffix", "both, one broken")


@pytest.mark.parametrize("as_people_have", [*HABITS, "torchvision"])
def test_files_are_known_by_their_content(
    tmp_path: Path, few_mnist: None, as_people_have: str
) -> None:
    files = idx.find_files("mnist", make_idx_folder(tmp_path / "files", as_people_have))
    assert list(files) == list(idx.url_infos("mnist"))
    assert [idx._content(path) for path in files.values()] == list(FEW.values())


def test_missing_and_damaged_files_are_named(tmp_path: Path, few_mnist: None) -> None:
    source = make_idx_folder(tmp_path / "files", "original")
    name = "train-images-idx3-ubyte"
    first, original = source / f"{name}.gz", FEW[name]
    for content, message in (
        (gzip.compress(original[:-1]), "its content has 899 bytes, not 900"),
        (gzip.compress(bytes(10**6)), "its content has more than 900 bytes, not 900"),
        (original[:-1] + b"x", "its content has the sha256 .*, not the expected"),
        (gzip.compress(original)[:-9], f"{first} cannot be decompressed: "),
        (gzip.compress(original)[:-1] + b"x", f"{first} cannot be decompressed: "),
        (b"", "its content has 0 bytes"),
    ):
        first.write_bytes(content)
        with pytest.raises(UserError, match=message) as refused:
            preparation.prepare("mnist", source, tmp_path / "tfds")
        assert str(refused.value).startswith(f"{first} ") and "\n" not in str(refused.value)
    first.unlink()
    with pytest.raises(UserError, match=f"{first} is missing; 'mnist' needs .*t10k-labels"):
        preparation.prepare("mnist", source, tmp_path / "tfds")
    assert not (tmp_path / "tfds").exists()


def test_files_of_another_dataset_are_called_by_its_name(
    tmp_path: Path, few_mnist: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fashion = {file: (1, "0" * 64) for file in FEW}
    monkeypatch.setattr(idx, "CONTENTS", {"mnist": fashion, "fashion_mnist": idx.CONTENTS["mnist"]})
    monkeypatch.setitem(fashion, "train-images-idx3-ubyte", (900, "0" * 64))
    source = make_idx_folder(tmp_path / "files", "original")
    with pytest.raises(UserError, match="content is fashion_mnist's train-images-idx3-ubyte;"):
        idx.find_files("mnist", source)


@pytest.mark.parametrize("trouble", ["no route", "no answer"])
def test_no_network_is_reported_without_waiting_for_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    test_is_over = threading.Event()

    def urlopen(*_: Any, **__: Any) -> None:
        if trouble == "no answer":  # as when looking up the name of a host, which has no timeout
            test_is_over.wait(60)
        raise OSError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(preparation, "_PROBE_SECONDS", 0.1)
    with pytest.raises(
        UserError, match=f"{trouble}.*--manual-dir to a folder with train-images.*t10k"
    ):
        preparation.prepare("mnist", data_dir=tmp_path)
    test_is_over.set()


@contextmanager
def mnist_served_from(folder: Path) -> Iterator[None]:
    """Lets TFDS find MNIST's files on this machine instead of at their address."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    stock: Any = tfds.builder_cls("mnist")
    infos = checksums.get_all_url_infos()
    with (
        http.server.ThreadingHTTPServer(("localhost", 0), handler) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        url = f"http://localhost:{server.server_port}/"
        for file in read.FILES["mnist"]:
            patch.setitem(infos, url + file, infos[stock.URL + file])
        patch.setattr(stock, "URL", url)
        patch.setattr(checksums, "get_all_url_infos", lambda: infos)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.mark.parametrize("served", ["wrong files", "nothing"])
def test_a_failed_download_is_reported(tmp_path: Path, served: str) -> None:
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
def test_unpacked_mnist_is_mnist(tmp_path: Path) -> None:
    if not (SHARED / "mnist").is_dir():
        pytest.skip(f"{SHARED / 'mnist'} is missing")
    for path in (SHARED / "mnist").glob("*.gz"):
        dotted = path.stem.replace("-idx", ".idx")
        (tmp_path / dotted).write_bytes(gzip.decompress(path.read_bytes()))
    unpacked = preparation.prepare("mnist", tmp_path, tmp_path / "unpacked")
    original = preparation.prepare("mnist", SHARED / "mnist", tmp_path / "original")
    assert unpacked.statistics == original.statistics
    hashes = {data.content_sha256(dataset, "test") for dataset in (unpacked, original)}
    assert len(hashes) == 1


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

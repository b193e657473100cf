"""Preparing USPS from its file, and refusing any other file with the reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.data import prepare as preparation
from cnn_jax.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"


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


@pytest.mark.parametrize("path", ["train/data", "test/target"])
def test_a_header_that_claims_too_much_is_refused_unread(
    tmp_path: Path, few_usps: None, path: str
) -> None:
    source = make_usps(tmp_path / "files", {path: None})
    with h5py.File(source / "usps.h5", "a") as file:
        shape = (10**9, 256) if path.endswith("data") else (10**12,)
        file.create_dataset(path, shape, np.float32, chunks=True)
    with pytest.raises(UserError, match="is not USPS: data and target of .* have the shapes"):
        preparation.prepare("usps", source, tmp_path / "tfds")
    with h5py.File(source / "usps.h5", "a") as file:
        del file[path]
        file.create_group(path)
    with pytest.raises(UserError, match="is not a complete usps.h5: cannot read"):
        preparation.prepare("usps", source, tmp_path / "tfds")


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

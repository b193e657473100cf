"""Files beside a prepared dataset: used as they were written, or measured again."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from samples import same

from cnn_jax import data
from cnn_jax.data import cache, statistics


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_and_seal(path: Path, **changes: Any) -> None:
    """Change a file as a program would that writes the right checksum for it."""
    values = cache.unsealed(path.read_bytes(), path.name) | changes
    values = json.loads(json.dumps(values))
    path.write_bytes(cache.sealed(values, path.name))


def one_digit(path: Path) -> None:
    path.write_text(path.read_text().replace("0.3", "0.4", 1))


def becomes_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "one digit": one_digit,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "emptied": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "no UTF-8": lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "a list": lambda path: path.write_text("[1, 2]"),
    "null": lambda path: path.write_text("null"),
    "deleted": Path.unlink,
    "a folder": becomes_a_folder,
    "NaN": lambda path: change(path, mean=[float("nan")]),
    "another hash": lambda path: change(path, sha256="0" * 64),
    "no checksum": lambda path: change(path, checksum=None),
    "std 0": lambda path: change_and_seal(path, std=[0.0]),
    "std infinite": lambda path: path.write_text(path.read_text().replace("0.37", "1e999")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_statistics_are_measured_again(
    digits_dir: Path,
    digits: data.Dataset,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert digits.folder is not None
    (path,) = (digits.folder / cache.FOLDER).glob("statistics-*.json")
    DAMAGE[damage](path)
    assert data.load_dataset("digits", digits_dir).statistics == digits.statistics
    monkeypatch.setattr(statistics, "measure", None)  # and kept, so that the next need not
    assert data.load_dataset("digits", digits_dir).statistics == digits.statistics


def test_files_of_another_size_or_split_are_not_used(digits_dir: Path) -> None:
    small, large = (data.load_dataset("digits", digits_dir, size=size) for size in (8, 4))
    assert small.folder is not None
    folder = small.folder / cache.FOLDER
    shutil.copy(folder / "statistics-8x8x1.json", folder / "statistics-4x4x1.json")
    assert data.load_dataset("digits", digits_dir, size=4).statistics == large.statistics
    hashes = {split: data.content_sha256(small, split) for split in ("train", "test")}
    first, second = folder.glob("content-*.json")
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert hashes == {split: data.content_sha256(small, split) for split in hashes}
    parts = {split: data.load_resident(small, split) for split in ("train[:9]", "train[9:18]")}
    parts = {split: {k: v.copy() for k, v in part.items()} for split, part in parts.items()}
    for first in folder.glob("train-0-9-*"):
        second = first.with_name(first.name.replace("train-0-9-", "train-9-18-"))
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    for split, part in parts.items():
        assert same(data.load_resident(small, split), part)


def test_the_content_hash_is_measured_again_where_its_file_was_changed(
    digits: data.Dataset,
) -> None:
    assert digits.folder is not None
    good = data.content_sha256(digits, "test")
    (path,) = (digits.folder / cache.FOLDER).glob("content-*.json")
    for spoil in (
        lambda: change(path, sha256="0" * 64),
        lambda: change_and_seal(path, sha256=["0"]),
        lambda: change_and_seal(path, split="train"),
    ):
        spoil()
        assert data.content_sha256(digits, "test") == good


def test_statistics_survive_json(digits: data.Dataset) -> None:
    values = json.loads(json.dumps(asdict(digits.statistics)))
    assert statistics.from_json(values, 1) == digits.statistics
    with pytest.raises(ValueError, match="JSON compliant"):
        cache.sealed({"mean": float("nan")}, "x.json")


@pytest.mark.parametrize(
    "odd",
    [
        {"mean": [None]},
        {"mean": [0.3, 0.3]},
        {"mean": []},
        {"mean": "0"},
        {"mean": 0.3},
        {"mean": ["0.3"]},
        {"mean": [True]},
        {"mean": [30.5]},
        {"mean": [float("nan")]},
        {"std": [0.0]},
        {"std": [-0.1]},
        {"std": [float("inf")]},
        {"std": [0.3, 0.3]},
        {"sha256": 7},
        {"sha256": "abc"},
        {"sha256": None},
        {"origin": None},
    ],
    ids=str,
)
def test_what_no_measurement_gives_is_refused(odd: dict[str, Any]) -> None:
    good = {"mean": [0.3], "std": [0.1], "sha256": "0" * 64, "origin": "a test"}
    assert statistics.from_json(good, 1).mean == (0.3,)
    with pytest.raises((ValueError, TypeError, KeyError)):
        statistics.from_json(good | odd, 1)
    for key in good:
        with pytest.raises(KeyError):
            statistics.from_json({name: good[name] for name in good if name != key}, 1)

"""Records that are no labelled images, labels that are no classes, files that cannot be read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from samples import arrays, encoded, picture, small
from tensorflow_datasets.proto import tf_example_pb2

from cnn_jax import data
from cnn_jax.data import read, records
from cnn_jax.data.shards import open_shards
from cnn_jax.errors import UserError

IMAGE = encoded(picture(7, (8, 8), "L"))


def record(images: list[bytes] = [IMAGE], labels: Any = [3], kind: str = "int64_list") -> bytes:  # noqa: B006
    example = tf_example_pb2.Example()  # pyright: ignore
    example.features.feature["image"].bytes_list.value.extend(images)
    getattr(example.features.feature["label"], kind).value.extend(labels)
    return example.SerializeToString()


def write_test_split(folder: Path, odd: bytes) -> None:
    """Write 360 records as the split "test" of the digits; number 5 is `odd`."""
    (file,) = folder.glob("*test.array_record*")
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for position in range(360):
        writer.write(odd if position == 5 else record())
    writer.close()


ODD = {
    "no label": (record(labels=[]), "has 1 images in 'image' and 0 whole numbers in 'label'"),
    "two labels": (record(labels=[1, 2]), "has 1 images in 'image' and 2 whole numbers"),
    "label as bytes": (record(labels=[b"3"], kind="bytes_list"), "and 0 whole numbers in 'label'"),
    "label as float": (record(labels=[3.0], kind="float_list"), "and 0 whole numbers in 'label'"),
    "no image": (record(images=[]), "has 0 images in 'image'"),
    "two images": (record(images=[IMAGE, IMAGE]), "has 2 images in 'image'"),
    "other bytes": (b"\xff\xff\xff", "is no record of TFDS"),
    "nothing": (b"", "has 0 images in 'image' and 0 whole numbers"),
    "label -1": (record(labels=[-1]), "label -1, outside 0 .. 9 of its 10 classes; -1 marks"),
    "label 10": (record(labels=[10]), "has the label 10, outside 0 .. 9 of its 10 classes"),
    "label 2^40": (record(labels=[2**40]), f"has the label {2**40}, outside 0 .. 9"),
    "label -2^40": (record(labels=[-(2**40)]), f"has the label -{2**40}, outside 0 .. 9"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_labelled_image_is_refused_wherever_it_is_read(
    digits: data.Dataset, odd: str
) -> None:
    content, message = ODD[odd]
    assert digits.folder is not None
    write_test_split(digits.folder, content)
    source = digits.open("test[2:]")
    readings: list[Callable[[], Any]] = [
        lambda: source.read([0, 3]),
        lambda: list(data.stream(source, [(3, 4)], lambda step: np.array([step]), 1)),
        lambda: data.load_resident(digits, "test"),
        lambda: data.load_resident(digits, "train[:3]+test[2:9]"),
        lambda: data.content_sha256(digits, "test"),
    ]
    for read_examples in readings:
        with pytest.raises(UserError) as refusal:
            read_examples()
        text = str(refusal.value)
        assert text.startswith("example 5 of split 'test' of dataset 'digits' ")
        assert message in text and "\n" not in text
    assert source.read([0, 1])["label"].tolist() == [3, 3]


def test_saved_labels_are_checked_too(digits: data.Dataset) -> None:
    """A resident file may be older than the check."""
    saved = data.load_resident(digits, "test")
    assert saved["label"].max() == 9
    fewer = data.array_dataset("few", {"train": arrays()}, "abc").open("train")
    with pytest.raises(UserError, match="example 2 of split 'train' of dataset 'few' has the lab"):
        fewer.check_labels(np.array([0, 9]), [1, 2])


def test_labels_in_memory_are_named() -> None:
    pixels, labels = arrays(7)
    with pytest.raises(UserError, match=r"example 4 of split 'test' of dataset 'm' .* -1, outsid"):
        wrong = np.where(np.arange(7) == 4, -1, labels)
        data.array_dataset("m", {"train": (pixels, labels), "test": (pixels, wrong)}, "abc")
    assert small().open("train+test").read([19, 20])["label"].tolist() == [1, 0]


def test_a_count_that_is_not_the_files_is_refused(digits: data.Dataset) -> None:
    """Whoever loses the last example of each file would not notice it otherwise."""
    assert digits.folder is not None
    files = sorted(digits.folder.glob("*.array_record*"))
    stored = SimpleNamespace(filepaths=files, shard_lengths=(359, 1437))
    with pytest.raises(RuntimeError, match="has 360 records, not 359"):
        open_shards("digits", digits.folder, "test", stored, "array_record").read(0)


CONTRADICTIONS = [
    ("dataset_info.json", '"360"', '"359"'),
    ("dataset_info.json", '"360"', '"0"'),
    ("dataset_info.json", '"1437"', '"0"'),
    ("dataset_info.json", '"1437"', '"-1437"'),
    ("dataset_info.json", '"1437"', '"1000", "437"'),
    ("dataset_info.json", '"1437"', '"99999999999999"'),
    ("dataset_info.json", '"name": "test"', '"name": "tess"'),
    ("dataset_info.json", '"name": "test"', '"name": "train"'),
    ("dataset_info.json", "{FILEFORMAT}", "{FYLEFORMAT}"),
    ("dataset_info.json", "{SHARD_X_OF_Y}", "{"),
    ("dataset_info.json", '"name": "digits"', '"name": "digit5"'),
    ("dataset_info.json", '"version": "1.0.0"', '"version": "1.0.1"'),
    ("dataset_info.json", '"featureKey": "label"', '"featureKey": "image"'),
    ("features.json", '"8"', '"9"'),
    ("features.json", '"numClasses": "10"', '"numClasses": "9"'),
    ("features.json", '"uint8"', '"uint16"'),
]


@pytest.mark.parametrize(("file", "old", "new"), CONTRADICTIONS)
def test_a_description_that_contradicts_the_records_is_refused(
    digits_dir: Path, digits: data.Dataset, file: str, old: str, new: str
) -> None:
    assert digits.folder is not None
    path = digits.folder / file
    path.write_text(path.read_text().replace(old, new))
    (digits.folder / "cnn_jax/description.json").unlink()
    with pytest.raises(UserError) as refusal:
        dataset = data.load_dataset("digits", digits_dir)
        for split in ("train", "test"):
            data.load_resident(dataset, split)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("features.json", '"1"', '"3"'),
        ("features.json", '"numClasses": "10"', '"numClasses": "11"'),
    ],
)
def test_a_description_that_changed_is_refused(
    digits_dir: Path, digits: data.Dataset, file: str, old: str, new: str
) -> None:
    """Of these, nothing but a note says that they were otherwise."""
    assert digits.folder is not None
    path = digits.folder / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match="of dataset 'digits' in .* are not those of its first re"):
        data.load_dataset("digits", digits_dir)


def test_a_changed_description_may_be_meant(digits_dir: Path, digits: data.Dataset) -> None:
    assert digits.folder is not None
    info, labels = digits.folder / "dataset_info.json", digits.folder / "label.labels.txt"
    info.write_text(info.read_text().replace("scans", "pictures"))  # says nothing of the records
    assert data.load_dataset("digits", digits_dir).statistics == digits.statistics
    labels.write_text("\n".join("abcdefghij"))
    noted = digits.folder / "cnn_jax"
    with pytest.raises(UserError, match=f"the classes of .* is meant, delete {noted}$"):
        data.load_dataset("digits", digits_dir)
    (noted / "description.json").unlink()
    renamed = data.load_dataset("digits", digits_dir)
    assert renamed.class_names == tuple("abcdefghij")


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json", "digits-test.array_record"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
        (OSError(24, "Too many open files"), "cannot be read: Too many open files"),
        (OSError(5, "Input/output error"), "cannot be read: Input/output error"),
        (None, "is not a file"),
    ],
)
def test_what_cannot_be_read_is_not_called_damaged(
    digits_dir: Path,
    digits: data.Dataset,
    file: str,
    error: OSError | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert digits.folder is not None
    (path,) = digits.folder.glob(file + "*")
    really_open = Path.open

    def open_unless_refused(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path and error is not None:
            raise error
        return really_open(self, *arguments, **options)

    if error is None:
        path.unlink()
        os.mkfifo(path)
    else:
        monkeypatch.setattr(Path, "open", open_unless_refused)
    with pytest.raises(UserError, match=f"^{path} of dataset 'digits' {message}"):
        data.load_dataset("digits", digits_dir).open("test").read([0])


def test_an_unreadable_folder_is_not_called_unprepared(
    digits_dir: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digits.folder is not None
    with monkeypatch.context() as patch:
        patch.setattr(read, "find", lambda name, root: None)
        patch.setattr(os, "access", lambda path, mode: path != digits_dir / "pets")
        (digits_dir / "pets").mkdir()
        with pytest.raises(UserError, match=f"^{digits_dir}/pets cannot be read: Permission"):
            data.load_dataset("pets", digits_dir)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: path != digits.folder)
        with pytest.raises(UserError, match=f"^{digits.folder} cannot be read: Permission denied"):
            data.load_dataset("digits", digits_dir)


def test_a_machines_limit_is_not_called_damage() -> None:
    error = RuntimeError("read() failed: Input/output error; reading /data/x; at byte 7")
    refusal = records._damaged("x", Path("/data"), error)
    assert str(refusal).endswith("in /data cannot be read: Input/output error")


# ---- listing ----


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "null",
        "7",
        '{"splits": 7}',
        '{"splits": [{"name": "train"}]}',
        '{"splits": [{"name": "train", "shardLengths": ["x"]}]}',
        '{"splits": [{"name": "train", "shardLengths": [[]]}]}',
        "[" * 100_000,
        "\x00\xff",
    ],
)
def test_a_damaged_description_is_listed_as_such(tmp_path: Path, content: str) -> None:
    info = tmp_path / "pets/1.0.0/dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text(content, encoding="latin-1")
    listed = {name: (version, splits) for name, version, splits in read.list_datasets(tmp_path)}
    assert listed["pets"] == ("1.0.0", f"{info} is not what TFDS writes")


def test_what_is_no_file_is_listed_as_such(tmp_path: Path) -> None:
    info = tmp_path / "[red]/1.0.0/dataset_info.json"
    info.parent.mkdir(parents=True)
    os.mkfifo(info)
    other = tmp_path / "tf/1.0.0/dataset_info.json"
    other.parent.mkdir(parents=True)
    splits = [{"name": "train", "shardLengths": ["2", "1"]}]
    other.write_text(json.dumps({"fileFormat": "tfrecord", "splits": splits}))
    listed = {name: splits for name, _, splits in read.list_datasets(tmp_path)}
    assert "is not a file" in listed["[red]"] and listed["tf"] == "train 3"

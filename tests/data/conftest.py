"""Digits prepared once for all tests of the room, and copies that a test may damage."""

import contextlib
import io
import shutil
import sys
from pathlib import Path

import pytest

from cnn_jax import data


@pytest.fixture(scope="session")
def prepared_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with "digits", which prepares itself: silently, and without TensorFlow."""
    root, printed = tmp_path_factory.mktemp("prepared"), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        data.load_dataset("digits", root)
    assert printed.getvalue() == "" and "tensorflow" not in sys.modules
    return root


@pytest.fixture
def digits_dir(prepared_digits: Path, tmp_path: Path) -> Path:
    """A copy of the prepared digits that a test may damage."""
    return Path(shutil.copytree(prepared_digits, tmp_path / "tfds"))


@pytest.fixture
def digits(digits_dir: Path) -> data.Dataset:
    return data.load_dataset("digits", digits_dir)

"""The no-network law: no TensorFlow, no download, and no long wait for either."""

import socket
from pathlib import Path

import programs
import pytest
import tiny

from cnn_jax.data import load_dataset
from cnn_jax.errors import UserError

# Packages that may be found, but must not be imported by anyone: they take seconds, and memory.
FOREIGN = ("tensorflow", "torch")
TRAP = """
from pathlib import Path
Path(__file__).with_name("was-imported").touch()
raise ImportError("the tests' own")
"""
EVERYTHING = """
import importlib, pkgutil, sys
import cnn_jax, experiments
for package in (cnn_jax, experiments):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if "torch" not in module.name:  # the peer, which need not be installed
            importlib.import_module(module.name)
sys.path.insert(0, "TESTS")
import tiny
tiny.main(tiny.Config, tiny.build, tiny.OPTIONS)
assert not any(name.split(".")[0] in ("tensorflow", "torch") for name in sys.modules)
"""


def test_connections_that_leave_this_machine_fail() -> None:
    with pytest.raises(RuntimeError, match="opened a connection"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_training_imports_no_other_framework(tmp_path: Path) -> None:
    for name in FOREIGN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(TRAP)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})" + EVERYTHING
    code = code.replace("TESTS", str(Path(tiny.__file__).parent))
    programs.run_code(code, "--workdir", tmp_path / "run")
    assert not list(tmp_path.glob("*/was-imported"))
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("name", ["mnist", "cifar10", "folder/imagenette", "no_such_dataset"])
def test_a_missing_dataset_is_told_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"python -m cnn_jax data prepare {name}"):
        load_dataset(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_dataset_ends_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which runs as a file too, from any directory, and imports another script."""
    monkeypatch.chdir(tmp_path)
    script = programs.ROOT / "experiments" / "lenet5_fashion_mnist.py"
    code, out, err = programs.finish(programs.start(script, "--data-dir", tmp_path))
    assert code == 2 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ") and "python -m cnn_jax data prepare fashion_mnist" in line
    assert list(tmp_path.iterdir()) == []

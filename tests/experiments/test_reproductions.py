"""The verdicts on records that were trained again, and their cells in docs/ladder.md."""

import json
from pathlib import Path

import pytest

from cnn_jax.check.reproduce import Comparison
from cnn_jax.errors import UserError
from experiments import ladder
from experiments.tools import reproductions
from experiments.tools.reproductions import Config, again, cells, load


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only record on the ladder; training it again gives 90 then 91 % and a loss too high."""
    monkeypatch.setattr(ladder, "RECORDS", tmp_path)
    path = tmp_path / "lenet5_digits.json"
    path.write_text("{}")

    def reproduce(target: Path, data_dir: Path | None, scratch: Path) -> list[Comparison]:
        assert (target, data_dir, scratch) == (path, None, Path("again/lenet5_digits"))
        found = [Comparison(f"seed {k}", ["jax was 1, is 2"], 0.005) for k in range(2)]
        for k, comparison in enumerate(found):
            now = {"accuracy": 0.904 + k / 100, "loss": 0.5 + k}
            comparison.figures({"accuracy": 0.9 + k / 100, "loss": 0.5}, now)
        return found

    monkeypatch.setattr(reproductions, "reproduce", reproduce)
    return path


def test_a_verdict_is_kept_until_the_record_changes(record: Path) -> None:
    assert cells("lenet5_digits") == ("", "not trained again yet")
    again(Config(("lenet5_digits",), workdir=Path("again")))
    assert cells("lenet5_digits") == ("9.10 % ± 0.71", "mismatch (3 of 4)")
    kept = json.loads((record.parent / "reproductions.json").read_text())["verdicts"]
    assert kept["lenet5_digits"]["figures"][-1] == ["seed 1", "loss", 0.5, 1.5, False]
    assert kept["lenet5_digits"]["differences"] == ["jax was 1, is 2"]
    record.write_text("{} ")
    assert load() == {} and cells("lenet5_digits")[1] == "not trained again yet"


@pytest.mark.parametrize(
    ("config", "message"),
    (
        (Config(("lenet5_digits", "lenet6"), Path("again")), "no record lenet6; there are lenet5_"),
        (Config(("lenet5_digits",)), "--workdir"),
        (Config((), Path("again")), "name the records to train again; there are lenet5_digits"),
    ),
)
def test_what_cannot_be_trained_again_is_said(record: Path, config: Config, message: str) -> None:
    with pytest.raises(UserError, match=message):
        again(config)
    assert list(record.parent.iterdir()) == [record]

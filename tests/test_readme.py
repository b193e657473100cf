"""README's recipes run as they stand, and its table is the one that the records give."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faults import faults
from PIL import Image

from experiments import ladder
from experiments.bench import shift
from experiments.tools import report, reproductions

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXTEND = README.split("## Extend it")[1].split("## Several devices")[0]
SCRIPTS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", EXTEND, re.DOTALL))
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", EXTEND, re.DOTALL)
            for line in block.splitlines()]  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the repository with the scripts and a few images of one's own."""
    folder = tmp_path_factory.mktemp("desk")
    for name, text in SCRIPTS.items():
        (folder / name).write_text(text)
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for shade, label in ((60, "dark"), (190, "light")):
            place = folder / "my_images" / split / label
            place.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(shade - 50, shade + 50, (30, 40, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of README there, as if the package were installed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TFDS_DATA_DIR": str(folder / "data")}
    words = [sys.executable if word == "python" else word for word in command.split()]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_recipes_are_found():
    assert set(SCRIPTS) == {"my_network.py", "my_augmentation.py", "my_schedule.py"}
    assert len(COMMANDS) == 5


@pytest.mark.parametrize("command", COMMANDS)
def test_recipe(command: str, desk: Path):
    done = shell(command, desk)
    assert done.returncode == 0, done.stderr


def test_own_network_stops_resumes_and_is_evaluated(desk: Path):
    """With state besides its parameters, and no change to the package."""
    train = "python my_network.py --epochs 3 --batch-size 60 --checkpoint-every 10"
    assert shell(f"{train} --workdir straight", desk).returncode == 0
    assert shell(f"{train} --workdir resumed --stop-at 30", desk).returncode == 0
    again = shell(f"{train} --workdir resumed", desk)
    assert "resuming at step 30" in again.stdout
    straight, resumed = (
        (desk / run / "metrics.jsonl").read_text() for run in ("straight", "resumed")
    )
    assert resumed == straight

    evaluated = shell("python -m cnn_jax evaluate resumed --json", desk)
    result = json.loads((desk / "resumed" / "result.json").read_text())
    common = ("step", "split", "loss", "accuracy", "top5", "count")
    figures = {name: json.loads(evaluated.stdout)[name] for name in common}
    assert figures.items() <= result.items()
    assert result["accuracy"] > 0.8


def test_table_is_that_of_the_records():
    table = README.split(report.MARKS[0])[1].split(report.MARKS[1])[0]
    assert table == report.table()


def test_the_fault_table_is_that_of_the_record():
    record = json.loads((ladder.RECORDS / "faults.json").read_text())
    text = (ROOT / "docs" / "reproducing.md").read_text()
    assert f"results/faults.json -->\n{faults.table(record)}<!-- end of the faults -->" in text
    assert sum(row["kills"] for row in record["kills"]) >= 200
    assert all(row["identical"] == row["runs"] for row in record["kills"])
    trials = [row for row in record["damages"] if row.keys() <= {"damage", *faults.GOOD}]
    assert sum(row[name] for row in trials for name in row if name != "damage") >= 100
    assert len(trials) == len(record["damages"])


def test_the_reproductions_are_those_of_their_record():
    text = (ROOT / "docs" / "reproducing.md").read_text()
    table = text.split(reproductions.MARKS[0])[1].split(reproductions.MARKS[1])[0]
    assert table == reproductions.table()


def test_the_tables_of_shifts_are_those_of_the_records():
    text = (ROOT / "docs" / "shift.md").read_text()
    records = sorted(ladder.RECORDS.glob("shift-*.json"))
    assert records
    for path in records:
        table = shift.table(json.loads(path.read_text()))
        assert f"<!-- {path.name} -->\n{table}<!-- end -->" in text


TIMED = {"many_seeds", "time_to_99"}  # claim seconds, which have a test below
# Their docstrings say so; alexnet2014_mnist's figures are in the records of `bench/shift.py`.
UNTRAINED = {"alexnet2012_imagenet", "alexnet2014_mnist"}


@pytest.mark.parametrize(
    "script",
    sorted({p.stem for p in (ROOT / "experiments").glob("*_*.py") if p.stem[0] != "_"} - TIMED),
)
def test_the_claim_of_a_script_is_that_of_its_record(script: str):
    """As accuracy or as error, whichever the published figure is; of every record that it made."""
    records = [json.loads(path.read_text()) for path in ladder.RECORDS.glob("*.json")]
    records = [record for record in records if record["experiment"] == script]
    assert (not records) == (script in UNTRAINED)
    text = importlib.import_module(f"experiments.{script}").__doc__ or ""
    for record in records:
        errors = ladder.errors(record)
        claims = {ladder.percent(errors), ladder.percent([1 - error for error in errors])}
        assert any(claim in text for claim in claims), claims


def test_the_neocognitron_claims_what_its_record_says():
    record = ladder.load("neocognitron_patterns")
    text = importlib.import_module("experiments.neocognitron_patterns").__doc__ or ""
    assert record is not None and len(record["runs"]) == 10
    for run in record["runs"]:
        assert len(set(run["selectivity"]["planes"])) == 5
    for how in ("strongest", "alone"):
        mean = np.mean([run["shift"][how] for run in record["runs"]])
        assert f"{100 * mean:.1f} %" in text
    for form in record["runs"][0]["deformed"]:
        mean = np.mean([run["deformed"][form]["strongest"] for run in record["runs"]])
        assert f"{100 * mean:.1f} %" in text


def test_many_seeds_claims_what_its_record_says():
    record = ladder.load("many_seeds")
    text = " ".join((importlib.import_module("experiments.bench.many_seeds").__doc__ or "").split())
    if record is None:
        assert "no record yet" in text
        return
    separate, seconds = record["trained_separately"], record["seconds_together"]
    assert len(record["accuracy"]["together"]) == record["config"]["seeds"] == 16
    assert len(record["seconds_separate"]) == len(record["accuracy"]["separate"]) == separate
    claims = [f"{seconds:.0f} s together", f"{record['largest_difference'] * 360:.0f} of 360"]
    if separate == 16:
        apart = sum(record["seconds_separate"])
        assert abs(record["ratio"] - apart / seconds) < 1e-6
        claims += [f"{apart:.0f} s one at a time", f"{record['ratio']:.1f} times"]
        assert f"that is {record['ratio']:.1f} times as fast" in README
    else:
        per_run = record["seconds_per_run"]
        claims += [f"{per_run[how]:.1f} s per run" for how in ("together", "separate")]
        claims += [f"{separate} of them"]
    claims += [ladder.percent(record["accuracy"][how]) for how in ("together", "separate")]
    assert all(claim in text for claim in claims), claims


def test_time_to_99_claims_what_its_record_says():
    record = ladder.load("time_to_99")
    text = " ".join((importlib.import_module("experiments.bench.time_to_99").__doc__ or "").split())
    if record is None:
        assert "no record yet" in text
        return
    runs, target = record["runs"], record["config"]["target"]
    met = [run["reached"] for run in runs if run["reached"] is not None]
    assert target == 0.99 and len(runs) == record["config"]["seeds"] >= 8
    assert all(row["accuracy"] >= target for row in met)
    assert record["config"]["train_split"] == "train" and record["config"]["eval_split"] == "test"
    claims = [f"{len(met)} of {len(runs)} seeds"]
    for name, unit in (("seconds", "s"), ("epochs", "epochs")):
        values = [row[name] for row in met]
        claims += [f"{np.median(values):.1f} {unit}", f"{min(values):.1f} to {max(values):.1f}"]
    claims += [f"{np.median([row['seconds_with_evaluations'] for row in met]):.1f} s with"]
    claims += [ladder.percent([run["accuracy"] for run in runs])]
    assert all(claim in text for claim in claims), claims


def test_collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Seeds are put together; what is not one experiment is refused; a resumed run has no time."""
    monkeypatch.setattr(ladder, "RECORDS", tmp_path / "results")
    folders = [fake_run(tmp_path, seed, accuracy) for seed, accuracy in ((1, 0.5), (0, 0.6))]
    record = json.loads(report.collect(folders).read_text())
    assert [run["seed"] for run in record["runs"]] == [0, 1]
    assert record["options"] == {"log_every": 5}  # and not where the runs were
    assert ladder.percent(ladder.errors(record)) == "45.00 % ± 7.07"
    named = report.collect(folders, "another")
    assert named.name == "another.json" and json.loads(named.read_text()) == record

    other = fake_run(tmp_path, 2, 0.7, epochs=3)
    with pytest.raises(ValueError, match="more than their seed"):
        report.collect([*folders, other])
    resumed = fake_run(tmp_path, 3, 0.7, resumed_from=5)
    runs = json.loads(report.collect([*folders, resumed]).read_text())["runs"]
    assert [run["seconds"] for run in runs] == [30, 30, None]


def fake_run(
    parent: Path, seed: int, accuracy: float, epochs: int = 2, resumed_from: int = 0
) -> Path:
    folder = parent / f"run{seed}"
    folder.mkdir()
    environment = {"platform": "cpu", "device": "cpu", "devices": 1, "cores": 2}
    config = {"seed": seed, "epochs": epochs}
    described = {"experiment": "fake", "config": config, "environment": environment}
    described["options"] = {"log_every": 5, "workdir": str(folder)}
    (folder / "config.json").write_text(json.dumps(described))
    result = {"step": 9, "split": "test", "accuracy": accuracy, "count": 10, "parameters": 7}
    result |= {"seconds": 30.0, "resumed_from": resumed_from}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_file_map_names_every_file():
    for path in (ROOT / "cnn_jax").glob("*.py"):
        assert path.name in README or path.stem in ("__init__", "errors", "__main__"), path.name

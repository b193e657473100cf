"""The recipes of README and docs/extend.md run as they stand, and every claim is its record's."""

import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from faults import faults, mutations
from PIL import Image

from cnn_jax import __main__ as program
from cnn_jax.runs.receipt import CONTENT
from experiments import ladder
from experiments.bench import shift
from experiments.tools import report, reproductions

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()
RECIPES = README.split("## Your own network")[1].split("\n## ")[0]
RECIPES += (ROOT / "docs" / "extend.md").read_text()
SCRIPTS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", RECIPES, re.DOTALL))
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", RECIPES, re.DOTALL)
            for line in block.splitlines()]  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the repository with the scripts and a few images."""
    folder = tmp_path_factory.mktemp("desk")
    for name, text in SCRIPTS.items():
        (folder / name).write_text(text)
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for shade, label in ((60, "dark"), (190, "light")):
            images = folder / "my_images" / split / label
            images.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(shade - 50, shade + 50, (30, 40, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(images / f"{i}.png")
    return folder


def test_the_recipes_are_found():
    assert set(SCRIPTS) == {"my_network.py", "my_augmentation.py", "my_schedule.py"}
    assert len(COMMANDS) == 5


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # of runpy
@pytest.mark.parametrize("command", COMMANDS[1:])
def test_recipe(command: str, desk: Path, monkeypatch: pytest.MonkeyPatch):
    """Each runs as the main program, but in this process, and for fewer steps."""
    monkeypatch.chdir(desk)
    monkeypatch.setenv("TFDS_DATA_DIR", str(desk / "data"))
    python, *words = command.replace("--epochs 2", "--epochs 0.4").split()
    assert python == "python"
    is_module = words[0] == "-m"
    name = words[is_module]
    monkeypatch.setattr(sys, "argv", words[is_module:])
    if is_module:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(name, run_name="__main__")
    if "prepare" not in words:
        stem = Path(name).stem if not is_module else name.rpartition(".")[2]
        (result,) = (desk / "runs").glob(f"{stem}-*/result.json")
        assert json.loads(result.read_text())["count"] > 0


def test_own_network_stops_resumes_and_is_evaluated(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """It has state besides its parameters, and needs no change of the package."""
    python, script, *flags = COMMANDS[0].split()
    assert (python, script) == ("python", "my_network.py")
    flags += "--batch-size 60 --steps-per-dispatch 8 --checkpoint-every 8".split()
    train = [str(desk / script), *flags, "--workdir", str(desk / "resumed")]
    for argv in ([*train, "--stop-at", "32"], train, [*train[:-1], str(desk / "straight")]):
        monkeypatch.setattr(sys, "argv", argv)
        runpy.run_path(str(desk / script), run_name="__main__")
    assert "resuming at step 32" in capsys.readouterr().out
    straight, resumed = (
        (desk / run / "metrics.jsonl").read_text() for run in ("straight", "resumed")
    )
    assert resumed == straight

    program.main(["evaluate", str(desk / "resumed"), "--json"])
    evaluated = json.loads(capsys.readouterr().out)
    result = json.loads((desk / "resumed" / "result.json").read_text())
    common = ("step", "split", "loss", "accuracy", "top5", "count")
    assert {name: evaluated[name] for name in common}.items() <= result.items()
    assert result["accuracy"] > 0.8


def test_the_tables_are_those_of_the_records():
    assert report.split_at_marks(report.README)[1] == report.short_table()
    assert report.split_at_marks(report.PAGE)[1] == report.table()


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    """And so do the tests and scripts that are named in backquotes."""
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:)([^)]+)\)|<img src=\"([^\"]+)\"", text)
    assert links
    for link in filter(None, (name for pair in links for name in pair)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    for name in re.findall(r"`((?:tests|experiments|cnn_jax)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"python -m (experiments\.[\w.]+)", text):
        path = ROOT / name.rstrip(".").replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_commands_exist():
    """Every `python -m cnn_jax COMMAND` of a page is one of the command line."""
    for page in PAGES:
        for command in re.findall(r"python -m cnn_jax ([\w-]+)", page.read_text()):
            assert command in program.COMMANDS, (page.name, command)


def test_the_fault_table_is_that_of_the_record():
    record = json.loads((ladder.RECORDS / "faults.json").read_text())
    text = (ROOT / "docs" / "reproducing.md").read_text()
    assert f"results/faults.json -->\n{faults.table(record)}<!-- end of the faults -->" in text
    assert sum(row["kills"] for row in record["kills"]) >= 200
    assert all(row["identical"] == row["runs"] for row in record["kills"])
    trials = [row for row in record["damages"] if row.keys() <= {"damage", *faults.GOOD}]
    assert sum(row[name] for row in trials for name in row if name != "damage") >= 100
    assert len(trials) == len(record["damages"])


def test_the_table_of_mutations_is_that_of_the_record():
    record = json.loads((ladder.RECORDS / "mutations.json").read_text())
    text = (ROOT / "docs" / "reproducing.md").read_text()
    table = mutations.table(record)
    assert f"results/mutations.json -->\n{table}<!-- end of the mutations -->" in text
    counts = [row.get(outcome, 0) for row in record["trials"] for outcome in mutations.OUTCOMES]
    bad = [row.get(outcome, 0) for row in record["trials"] for outcome in mutations.OUTCOMES[3:]]
    assert sum(counts) >= 300 and sum(bad) == 0 and record["notable"] == []


def test_the_tables_of_shifts_are_those_of_the_records():
    text = (ROOT / "docs" / "shift.md").read_text()
    records = sorted(ladder.RECORDS.glob("shift-*.json"))
    assert records
    for path in records:
        table = shift.table(json.loads(path.read_text()))
        assert f"<!-- {path.name} -->\n{table}<!-- end -->" in text


OTHERWISE = {"neocognitron_patterns"}  # claims shares of places, which have a test below
# Their docstrings say so; alexnet2014_mnist's figures are in the records of `bench/shift.py`.
UNTRAINED = {"alexnet2012_imagenet", "alexnet2014_mnist"}


@pytest.mark.parametrize(
    "script",
    sorted({p.stem for p in (ROOT / "experiments").glob("*_*.py") if p.stem[0] != "_"} - OTHERWISE),
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
        running = " ".join((ROOT / "docs" / "running.md").read_text().split())
        assert f"that is {record['ratio']:.1f} times as fast" in running
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


def test_readme_claims_the_records_shifts_and_speed():
    words = " ".join(README.split())
    record = ladder.load("shift-mnist")
    assert record is not None
    shares = {run["network"]: run["accuracy_by_distance"] for run in record["runs"]}
    at = record["runs"][0]["distances"].index(4)
    mlp, lenet, alexnet, blurred, shifted = (
        f"{100 * shares[name][at]:.1f} %"
        for name in ("MLP", "LeNet-5", "AlexNet", "AlexNet, blur", "MLP, shifted")
    )
    assert f"an MLP reads {mlp}, LeNet-5 {lenet}, AlexNet {alexnet}, with blurred" in words
    assert f"pooling {blurred}, and an MLP that saw such shifts in training {shifted}." in words
    record = ladder.load("speed-gpu")
    assert record is not None
    (run,) = record["runs"]
    ratio = run["ratio"]["train"]["median"]
    images = 1 / run["contestants"]["jax"]["train"]["median"]
    assert f"AlexNet 2014 at {ratio:.2f} times, {images:,.0f} images/s" in words


def test_readme_says_what_the_ladder_leaves_out():
    """What a reader of the short table must know of the convnet's other trainings."""
    words = " ".join(README.split())
    again, _ = reproductions.cells("simard2003_mnist-convnet-elastic")
    assert f"Simard's convnet came to {again} when trained a second time" in words
    both = ladder.load("simard2003_mnist-convnet-both-relu")
    assert both is not None
    assert f"reaches {ladder.percent(ladder.errors(both))} with ReLU" in words


@pytest.mark.parametrize(
    ("ablation", "claim"),
    (
        ("no-lrn", "wrong with each of three seeds, by {0:.1f} to {2:.1f} points"),
        ("no-overlap", "help with each seed, as in the paper, by {0:.1f} to {2:.1f} points"),
        ("no-dropout", "better by {0:.1f} points with one seed and worse by {1:.1f} and {2:.1f}"),
    ),
)
def test_the_ladder_claims_the_ablations_of_the_records(ablation: str, claim: str):
    """Seed by seed, in points of error."""
    base, other = (
        ladder.load("alexnet2012_imagenette"),
        ladder.load(f"alexnet2012_imagenette-{ablation}"),
    )
    assert base is not None and other is not None
    assert [run["seed"] for run in base["runs"]] == [run["seed"] for run in other["runs"]]
    pairs = zip(ladder.errors(base), ladder.errors(other), strict=True)
    without = [100 * (theirs - ours) for ours, theirs in pairs]  # above 0: worse without
    assert sum(points > 0 for points in without) == {"no-lrn": 0, "no-overlap": 3}.get(ablation, 1)
    words = " ".join(report.PAGE.read_text().split())
    assert claim.format(*sorted(map(abs, without))) in words


def test_seeds_scatter_less_than_their_test_set_leaves_open():
    """As docs/ladder.md says of every record of three seeds or more."""
    seeds = 0
    for result in ladder.results():
        record = ladder.load(result.record)
        if record is None or len(record["runs"]) < 3 or "count" not in record:
            continue
        deviation = np.std(ladder.errors(record), ddof=1)
        error = np.mean(ladder.errors(record))
        assert deviation < np.sqrt(error * (1 - error) / record["count"]), result.record
        seeds += 1
    assert seeds >= 10


def test_collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Seeds are put together; what is not one experiment is refused; a resumed run has no time."""
    monkeypatch.setattr(ladder, "RECORDS", tmp_path / "results")
    folders = [fake_run(tmp_path, seed, accuracy) for seed, accuracy in ((1, 0.5), (0, 0.6))]
    record = json.loads(report.collect(folders).read_text())
    assert [run["seed"] for run in record["runs"]] == [0, 1]
    assert record["options"].keys() == {"log_every", "eval_batch_size", "feed"}  # and no places
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
    described = {name: kind() for name, kind in CONTENT.items()}
    described |= {"experiment": "fake", "config": config, "environment": environment}
    described["options"] = {"log_every": 5, "workdir": str(folder), "data_dir": None}
    described["options"] |= {"eval_batch_size": 250, "feed": "auto"}
    described["dataset"] = {"train": 100}
    (folder / "config.json").write_text(json.dumps(described))
    result = {"step": 9, "split": "test", "accuracy": accuracy, "count": 10, "parameters": 7}
    result |= {"seconds": 30.0, "resumed_from": resumed_from}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_the_map_names_every_file_and_nothing_else():
    """A room whose files are all of one kind says "one file per ..." instead of their names."""
    (tree,) = re.findall(r"```\n(cnn_jax/\n.*?)```", README, re.DOTALL)
    lines = re.sub(r"\n {10,}", " ", tree).splitlines()  # one line per entry
    modules = {name for line in lines for name in re.findall(r"\w+\.py", line)}
    assert modules - {"ladder.py"} == {
        path.name for path in (ROOT / "cnn_jax").glob("*.py") if path.name != "__init__.py"
    }
    rooms = {line.split("/")[0].strip(): line for line in lines if re.match(r"  \w+/", line)}
    folders = {
        path.parent for top in ("cnn_jax", "experiments") for path in ROOT.glob(f"{top}/*/*.py")
    }
    assert {folder.name for folder in folders} == rooms.keys()
    for folder in folders:
        line = rooms[folder.name]
        if "one file per" in line:
            continue
        files = {path.stem for path in folder.glob("*.py")}
        files |= {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
        names = re.sub(r" \(.*?\)", "", line.rpartition(": ")[2]).split(", ")
        assert set(names) == files - {"__init__"}, f"README's map of {folder.name}/"

"""Several trainings at once are those trainings, each as it would be alone."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import programs
import pytest
import tiny
from scipy import stats

from cnn_jax import __main__ as program
from cnn_jax import cli, seeds
from cnn_jax.evaluate.exact import evaluate_run
from cnn_jax.evaluate.summary import summarise
from cnn_jax.runs.journal import read_curves, read_lines
from cnn_jax.trained import open_networks

# Members' sums are taken by other kernels than a single network's, over 12 steps.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeds 1, 2, 3 of `tiny.py` side by side; not to be changed."""
    folder = tmp_path_factory.mktemp("several") / "run"
    programs.train_tiny(folder, "--seed", 1, "--seeds", 3)
    return folder


def member(state: dict[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
    return {name: array[k] for name, array in state.items()}


def test_a_member_is_the_run_with_its_seed_alone(three_seeds: Path, tmp_path: Path) -> None:
    """The last of three; the sweep below compares another."""
    together = programs.saved_state(three_seeds)
    result = programs.train_tiny(tmp_path, "--seed", 3)
    programs.assert_close(member(together, 2), programs.saved_state(tmp_path), TOLERANCE)
    lines = zip(*(read_lines(x / "metrics.jsonl") for x in (three_seeds, tmp_path)), strict=True)
    for ours, theirs in lines:
        assert (ours["step"], ours["split"]) == (theirs["step"], theirs["split"])
        for name, values in ours["members"].items():
            assert values[2] == pytest.approx(theirs[name], abs=TOLERANCE)
    each = json.loads((three_seeds / "summary.json").read_text())["each"]
    assert [row["seed"] for row in each] == [1, 2, 3]
    assert each[2]["accuracy"] == result["accuracy"]
    assert not np.allclose(*(together[".params['output']['kernel']"][k] for k in (0, 1)), atol=1e-3)


def test_members_stopped_and_resumed_end_as_those_never_stopped(
    three_seeds: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for flags in (("--stop-at", 6), ()):
        programs.train_tiny(run, "--seed", 1, "--seeds", 3, *flags)
        assert (run / "summary.json").exists() == (not flags)
    programs.assert_identical(programs.saved_state(run), programs.saved_state(three_seeds))
    for name in ("metrics.jsonl", "summary.json"):
        assert (run / name).read_bytes() == (three_seeds / name).read_bytes()


def test_members_on_four_devices(three_seeds: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    programs.train_tiny(run, "--seed", 1, "--seeds", 3, devices=4)
    programs.assert_close(
        programs.saved_state(run), programs.saved_state(three_seeds), 10 * TOLERANCE
    )


def test_members_are_evaluated_from_their_checkpoint(three_seeds: Path) -> None:
    found = evaluate_run(three_seeds, batch_size=100)
    result = json.loads((three_seeds / "result.json").read_text())
    assert found["members"]["accuracy"] == result["members"]["accuracy"]
    assert found["accuracy"] == pytest.approx(np.mean(result["members"]["accuracy"]), abs=1e-12)
    assert found["count"] == 360 and len(found["members"]["loss"]) == 3


def test_each_member_is_a_network(three_seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    each = json.loads((three_seeds / "summary.json").read_text())["each"]
    program.main(["evaluate", str(three_seeds), "--committee", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["run"] for row in rows[:3]] == [f"{three_seeds}:seed-{k}" for k in (1, 2, 3)]
    assert [row["accuracy"] for row in rows[:3]] == [row["accuracy"] for row in each]
    assert rows[3]["run"] == "committee of 3"
    program.main(["shift", str(three_seeds), "--max-shift", "0", "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    assert [run["accuracy"] for run in json.loads(line)["runs"]] == [
        [[row["accuracy"]]] for row in each
    ]


def test_members_are_reproduced(three_seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program.main(["reproduce", str(three_seeds)])
    assert capsys.readouterr().out.endswith("match\n")


def test_a_sweep_of_a_rate_is_stacked_with_every_seed(three_seeds: Path, tmp_path: Path) -> None:
    run, saved_seeds = tmp_path / "run", programs.saved_state(three_seeds)
    programs.train_tiny(run, "--seeds", 2, "--sweep", "learning-rate=0.1,0.03")
    state = programs.saved_state(run)
    assert state[".step"].tolist() == [12] * 4
    names = [network.run.removeprefix(f"{run}:") for network in open_networks(run)]
    assert names[2] == "learning_rate-0.03,seed-0"
    summary = json.loads((run / "summary.json").read_text())
    own = [(row["learning_rate"], row["seed"]) for row in summary["each"]]
    assert own == [(0.1, 0), (0.1, 1), (0.03, 0), (0.03, 1)]
    alone = tmp_path / "alone"
    programs.train_tiny(alone, "--seed", 1, "--learning-rate", 0.03)
    programs.assert_close(member(state, 3), programs.saved_state(alone), TOLERANCE)
    programs.assert_close(member(state, 1), member(saved_seeds, 0), TOLERANCE)
    assert [(row["learning_rate"], row["seeds"]) for row in summary["means"]] == [
        (0.1, 2),
        (0.03, 2),
    ]
    assert (run / "sweep.png").read_bytes()[:4] == b"\x89PNG"


STREAMED = ["--seeds", 2, "--feed", "stream", "--steps", 6]


# That streamed seeds cannot be stacked has a quick test below.
@pytest.mark.parametrize(
    "flags", [["--sweep", "steps=6,12"], pytest.param(STREAMED, marks=pytest.mark.slow)]
)
def test_what_cannot_be_stacked_is_trained_one_after_the_other(
    flags: Sequence[object], tmp_path: Path
) -> None:
    results = programs.train_tiny(tmp_path / "all", *flags)
    names = ["steps-6", "steps-12"] if flags[0] == "--sweep" else ["seed-0", "seed-1"]
    for name, result in zip(names, results, strict=True):
        there = json.loads((tmp_path / "all" / name / "result.json").read_text())
        assert there["accuracy"] == result["accuracy"] and there["step"] == result["step"]
    assert [r["step"] for r in results] == ([6, 12] if flags[0] == "--sweep" else [6, 6])
    assert (tmp_path / "all" / "curves.png").exists()


def test_large_and_streamed_networks_are_not_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    def stacked(feed: Literal["auto", "stream"] = "auto") -> Any:
        variants = seeds.Several(seeds=2).variants(tiny.Config())
        return seeds.stack(tiny.build, tiny.Config(), variants, None, feed)

    assert stacked() is not None and stacked("stream") is None
    far = seeds.Several(seeds=2).variants(tiny.Config(seed=2**31 - 1))
    assert seeds.stack(tiny.build, tiny.Config(), far, None, "auto") is None
    monkeypatch.setattr(seeds, "SMALL", 100)
    assert stacked() is None


@dataclasses.dataclass(frozen=True)
class Kinds(tiny.Config):
    """With fields of more types than a small experiment needs."""

    kind: Literal["tiny", "small"] = "tiny"
    flag: bool = False
    share: float = 20  # a float, as its type says


def test_a_sweep_reads_values_as_the_field_is_declared() -> None:
    read = {
        sweep: [list(v.values())[-1] for v in seeds.Several(sweep=sweep).variants(Kinds())]
        for sweep in ("share=2.5,5", "kind=small,tiny", "steps=3,4")
    }
    assert read == {
        "share=2.5,5": [2.5, 5.0],
        "kind=small,tiny": ["small", "tiny"],
        "steps=3,4": [3, 4],
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1 and at most 1,000, got 0"),
        (["--sweep", "rate=1,2"], "--sweep is FIELD=VALUE,VALUE,... with a field of dataset, "),
        (["--sweep", "learning_rate"], "got 'learning_rate'"),
        (["--sweep", "learning_rate=0.1,0.1"], "names a value twice"),
        (["--sweep", "steps=1,x"], "--sweep steps: invalid literal for int()"),
        (["--sweep", "seed=1,2"], "other than seed"),
        (["--sweep", "kind=tiny,huge"], "--sweep kind: no huge; there are tiny, small"),
        (["--sweep", "flag=True,False"], "takes numbers and names, and flag is neither"),
    ],
)
def test_what_is_refused(
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiny, "Config", Kinds)
    with pytest.raises(SystemExit) as stop:
        cli.main(Kinds, tiny.build, tiny.OPTIONS, ["--workdir", str(tmp_path / "run"), *flags])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_another_number_of_seeds_is_another_run(
    three_seeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        programs.train_tiny(three_seeds, "--seed", 1, "--seeds", 4)
    assert "seeds is 3 there and 4 here" in capsys.readouterr().err


def test_means_and_intervals_are_scipys() -> None:
    rng = np.random.default_rng(0)
    accuracies = rng.uniform(size=6).tolist()
    variants = [{"rate": rate, "seed": seed} for rate in (0.1, 0.2, 0.3) for seed in (0, 1)]
    results = [{"accuracy": x, "count": 10, "split": "test"} for x in accuracies]
    rows = summarise(variants, results)
    assert [(row["rate"], row["seeds"]) for row in rows] == [(0.1, 2), (0.2, 2), (0.3, 2)]
    for row, pair in zip(rows, np.reshape(accuracies, (3, 2)), strict=True):
        low, high = stats.t.interval(0.95, 1, loc=pair.mean(), scale=stats.sem(pair))
        expected = {"mean": pair.mean(), "std": pair.std(ddof=1), "low": low, "high": high}
        assert row["accuracy"] == pytest.approx(expected)
    (one,) = summarise([{}], results[:1])
    assert one["accuracy"] == {"mean": accuracies[0], "std": None, "low": None, "high": None}


def test_curves_are_read_with_all_members(three_seeds: Path, tiny_run: Path) -> None:
    ours, single = read_curves(three_seeds), read_curves(tiny_run)
    assert ours["test"]["accuracy"].shape == (2, 3) and single["test"]["accuracy"].shape == (2, 1)
    assert ours["test"]["step"].tolist() == single["test"]["step"].tolist() == [6, 12]

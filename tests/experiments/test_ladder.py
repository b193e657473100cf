"""The ladder: sizes against the papers' figures, cells against records, the command."""

import json
from pathlib import Path

import pytest

from experiments import ladder

SCRIPTS = {path.stem for path in (Path(__file__).parents[2] / "experiments").glob("*.py")}


def test_every_size_that_a_paper_states_exactly_is_ours():
    exact = 0
    for rung in ladder.RUNGS:
        for ours, published in zip(rung.sizes(), (rung.parameters, rung.connections), strict=True):
            if isinstance(published, int):
                assert ours == published, rung.name
                exact += 1
            elif published:  # "12.11 M"
                millions = published.removesuffix(" M")
                digits = len(millions.partition(".")[2])
                assert abs(ours / 1e6 - float(millions)) < 10**-digits, rung.name
    assert exact >= 5


def test_every_record_is_on_the_ladder_and_made_by_the_script_it_is_named_after():
    named = [result.record for result in ladder.results()]
    assert len(set(named)) == len(named)
    elsewhere = {"faults", "mutations", "reproductions"}  # in docs/reproducing.md
    elsewhere |= {"many_seeds", "time_to_99"}  # in their scripts
    elsewhere |= {"shift-mnist", "shift-imagenette"}  # in docs/shift.md
    speed = ("speed", "speed-growth", "speed-layers")  # in docs/speed.md
    elsewhere |= {"feeding", "checkpointing"} | {
        f"{what}-{on}" for what in speed for on in ("cpu", "gpu")
    }
    assert {path.stem for path in ladder.RECORDS.glob("*.json")} <= set(named) | elsewhere
    for name in named:
        script = name.partition("-")[0]
        assert script in SCRIPTS
        record = ladder.load(name)
        assert record is None or record["experiment"] == script


def test_a_row_says_what_its_record_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ladder, "RECORDS", tmp_path)
    record = {
        "environment": {"platform": "cpu", "device": "cpu", "devices": 2, "cores": 4},
        "count": 2007,
        "runs": [{"accuracy": a, "seconds": s} for a, s in ((0.95, 30), (0.96, 10), (0.955, 20))],
    }
    (tmp_path / "lenet1989_usps.json").write_text(json.dumps(record))
    rows = {row[1]: row for row in ladder.rows()}
    assert all(len(row) == len(ladder.HEADER) for row in rows.values())
    assert rows["LeNet 1989"] == (
        *("1989", "LeNet 1989", "9,760 ✓", "64,660 ✓", "USPS", "5.0 %"),
        *("4.50 % ± 0.50", "3", "0.46", "20 s, 4 cores"),
    )
    assert rows["LeNet-5"][6:] == ("not trained yet", "", "", "")
    short = {row[1]: row for row in ladder.short_rows()}
    assert short["LeNet 1989"] == (
        *("1989", "LeNet 1989", "9,760 ✓", "USPS", "5.0 %", "4.50 % ± 0.50"),
    )
    for run, text in ((0, "20 s"), (1, "30 s"), (2, "resumed, not timed")):
        record["runs"][-1 - run]["seconds"] = None
        (tmp_path / "lenet1989_usps.json").write_text(json.dumps(record))
        assert {row[1]: row for row in ladder.rows()}["LeNet 1989"][-1].startswith(text)


def test_readme_shows_one_result_per_network():
    rows = ladder.short_rows()
    assert [row[1] for row in rows] == [rung.name for rung in ladder.RUNGS]
    assert all(len(row) == len(ladder.SHORT_HEADER) for row in rows)
    for rung, row in zip(ladder.RUNGS, rows, strict=True):
        shown = rung.results[rung.shown]
        assert row[3:5] == (shown.how, shown.published)


def test_errors_of_different_tests_are_marked():
    """A published figure of another test than ours names its own, and ours does too."""
    for result in ladder.results():
        assert ("ImageNet" in result.published) <= bool(result.test), result.record
        assert ("imagenette" in result.record) == bool(result.test), result.record
        record = ladder.load(result.record)
        if record is not None and result.test:
            assert ladder._ours(result)[0].endswith(f" ({result.test})")


@pytest.mark.parametrize(
    ("values", "text"), (([0.0441], "4.41 %"), ([0.01, 0.02], "1.50 % ± 0.71"))
)
def test_percent(values: list[float], text: str):
    assert ladder.percent(values) == text


def test_the_command_prints_every_network(capsys: pytest.CaptureFixture[str]):
    ladder.show()
    out = capsys.readouterr().out
    assert "9,760" in out and all(rung.name in out for rung in ladder.RUNGS)

"""Write the tables of docs/speed.md from the records.

python -m experiments.bench.speed.table
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments import ladder
from experiments.tools.report import markdown

PAGE = Path(__file__).parents[3] / "docs" / "speed.md"
# The place of a record, which may not exist yet: the file's name, the present text, the end mark.
PLACE = re.compile(
    r"(<!-- ((?:speed-[\w-]+|feeding|checkpointing)\.json) -->\n)(.*?)(<!-- end -->)", re.DOTALL
)
MISSING = "No record yet.\n"

Row = tuple[str, ...]


def tables(record: Mapping[str, Any]) -> str:
    """All tables of a record of `experiments.bench.speed`, in Markdown."""
    parts = [speed(record["runs"]), starts(record["runs"])]
    runs = [run for run in record["runs"] if "deterministic" in run["ratio"]]
    parts += [deterministic(runs)] * bool(runs)
    return "\n".join(parts + [loops(record["loops"])] * bool(record["loops"]))


def speed(runs: Iterable[Mapping[str, Any]]) -> str:
    """A line per network and kind of work: throughputs, ratio, share of the matrix product's."""
    head = ("network", "work", "images/s", "PyTorch", "its best variant", "ratio (quartiles)")
    rows: list[Row] = [(*head, "FLOP/s", "of the matrix product's", "PyTorch's share")]
    for run in runs:
        for work, title in (("train", "training step"), ("forward", "forward")):
            flops = run["flops_training" if work == "train" else "flops_forward"]
            ours = run["contestants"]["jax"][work]["median"]
            limit = run["limits"]["gemm_per_second"]
            label, theirs = run["best_peer"].get(work), ("-", "-", "-", "-")
            if label is not None:
                peer = run["contestants"][label][work]["median"]
                between = _ratio(run["ratio"][work])
                share = f"{100 * flops / peer / limit:.1f} %"
                theirs = (_rate(peer), label.replace("_", " "), between, share)
            size = f"{run['batch_size']} × {run['image_size']}²"
            name = f"{run['network']}, {size}, {run['dtype']}"
            own = (f"{flops / ours / 1e9:,.0f} G", f"{100 * flops / ours / limit:.1f} %")
            rows.append((name, title, _rate(ours), *theirs[:3], *own, theirs[3]))
    return markdown(rows)


def _rate(seconds: float) -> str:
    """Examples per second, with at least three digits."""
    return f"{1 / seconds:,.0f}" if seconds < 0.01 else f"{1 / seconds:.1f}"


def _share(part: Mapping[str, float]) -> str:
    """A median and its quartiles, in per cent."""
    low, median, high = (100 * part[end] for end in ("low", "median", "high"))
    return f"{median:.1f} % ({low:.1f} to {high:.1f})"


def starts(runs: Iterable[Mapping[str, Any]]) -> str:
    """A line per network: the cost of the first step, memory, and the limits of the device."""
    head = ("network", "compiling", "PyTorch's", "peak memory", "PyTorch's")
    rows: list[Row] = [(*head, "matrix product", "copying")]
    for run in runs:
        label, own = run["best_peer"].get("train"), run["contestants"]["jax"]
        theirs = ("-", "-")
        if label is not None:
            peer = run["contestants"][label]
            theirs = (_waited(peer), f"{peer['peak_bytes'] / 1e6:,.0f} MB")
        memory = f"{own['peak_bytes'] / 1e6:,.0f} MB"
        limits = (f"{run['limits']['gemm_per_second'] / 1e9:,.0f} GFLOP/s",)
        limits += (f"{run['limits']['copy_per_second'] / 1e9:,.0f} GB/s",)
        rows.append((run["network"], _waited(own), theirs[0], memory, theirs[1], *limits))
    return markdown(rows)


def deterministic(runs: Iterable[Mapping[str, Any]]) -> str:
    """A line per network: its speed with deterministic kernels, and as a share of the usual."""
    rows: list[Row] = [("network", "images/s, deterministic kernels", "of the others' (quartiles)")]
    for run in runs:
        rate = _rate(run["contestants"]["deterministic"]["train"]["median"])
        rows.append((run["network"], rate, _share(run["ratio"]["deterministic"])))
    return markdown(rows)


def loops(rows: Iterable[Mapping[str, Any]]) -> str:
    """A line per loop: images/s of the loop, of its bare steps, and of its input alone."""
    head = ("loop", "batch", "images/s", "bare steps", "share (quartiles)", "input alone")
    lines: list[Row] = [head]
    for row in rows:
        between = _share(row["share"])
        rate = {name: f"{1 / row[name]['median']:,.0f}" for name in ("loop", "bare", "pipeline")}
        measured = (rate["loop"], rate["bare"], between, rate["pipeline"])
        lines.append((row["name"], f"{row['batch_size']}", *measured))
    return markdown(lines)


def filled(text: str) -> str:
    """Fill the tables of all existing records into their places on the page."""

    def fill(place: re.Match[str]) -> str:
        path = ladder.RECORDS / place[2]
        content = MISSING
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            content = OTHERS.get(record["experiment"], tables)(record)
        return place[1] + content + place[4]

    return PLACE.sub(fill, text)


def layers(record: Mapping[str, Any]) -> str:
    """A line per layer: milliseconds for a batch, forward and backward, and the ratio."""
    rows: list[Row] = [("network", "layer", "ms", "PyTorch", "its layout", "ratio (quartiles)")]
    for run in record["runs"]:
        for row in run["layers"]:
            took = {
                k: _milliseconds(run["batch_size"] * s["median"]) for k, s in row["seconds"].items()
            }
            theirs = ("-", "-", "-")
            if (best := row.get("best_peer")) is not None:
                theirs = (took[best], best.replace("_", " "), _ratio(row["ratio"]))
            rows.append(
                (f"{run['network']}, {run['batch_size']}", row["layer"], took["jax"], *theirs)
            )
    return markdown(rows)


def _milliseconds(seconds: float) -> str:
    """Three significant digits, or all digits before the decimal point."""
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:,.0f}"


def _ratio(part: Mapping[str, float]) -> str:
    return f"{part['median']:.2f} ({part['low']:.2f} to {part['high']:.2f})"


def growth(record: Mapping[str, Any]) -> str:
    """Throughput over each sweep, and the estimate for more devices."""
    sweeps: list[Row] = [("grows", "network", "images/s")]
    for sweep in record["sweeps"]:
        points = zip(sweep["values"], sweep["seconds"], strict=True)
        rates = [f"{x:g}: {1 / seconds['median']:,.0f}" for x, seconds in points]
        sweeps.append((sweep["grows"].replace("_", " "), sweep["network"], ", ".join(rates)))
    head = ("devices", "network", "step alone", "gradients", "all-reduce", "efficiency")
    estimate: list[Row] = [head]
    for row in record["estimate"]:
        estimate.append(
            (
                row["devices"],
                row["network"],
                f"{_milliseconds(row['step_seconds'])} ms",
                f"{row['gradient_bytes'] / 1e6:,.1f} MB",
                f"{_milliseconds(row['reduce_seconds'])} ms",
                f"{100 * row['efficiency']:.0f} %",
            )
        )
    return markdown(sweeps) + "\n" + markdown(estimate)


def feeding(record: Mapping[str, Any]) -> str:
    """Images per second of a core by each way of having them, and the seconds of a start."""
    best = record["bare"][record["best"]]
    rates = {f"{name}, from memory": rate for name, rate in record["bare"].items()}
    rates |= {"streamed": record["streamed"], "resident": record["resident"]}
    rows: list[Row] = [("images", "per second of a core", "of the best decoder's")]
    rows += [(name, f"{rate:,.0f}", f"{100 * rate / best:,.0f} %") for name, rate in rates.items()]
    head = ("script", "first step, cold", "of it compiling", "warm", "of it compiling")
    starts: list[Row] = [head]
    for name, seconds in record["start"].items():
        parts = ("cold", "cold_compiling", "warm", "warm_compiling")
        starts.append((name, *(f"{seconds[part]:.1f} s" for part in parts)))
    return markdown(rows) + "\n" + markdown(starts)


def checkpointing(record: Mapping[str, Any]) -> str:
    """The time that checkpoints add, and by how much the memory grew."""
    head = ("steps between checkpoints", "more time (quartiles)", "memory, last two thirds")
    rows: list[Row] = [head]
    for run in record["runs"]:
        low, high = (100 * cost for cost in run["cost_quartiles"])
        cost = f"{100 * run['cost']:.1f} % ({low:.0f} to {high:.0f})"
        grown = f"{run['memory_growth_bytes'] / 1e6:+.1f} of {run['memory_bytes'] / 1e6:,.0f} MB"
        rows.append((f"{run['every']}", cost, grown))
    return markdown(rows)


OTHERS = {  # by the "experiment" of a record
    "bench/speed/growth": growth,
    "bench/speed/layers": layers,
    "bench/feeding": feeding,
    "bench/checkpointing": checkpointing,
}


def _waited(contestant: Mapping[str, Any]) -> str:
    seconds = contestant["first_seconds"] - contestant["call_seconds"]
    return f"{max(0.0, seconds):.1f} s"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

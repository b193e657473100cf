"""Write and show the metrics of a run: metrics.jsonl, timing.jsonl, TensorBoard, progress bar.

`metrics.jsonl` holds only what the laws make repeatable (no clock), so that two runs can be
compared byte for byte; `timing.jsonl` holds the rest.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cnn_jax.atomic_write import atomic_write
from cnn_jax.errors import UserError


@contextlib.contextmanager
def _not_installed(name: str) -> Iterator[None]:
    """Make imports of a package fail inside the block, unless it is imported already."""
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]
    yield
    if hidden:
        del sys.modules[name]


# tensorboardX imports PyTorch if it is installed, which takes seconds, for the name of a type.
with _not_installed("torch"):
    from tensorboardX import SummaryWriter


class Record:
    """Writes and shows one run's metrics. With `quiet` (all processes but one) it does nothing."""

    def __init__(self, folder: Path, step: int, total_steps: int, quiet: bool = False):
        """Open the files of `folder` at `step`, and remove later lines of a run that was killed."""
        self._quiet = quiet
        self._compiled: set[int] = set()  # lengths of dispatches
        self._since: tuple[float, int] | None = None  # when, and at which step, the clock started
        if quiet:
            return
        self._console = Console()
        self._metrics = folder / "metrics.jsonl"
        self._timing = folder / "timing.jsonl"
        for path in (self._metrics, self._timing):
            _cut_after(path, step)
        self._tensorboard = SummaryWriter(
            str(folder / "tensorboard"),
            purge_step=step + 1,
            filename_suffix=f".{step}",  # two starts in one second write two files
        )
        self._progress = Progress(
            BarColumn(bar_width=10),  # narrow, so that all fits a terminal of 80 columns
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("step", total=total_steps, completed=step, shown="")
        self._total = total_steps
        self._opened = time.perf_counter()
        self._progress.start()

    def say(self, text: str) -> None:
        """Print one line above the progress bar."""
        if not self._quiet:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    @contextlib.contextmanager
    def dispatch(self, start: int, stop: int) -> Iterator[None]:
        """Move the progress bar on when the block, which computes steps `[start, stop)`, ends.

        The first dispatch of a length is compiled in the block: that is kept out of images/s.
        """
        is_new = stop - start not in self._compiled
        self._compiled.add(stop - start)
        with self.clock_stopped() if is_new else contextlib.nullcontext():
            yield
        if not self._quiet:
            self._progress.update(self._task, completed=stop)
            if self._since is None:
                self._since = (time.perf_counter(), stop)

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Keep the time that the block takes out of images/s."""
        before = time.perf_counter()
        yield
        if not self._quiet and self._since is not None:
            self._since = (self._since[0] + time.perf_counter() - before, self._since[1])

    def training(self, step: int, metrics: Mapping[str, Any], examples: int) -> None:
        """Write the means over the steps since the last call, and the speed.

        Args:
            examples: the number of them in a step.
        """
        if self._quiet:
            return
        self._write(step, "train", metrics)
        speed = left = ""
        now, (since, first) = time.perf_counter(), self._since or (0.0, step)
        if step > first:
            seconds = (now - since) / (step - first)  # per step
            rate = examples / seconds
            line = {"step": step, "seconds": now - self._opened, "images_per_second": rate}
            _append(self._timing, line)
            self._tensorboard.add_scalar("train/images_per_second", rate, step)
            speed = f"  {rate:,.0f} images/s"
            left = f"  {_clock(seconds * (self._total - step))} left"
        self._since = (now, step)
        self._progress.update(self._task, completed=step, shown=shown(metrics, 2) + speed)
        if self._progress.disable:
            self.say(f"step {step}/{self._total}  {shown(metrics)}{speed}{left}")

    def evaluation(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of an evaluation."""
        if not self._quiet:
            self._write(step, split, metrics)
            self.say(f"step {step}/{self._total}  {split}: {shown(metrics)}")

    def flush(self) -> None:
        """Write TensorBoard's events to the disk; the other files are never behind."""
        if not self._quiet:
            self._tensorboard.flush()

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._quiet:
            self._progress.stop()
            self._tensorboard.close()

    def _write(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
        _append(self._metrics, {"step": step, "split": split, **metrics})
        for name, value in metrics.items():
            if name != "members":
                self._tensorboard.add_scalar(f"{split}/{name}", value, step)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    with atomic_write(path) as file:
        file.write(f"{json.dumps(content, indent=2)}\n".encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a .jsonl file, without a last line that a kill cut short."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def read_curves(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read a run's metrics: {split: {"step": [n], metric: [n, M]}}, where M is its members or 1.

    Raises:
        UserError: there are none.
    """
    curves: dict[str, dict[str, list[Any]]] = {}
    for line in read_lines(folder / "metrics.jsonl"):
        members = line.pop("members", {})
        split = curves.setdefault(line.pop("split"), {})
        line.pop("count", None)
        for name, value in line.items():
            split.setdefault(name, []).append(
                value if name == "step" else members.get(name, [value])
            )
    if not curves:
        raise UserError(f"{folder} has no metrics: it is not a run folder, or has just begun")
    return {s: {n: np.array(v) for n, v in names.items()} for s, names in curves.items()}


def last_step(folder: Path) -> int:
    """The last step in a run's metrics, 0 if there are none."""
    return max((line["step"] for line in read_lines(folder / "metrics.jsonl")), default=0)


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _cut_after(path: Path, step: int) -> None:
    if path.exists():
        kept = [json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= step]
        with atomic_write(path) as file:
            file.write("".join(kept).encode())


def shown(metrics: Mapping[str, Any], most: int | None = None) -> str:
    """Format the first metrics as one line; for several trainings, as mean and deviation."""
    members = metrics.get("members", {})
    with np.errstate(invalid="ignore"):  # one that diverged does not end the others
        spread = {k: f" ± {np.std(v, ddof=1):.4f}" for k, v in members.items() if len(v) > 1}
    names = [name for name in metrics if name not in ("count", "members")][:most]
    return "  ".join(f"{name} {metrics[name]:.4f}{spread.get(name, '')}" for name in names)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

"""Write and show the metrics of a run: metrics.jsonl, timing.jsonl, TensorBoard, progress bar.

`metrics.jsonl` holds only what the laws make repeatable (no clock), so that two runs can be
compared byte for byte; `timing.jsonl` holds the rest. A checkpoint keeps a copy of the first, from
which a resumed run goes on: what became of the file in the meantime does not matter.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cnn_jax.atomic_write import atomic_write
from cnn_jax.errors import UserError, warn
from cnn_jax.errors.machine_limits import unreadable
from cnn_jax.errors.wording import brief, message


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

    def __init__(
        self,
        folder: Path,
        step: int,
        total_steps: int,
        quiet: bool = False,
        metrics_jsonl: str = "",
    ):
        """Open the files of `folder` at `step`, and remove later lines of a run that was killed.

        Args:
            metrics_jsonl: the lines of that file up to `step`.
        """
        self._quiet = quiet
        self.metrics_jsonl = ""  # the lines so far
        self._compiled: set[int] = set()  # lengths of dispatches
        self._since: tuple[float, int] | None = None  # when, and at which step, the clock started
        if quiet:
            return
        self._console = Console()
        self._metrics = folder / "metrics.jsonl"
        self._timing = folder / "timing.jsonl"
        self.metrics_jsonl = metrics_jsonl
        _put_back(self._metrics, metrics_jsonl)
        _cut_after(self._timing, step)
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
            _append(self._timing, json.dumps(line) + "\n")
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
        """Return when the lines so far are on the disk, so that a power cut cannot take them."""
        if not self._quiet:
            self._check_folder()
            self._tensorboard.flush()
            if self._metrics.exists():
                with self._metrics.open("rb") as file:
                    os.fsync(file.fileno())

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._quiet:
            self._progress.stop()
            self._tensorboard.close()

    def _check_folder(self) -> None:
        """Refuse to go on in a folder that was removed, which Orbax would make anew."""
        if not Path(self._tensorboard.logdir).is_dir():
            raise UserError(
                f"{self._metrics.parent} was removed while the run trained in it: the same command "
                "starts again"
            )

    def _write(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
        self._check_folder()
        line = json.dumps({"step": step, "split": split, **metrics}) + "\n"
        self.metrics_jsonl += line
        _append(self._metrics, line)
        for name, value in metrics.items():
            if name != "members":
                self._tensorboard.add_scalar(f"{split}/{name}", value, step)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a .jsonl file, without a last line that a kill cut short.

    Raises:
        UserError: a line is damaged, or the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        content = [json.loads(line) for line in lines]
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {message(error)}") from error
    for number, line in enumerate(content, 1):
        if not (isinstance(line, dict) and "step" in line and all(map(_fits, line, line.values()))):
            raise UserError(f"{path} is damaged: line {number} is {brief(line)}")
    return content


def _fits(name: str, value: Any) -> bool:
    """Whether a value is of the kind that a line of metrics has under that name."""
    if name == "split":
        return isinstance(value, str)
    if name == "members":
        lists = value.values() if isinstance(value, dict) else [None]
        return all(isinstance(x, list) and all(_fits("", v) for v in x) for x in lists)
    return isinstance(value, int if name == "step" else int | float) and value is not True


def read_curves(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read a run's metrics: {split: {"step": [n], metric: [n, M]}}, where M is its members or 1.

    Raises:
        UserError: there are none.
    """
    curves: dict[str, dict[str, list[Any]]] = {}
    for line in read_lines(folder / "metrics.jsonl"):
        members = line.pop("members", {})
        split = curves.setdefault(line.pop("split", ""), {})
        line.pop("count", None)
        for name, value in line.items():
            split.setdefault(name, []).append(
                value if name == "step" else members.get(name, [value])
            )
    if not curves:
        raise UserError(f"{folder} has no metrics: it is not a run folder, or has just begun")
    unequal = UserError(f"{folder / 'metrics.jsonl'} is damaged: lines have different metrics")
    try:
        arrays = {s: {n: np.array(v) for n, v in names.items()} for s, names in curves.items()}
    except ValueError as error:  # members of different numbers
        raise unequal from error
    if any(len(v) != len(split["step"]) for split in arrays.values() for v in split.values()):
        raise unequal
    return arrays


def last_step(folder: Path) -> int:
    """The last step in a run's metrics, 0 if there are none."""
    return max((line["step"] for line in read_lines(folder / "metrics.jsonl")), default=0)


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


def _put_back(path: Path, text: str) -> None:
    """Make `text` the content of a file, with a word if the file did not begin like that."""
    before = path.read_bytes() if path.exists() else b""
    if not before.startswith(text.encode()):
        warn(f"{path} was not as the run had left it: its lines are taken from the checkpoint")
    if before != text.encode():
        with atomic_write(path) as file:
            file.write(text.encode())


def _cut_after(path: Path, step: int) -> None:
    """Remove the lines after `step`, and damaged ones, of a file that nothing depends on."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
    with atomic_write(path) as file:
        file.write(b"".join(kept))


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

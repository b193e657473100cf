"""Test the resume law on an experiment: train it straight and again with kills, and compare.

Both runs share a compilation cache in the scratch folder, which the straight run fills, so that a
restart takes seconds.
"""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax import runs
from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import check_range
from cnn_jax.runs.arrays import to_stored
from cnn_jax.runs.journal import last_step
from cnn_jax.runs.json_files import read_json
from cnn_jax.trained import restore

Say = Callable[[str], object]


@dataclass(frozen=True)
class Verdict:
    """The result of the comparison."""

    kills: int  # that hit a living process
    kills_while_saving: int  # how many of those hit it while it wrote a checkpoint
    steps: int
    differing: list[str]  # names of arrays, files and figures that are not the same, bit for bit

    @property
    def identical(self) -> bool:
        return not self.differing


def verify_resume(
    script: Path,
    arguments: Sequence[str],
    kills: int,
    scratch: Path,
    seed: int = 0,
    say: Say = print,
) -> Verdict:
    """Train `script` with `arguments` in `scratch`/straight, and with SIGKILLs in `scratch`/killed.

    The kills fall at random instants spread over the run; every second one waits until a checkpoint
    is being written.

    Args:
        scratch: an empty or new folder.
        seed: decides the instants.

    Raises:
        UserError: `scratch` is not empty, the script fails, or it ends before it was killed `kills`
            times.
    """
    check_range("--kills", kills, least=0, most=1000)
    straight, killed = scratch / "straight", scratch / "killed"
    if scratch.exists() and any(scratch.iterdir()):
        raise UserError(f"{scratch} is not empty: choose another --scratch")
    say(f"training straight through in {straight}")
    train_straight(script, arguments, straight)
    random = np.random.default_rng(seed)
    between, saving = train_with_kills(script, arguments, kills, killed, straight, random)
    say(f"killed {between + saving} times, {saving} of them while saving; comparing")
    return Verdict(between + saving, saving, _result(straight)["step"], differing(straight, killed))


def train_straight(script: Path, arguments: Sequence[str], folder: Path) -> None:
    """Train in `folder` from beginning to end. Raises UserError if the script fails."""
    _finish(_start(script, arguments, folder), script, folder)
    if not (folder / "result.json").exists():
        raise UserError(
            "there is no final result to compare: leave out --stop-at, and a sweep whose trainings "
            "are made one after the other"
        )


def train_with_kills(
    script: Path,
    arguments: Sequence[str],
    kills: int,
    folder: Path,
    straight: Path,
    random: np.random.Generator,
) -> tuple[int, int]:
    """Train in `folder`, kill the process `kills` times at random instants, and let it finish.

    Returns:
        how many kills fell between checkpoints, and how many while one was being written.

    Raises:
        UserError: the run ended before it was killed `kills` times, or it fails.
    """
    steps = _result(straight)["step"]
    counts = [0, 0]
    # Up to 0.9, since a run that has ended cannot be killed.
    for number, share in enumerate(np.sort(random.uniform(0, 0.9, kills))):
        started = time.time()
        process = _start(script, arguments, folder)
        # Only what this process writes counts: files of the killed ones are still there.
        while process.poll() is None and not (
            _written(folder / "metrics.jsonl", started)
            and max(_saved(folder), last_step(folder)) >= share * steps
        ):
            time.sleep(0.002)
        saving = number % 2 == 1
        if saving:  # kill at a random moment of the next save
            while process.poll() is None and not _saving(folder, started):
                time.sleep(0.0005)
        time.sleep(random.uniform(0, 0.03 if saving else 0.3))
        process.kill()
        if process.wait() != -9:
            _check(process.returncode, script, folder)
            raise UserError(
                f"the run was over after {sum(counts)} of {kills} kills: give it more steps and "
                "more checkpoints"
            )
        counts[_saving(folder, started)] += 1  # if the folder is still there, it was being written
    _finish(_start(script, arguments, folder), script, folder)
    return counts[0], counts[1]


def differing(one: Path, other: Path) -> list[str]:
    """The names of files and of arrays of the last checkpoint in which two runs differ."""
    states = [_by_name(restore(folder).state) for folder in (one, other)]
    names = [n for n in {**states[0], **states[1]} if states[0].get(n) != states[1].get(n)]
    metrics = [(folder / "metrics.jsonl").read_bytes() for folder in (one, other)]
    names += ["metrics.jsonl"] * (metrics[0] != metrics[1])
    results = [_result(folder) for folder in (one, other)]
    for result in results:
        del result["seconds"], result["resumed_from"]
    return names + ["result.json"] * (results[0] != results[1])


def _result(folder: Path) -> dict[str, Any]:
    """The content of a finished run's result.json."""
    return read_json(folder / "result.json", {"step": int})


def _by_name(state: Any) -> dict[str, bytes]:
    leaves = jax.tree_util.tree_leaves_with_path(to_stored(state))
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def _saved(folder: Path) -> int:
    """The newest step that has a checkpoint, 0 if none has."""
    names = [path.name for path in folder.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _saving(folder: Path, since: float) -> bool:
    """Whether a process that started at `since` is writing a checkpoint into Orbax's -tmp folder.

    Such folders of killed processes stay until the same step is saved again.
    """
    return any(_written(path, since) for path in folder.glob("checkpoints/*-tmp"))


def _written(path: Path, since: float) -> bool:
    """Whether a file or folder exists and was written after `since`."""
    try:
        return path.stat().st_mtime > since
    except FileNotFoundError:  # or it was renamed in the meantime
        return False


def _start(script: Path, arguments: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    log = _log(folder)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        return subprocess.Popen(
            [*runs.command(script, arguments), "--workdir", str(folder)],
            env={**os.environ, **runs.search_path(), **cache},
            stdout=file,
            stderr=file,
            encoding="utf-8",
        )


def _finish(process: subprocess.Popen[str], script: Path, folder: Path) -> None:
    _check(process.wait(), script, folder)


def _check(code: int, script: Path, folder: Path) -> None:
    if code:
        lines = _log(folder).read_text(encoding="utf-8").splitlines()
        last = lines[-1] if lines else f"its log, {_log(folder)}, is empty"
        raise UserError(f"{script} ended with exit code {code}: {last}")


def _log(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.log"

"""Prove the resume law on an experiment: train it straight, and again with kills, and compare.

Both runs share a compilation cache in the scratch folder, so that a restart costs seconds; the
straight run fills it.
"""

import json
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
from cnn_jax.runs.journal import last_step
from cnn_jax.trained import restore

Say = Callable[[str], object]


@dataclass(frozen=True)
class Verdict:
    """What came of the comparison; `differing` names what is not the same, bit for bit."""

    kills: int  # that hit a living process
    kills_while_saving: int  # of those, while a checkpoint was being written
    steps: int
    differing: list[str]

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
    """Train `script` with `arguments` in `scratch`/straight, and in `scratch`/killed with SIGKILLs.

    The instants are random, spread over the run; every second one waits for a checkpoint that is
    being written.

    Args:
        scratch: an empty or new folder.
        seed: of the instants.

    Raises:
        UserError: `scratch` is not empty, the script fails, or it is over before it could be killed
            `kills` times.
    """
    if kills < 0:
        raise UserError(f"--kills must be at least 0, got {kills}")
    straight, killed = scratch / "straight", scratch / "killed"
    if scratch.exists() and any(scratch.iterdir()):
        raise UserError(f"{scratch} is not empty: choose another --scratch")
    say(f"training straight through in {straight}")
    train_straight(script, arguments, straight)
    found = train_with_kills(
        script, arguments, kills, killed, straight, np.random.default_rng(seed)
    )
    say(f"killed {sum(found)} times, {found[1]} of them while saving; comparing")
    steps = json.loads((straight / "result.json").read_text())["step"]
    return Verdict(sum(found), found[1], steps, differing(straight, killed))


def train_straight(script: Path, arguments: Sequence[str], folder: Path) -> None:
    """Train in `folder` from beginning to end. Raises UserError if the script fails."""
    _finish(_start(script, arguments, folder), script)
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
    """Train in `folder`, killed `kills` times at random instants, and to the end at last.

    Returns:
        how many kills fell between checkpoints and while one was being written.

    Raises:
        UserError: the run was over before so many kills, or it fails.
    """
    steps = json.loads((straight / "result.json").read_text())["step"]
    counts = [0, 0]
    # Not at the very end: a run that is over cannot be killed.
    for number, share in enumerate(np.sort(random.uniform(0, 0.9, kills))):
        started = time.time()
        process = _start(script, arguments, folder)
        # What an earlier kill left lies there still: only what this process writes counts.
        while process.poll() is None and not (
            _written(folder / "metrics.jsonl", started)
            and max(_saved(folder), last_step(folder)) >= share * steps
        ):
            time.sleep(0.002)
        saving = number % 2 == 1
        if saving:  # at a random moment of the first save from now on
            while process.poll() is None and not _saving(folder, started):
                time.sleep(0.0005)
        time.sleep(random.uniform(0, 0.03 if saving else 0.3))
        process.kill()
        if process.wait() != -9:
            _check(process.returncode, script)
            raise UserError(
                f"the run was over after {sum(counts)} of {kills} kills: give it more steps, and "
                "more checkpoints"
            )
        counts[_saving(folder, started)] += 1  # a folder that is still there was being written
    _finish(_start(script, arguments, folder), script)
    return counts[0], counts[1]


def differing(one: Path, other: Path) -> list[str]:
    """Names of arrays of the last checkpoint, files and figures in which two runs differ."""
    states = [_by_name(restore(folder).state) for folder in (one, other)]
    names = [n for n in {**states[0], **states[1]} if states[0].get(n) != states[1].get(n)]
    metrics = [(folder / "metrics.jsonl").read_bytes() for folder in (one, other)]
    names += ["metrics.jsonl"] * (metrics[0] != metrics[1])
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    for result in results:
        del result["seconds"], result["resumed_from"]
    return names + ["result.json"] * (results[0] != results[1])


def _by_name(state: Any) -> dict[str, bytes]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def _saved(folder: Path) -> int:
    """The newest step that has a checkpoint."""
    names = [path.name for path in folder.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _saving(folder: Path, since: float) -> bool:
    """Whether a process that started at `since` is writing a checkpoint: Orbax's folder is there.

    Those of processes that were killed stay, until the same step is saved again.
    """
    return any(_written(path, since) for path in folder.glob("checkpoints/*-tmp"))


def _written(path: Path, since: float) -> bool:
    try:
        return path.stat().st_mtime > since
    except FileNotFoundError:  # renamed meanwhile
        return False


def _start(script: Path, arguments: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    log = folder.parent / f"{folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        return subprocess.Popen(
            [*runs.command(script, arguments), "--workdir", str(folder)],
            env={**os.environ, **runs.search_path(), **cache},
            stdout=file,
            stderr=file,
            text=True,
        )


def _finish(process: subprocess.Popen[str], script: Path) -> None:
    _check(process.wait(), script)


def _check(code: int, script: Path) -> None:
    if code:
        raise UserError(f"{script} ended with exit code {code}: its log is in the scratch folder")

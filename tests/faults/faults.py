"""Kill runs and damage checkpoints, hundreds of times, and count how each ends.

    python tests/faults/faults.py --out experiments/results/faults.json
    python tests/faults/faults.py --table experiments/results/faults.json

Runs LeNet-5 on digits, 240 steps with a checkpoint every 10, on the CPU.
"""

import multiprocessing
import os
import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from cnn_jax import runs  # noqa: E402
from cnn_jax.check.resume import differing, train_straight, train_with_kills  # noqa: E402
from cnn_jax.errors import UserError  # noqa: E402
from cnn_jax.runs.checkpoint import Checkpoints, quieten_orbax  # noqa: E402
from cnn_jax.step import init_state  # noqa: E402

SCRIPT = ROOT / "experiments" / "lenet5_digits.py"
FLAGS = ["--epochs", "10.7", "--log-every", "10", "--checkpoint-every", "10", "--eval-every", "60"]
KILLS_PER_RUN = 25
GOOD = ("harmless", "said, and the one before used", "refused")  # the outcomes allowed
DAMAGES = ("a flipped bit", "16 bytes of zeros", "cut short", "missing")


def kill(kills: int, scratch: Path) -> list[dict[str, Any]]:
    """Kill runs of four settings `kills` times in all, and return a row for each setting."""
    rows = []
    settings = [(feed, devices) for feed in ("resident", "stream") for devices in (1, 2)]
    for number, (feed, devices) in enumerate(settings):
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        flags, folder = [*FLAGS, "--feed", feed], scratch / f"{feed}-{devices}"
        train_straight(SCRIPT, flags, folder / "straight")
        row = {"feed": feed, "devices": devices, "runs": 0, "kills": 0, "while_saving": 0}
        row |= {"identical": 0, "differing": [], "damaged": 0}
        left = kills * (number + 1) // 4 - kills * number // 4
        while left:
            killed, kills_now = folder / f"killed-{row['runs']}", min(left, KILLS_PER_RUN)
            random = np.random.default_rng([number, row["runs"]])
            between, saving = train_with_kills(
                SCRIPT, flags, kills_now, killed, folder / "straight", random
            )
            names = differing(folder / "straight", killed)
            row["runs"] += 1
            row["kills"] += between + saving
            row["while_saving"] += saving
            row["identical"] += not names
            row["differing"] += names
            row["damaged"] += len(list(killed.glob("damaged/*")))
            left -= kills_now
            print(f"{feed}, {devices} devices: {row['kills']} kills, differing {names}", flush=True)
        rows.append(row)
    return rows


def damage(count: int, scratch: Path) -> list[dict[str, Any]]:
    """Damage `count` copies of a checkpoint, in a pool of processes; a row for each damage."""
    os.environ["XLA_FLAGS"] = ""
    run = scratch / "whole"
    train_straight(SCRIPT, FLAGS, run)
    rows: dict[str, Counter[str]] = {kind: Counter() for kind in DAMAGES}
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), quieten_orbax) as pool:
        trials = [
            pool.apply_async(partial(_damaged, run, scratch, number)) for number in range(count)
        ]
        for trial in trials:
            kind, outcome = trial.get(timeout=120)  # a reader that hangs ends the program here
            rows[kind][outcome] += 1
    return [{"damage": kind, **outcomes} for kind, outcomes in rows.items()]


def _damaged(run: Path, scratch: Path, number: int) -> tuple[str, str]:
    """Damage one file of the newest checkpoint, or remove it, and restore the newest whole one."""
    logging.set_verbosity(logging.FATAL)
    random = np.random.default_rng(number)
    folder = scratch / f"damaged-{number}"
    shutil.copytree(run / "checkpoints", folder)
    build, config, data_dir = runs.load(run)
    like = jax.eval_shape(lambda: init_state(build(config, data_dir)))
    whole = Checkpoints(run / "checkpoints", read_only=True)
    newest = whole.steps()[-1]
    kind = DAMAGES[number % len(DAMAGES)]
    files = sorted(path for path in (folder / str(newest)).rglob("*") if path.is_file())
    _spoil(kind, files[random.integers(len(files))], random)
    said: list[str] = []
    try:
        with Checkpoints(folder) as checkpoints:
            newest_whole = checkpoints.restore_newest(like, said.append, folder / "damaged")
    except UserError:
        return kind, "refused"
    if newest_whole is None:
        return kind, "silently forgotten"
    step, state = newest_whole
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(whole.restore(step, like)), strict=True)
    if not all(a.tobytes() == b.tobytes() for a, b in pairs):
        return kind, "wrong parameters"
    if step == newest:
        return kind, "harmless"
    return kind, "said, and the one before used" if said else "unsaid"


def _spoil(kind: str, path: Path, random: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    place = int(random.integers(max(1, len(content))))
    if kind == "missing":
        path.unlink()
        return
    if kind == "cut short":
        del content[place:]
    elif kind == "16 bytes of zeros":
        content[place : place + 16] = bytes(len(content[place : place + 16]))
    elif content:
        content[place] ^= 1 << int(random.integers(8))
    path.write_bytes(content)


def table(record: dict[str, Any]) -> str:
    """The record in Markdown."""
    lines = [
        "| feed | devices | kills | of these while saving | runs | ended bit-identical | damaged |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in record["kills"]:
        cells = ("feed", "devices", "kills", "while_saving", "runs", "identical", "damaged")
        lines.append("| " + " | ".join(str(row[name]) for name in cells) + " |")
    outcomes = (*GOOD, "wrong parameters")
    lines += ["", f"| damage | {' | '.join(outcomes)} |", "| --- " * 5 + "|"]
    for row in record["damages"]:
        cells = (row["damage"], *(str(row.get(name, 0)) for name in outcomes))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def run(scratch: Path, kills: int, damages: int) -> dict[str, Any]:
    """Damage checkpoints, then kill runs."""
    return {"damages": damage(damages, scratch), "kills": kill(kills, scratch)}


if __name__ == "__main__":
    import recording  # beside this file, where Python looks first

    recording.main(__doc__ or "", "faults", {"kills": 200, "damages": 400}, run, table)

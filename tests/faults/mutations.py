"""Change every file of a run, of its dataset and of the caches, and count what comes of it.

    python tests/faults/mutations.py --out experiments/results/mutations.json
    python tests/faults/mutations.py --table experiments/results/mutations.json

The run is LeNet-5 on digits, 45 steps with a checkpoint every 15, on the CPU. Each trial changes
one file of a copy: of a finished run, which is then evaluated and reproduced; of a run stopped at
step 30, which is then resumed; of the dataset, on which the run is then evaluated, and resumed; or
of the cache of compiled programs. What comes out is compared with what an untouched copy gives.
"""

import contextlib
import io
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from cnn_jax import cli  # noqa: E402
from cnn_jax.check.reproduce import reproduce  # noqa: E402
from cnn_jax.errors import UserError  # noqa: E402
from cnn_jax.evaluate.exact import evaluate_run  # noqa: E402
from cnn_jax.runs.checkpoint import quieten_orbax  # noqa: E402
from experiments import lenet5_digits  # noqa: E402

FLAGS = ["--epochs", "2", "--log-every", "10", "--checkpoint-every", "15", "--eval-every", "15"]
FLAGS += ["--steps-per-dispatch", "5"]
OUTCOMES = ("no difference", "said", "refused", "silently wrong", "traceback")


def flip(content: bytearray, random: np.random.Generator) -> bytes:
    place = int(random.integers(len(content)))
    content[place] ^= 1 << int(random.integers(8))
    return bytes(content)


def zeros(content: bytearray, random: np.random.Generator) -> bytes:
    place = int(random.integers(len(content)))
    content[place : place + 16] = bytes(len(content[place : place + 16]))
    return bytes(content)


def cut(content: bytearray, random: np.random.Generator) -> bytes:
    return bytes(content[: int(random.integers(len(content)))])


def digit(content: bytearray, random: np.random.Generator) -> bytes:
    places = [match.start() for match in re.finditer(rb"\d", content)]
    if not places:
        return flip(content, random)
    place = places[int(random.integers(len(places)))]
    content[place] = ord("0") + (content[place] - ord("0") + int(random.integers(1, 10))) % 10
    return bytes(content)


def line(content: bytearray, random: np.random.Generator) -> bytes:
    lines = bytes(content).splitlines(keepends=True)
    del lines[int(random.integers(len(lines)))]
    return b"".join(lines)


KINDS: dict[str, Callable[[bytearray, np.random.Generator], bytes] | None] = {
    "a flipped bit": flip,
    "another digit": digit,
    "16 bytes of zeros": zeros,
    "a lost line": line,
    "cut short": cut,
    "missing": None,
}


def mutate(kind: str, path: Path, random: np.random.Generator) -> None:
    """Change one file; one of the same size keeps its time, as on a disk that forgets."""
    change = KINDS[kind]
    content, status = path.read_bytes(), path.stat()
    if change is None or not content:
        path.unlink()
        return
    path.write_bytes(change(bytearray(content), random))
    if path.stat().st_size == status.st_size and random.integers(2):
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def train(folder: Path, data: Path, *flags: str) -> None:
    """Train in this process, or go on."""
    arguments = [*FLAGS, "--workdir", str(folder), "--data-dir", str(data), *flags]
    cli.main(lenet5_digits.Config, lenet5_digits.build, arguments=arguments)


def look(folder: Path, data: Path) -> dict[str, Any]:
    """The figures of a run, of all its data, and what reproduce makes of it."""
    figures = evaluate_run(folder, data_dir=data), evaluate_run(folder, "train", data_dir=data)
    (comparison,) = reproduce(folder, data_dir=data)
    if not comparison.matches:
        print("reproduce says mismatch", file=sys.stderr)
    return {"figures": [{**f, "run": ""} for f in figures]}


def go_on(folder: Path, data: Path) -> dict[str, Any]:
    """What a stopped run ends with."""
    train(folder, data)
    result = json.loads((folder / "result.json").read_text())
    del result["seconds"], result["resumed_from"]
    return {"result": result, "metrics": (folder / "metrics.jsonl").read_text()}


def trial(
    case: tuple[str, Path, Callable[[Path, Path], dict[str, Any]]],
    clean: Path,
    expected: dict[str, Any],
    kind: str,
    number: int,
) -> tuple[str, str, str, str]:
    """Change one file of a copy and use it: (part, kind of change, outcome, the file and why)."""
    part, relative, use = case
    random = np.random.default_rng([number, list(KINDS).index(kind)])
    os.environ["XDG_STATE_HOME"] = str(clean / "state")
    said, outcome, why = io.StringIO(), "no difference", ""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "copy"
        shutil.copytree(clean, place)  # which keeps times
        mutate(kind, place / relative, random)
        own_cache = part == "compiled programs"
        _compile_into(place / "compiled" if own_cache else clean / "compiled")
        run = "ended" if use is look else "stopped"
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                actual = use(place / run, place / "data")
        except (UserError, SystemExit) as error:
            code = error.code if isinstance(error, SystemExit) else 2
            outcome, why = ("refused" if code == 2 else "traceback"), f"{error} {said.getvalue()}"
        except BaseException as error:
            outcome, why = "traceback", f"{type(error).__name__}: {error}"
        else:
            why = said.getvalue()
            if actual != expected[part]:
                outcome = "silently wrong"
            if re.search("warning: (?!since)|mismatch|damaged", why):
                outcome = "said"
    return part, kind, outcome, f"{relative}: {' '.join(why.split())[-300:]}"


def prepare(clean: Path) -> None:
    """A finished run, one stopped at step 30, their dataset and their compiled programs."""
    os.environ["XDG_STATE_HOME"] = str(clean / "state")
    _compile_into(clean / "compiled")
    train(clean / "ended", clean / "data")
    train(clean / "stopped", clean / "data", "--stop-at", "30")
    look(clean / "ended", clean / "data")  # so that all that it derives is there


def _compile_into(folder: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # which keeps the folder that it was first used with


def cases(clean: Path) -> list[tuple[str, Path, Callable[[Path, Path], dict[str, Any]]]]:
    """Every file that is to be changed, the part it belongs to, and what is then done."""

    def files(folder: str) -> list[Path]:
        paths = sorted(p for p in (clean / folder).rglob("*") if p.is_file())
        return [path.relative_to(clean) for path in paths if path.name != ".lock"]

    return [
        *(("a finished run", path, look) for path in files("ended")),
        *(("a stopped run", path, go_on) for path in files("stopped")),
        *(("a dataset, evaluated on", path, look) for path in files("data")),
        *(("a dataset, trained on", path, go_on) for path in files("data")),
        *(("compiled programs", path, go_on) for path in files("compiled")[:20]),
    ]


def run(scratch: Path, count: int) -> dict[str, Any]:
    """Make `count` trials, spread evenly over the parts, in a pool of processes."""
    clean = scratch / "clean"
    prepare(clean)
    expected: dict[str, Any] = {}
    parts: dict[str, list[Any]] = {}
    for case in cases(clean):
        parts.setdefault(case[0], []).append(case)
    for part, (first, *_) in parts.items():
        copy = Path(shutil.copytree(clean, scratch / f"expected-{len(expected)}"))
        name = "ended" if first[2] is look else "stopped"
        with contextlib.redirect_stdout(io.StringIO()):
            expected[part] = first[2](copy / name, copy / "data")
    outcomes: dict[tuple[str, str], Counter[str]] = {}
    notable: list[str] = []
    # Each trial compiles, and a process can map only so many compiled programs.
    context = multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count(), quieten_orbax, maxtasksperchild=20) as pool:
        waiting = []
        for number, (files, share) in enumerate(zip(parts.values(), _shares(count), strict=True)):
            random = np.random.default_rng(number)
            trials = [(case, kind) for case in files for kind in KINDS]
            for index in random.permutation(len(trials))[:share]:
                call = partial(trial, trials[index][0], clean, expected, trials[index][1])
                waiting.append(pool.apply_async(call, (int(index),)))
        for done, result in enumerate(waiting):
            print(f"{done} of {len(waiting)}", end="\r", file=sys.stderr, flush=True)
            part, kind, outcome, what = result.get(timeout=300)  # one that hangs ends it here
            outcomes.setdefault((part, kind), Counter())[outcome] += 1
            if outcome in OUTCOMES[3:]:
                notable.append(f"{part}, {kind}, {outcome}: {what}".replace(str(scratch), ""))
                print(notable[-1], flush=True)
    rows = [{"part": p, "change": k, **counts} for (p, k), counts in sorted(outcomes.items())]
    return {"trials": rows, "notable": notable}


def _shares(count: int) -> list[int]:
    """How many trials each of the five parts has: the runs two shares each, the others one."""
    return [count * weight // 7 for weight in (2, 2, 1, 1, 1)]


def table(record: dict[str, Any]) -> str:
    """The record in Markdown: a row for each part, a column for each outcome."""
    parts: dict[str, Counter[str]] = {}
    for row in record["trials"]:
        counts = parts.setdefault(row["part"], Counter())
        counts.update({name: row[name] for name in OUTCOMES if name in row})
    lines = [f"| one file changed in | {' | '.join(OUTCOMES)} |", "| --- " * 6 + "|"]
    for part, counts in parts.items():
        lines.append(f"| {part} | {' | '.join(str(counts[name]) for name in OUTCOMES)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import recording  # beside this file, where Python looks first

    recording.main(__doc__ or "", "mutations", {"count": 400}, run, table)

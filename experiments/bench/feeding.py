"""Time decoding and feeding photographs, and the time from a start to the first step of a run.

    python -m experiments.bench.feeding --out feeding.json

The results are in docs/speed.md.

Rates are images per second of processor time over all threads, so of one core. Each installed
decoder decodes the stored JPEGs from memory, one after the other; the streamed feed also reads and
parses them and lays them out in batches. They take turns, and the median of each is recorded. The
resident feed gathers from the array that was decoded once, raw bytes of a fixed size. A start lasts
from the beginning of the process to the end of its first block of steps; it is timed without
compiled programs from earlier starts, then with them.
"""

import dataclasses
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from cnn_jax.data import Dataset, batch_indices, load_dataset, load_resident, stream
from cnn_jax.data.records import encoded
from cnn_jax.devices.process import keep_freed_memory
from experiments.tools.report import program

ROOT = Path(__file__).parents[2]
Decoder = Callable[[bytes], np.ndarray]

STARTS = {
    "lenet5_mnist": (),
    "alexnet2014_imagenette": ("--feed", "stream", "--width", "0.25", "--image-size", "96"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    dataset: str = "folder/imagenette"  # prepared from JPEGs
    split: str = "train"
    batch_size: int = 128
    readers: int = 1  # threads of the streamed feed
    rounds: int = 20  # each of 4 batches
    starts: bool = True  # also time the starts of two runs
    data_dir: Path | None = None
    out: Path | None = None  # a JSON file to write the record to


def run(config: Config) -> dict[str, Any]:
    """Measure the rates, then the starts."""
    keep_freed_memory()  # as every training does
    dataset = load_dataset(config.dataset, config.data_dir)
    rates = measure(config, dataset)
    bare = {name: rate for name, rate in rates.items() if name not in ("streamed", "resident")}
    best = max(bare, key=lambda name: bare[name])
    result = {"bare": bare, "streamed": rates["streamed"], "resident": rates["resident"]}
    result |= {"best": best, "streamed_share": rates["streamed"] / bare[best]}
    if config.starts:
        result["start"] = {name: time_start(name, config.data_dir) for name in STARTS}
    return result


def measure(config: Config, dataset: Dataset) -> dict[str, float]:
    """Images per second of processor time for each decoder, "streamed" and "resident"."""
    source, resident = dataset.open(config.split), load_resident(dataset, config.split)
    seconds: dict[str, list[float]] = {}

    def clock(name: str, work: Callable[[], Any]) -> None:
        began = time.process_time()
        work()
        seconds.setdefault(name, []).append(time.process_time() - began)

    def indices_of(step: int) -> np.ndarray:
        return batch_indices(0, step, config.batch_size, len(source))

    steps = 4
    for start in range(0, config.rounds * steps, steps):
        block = (start, start + steps)
        indices = np.concatenate([indices_of(step) for step in range(*block)])
        stored = encoded(dataset, config.split, indices)
        for name, decode in decoders().items():
            clock(name, lambda d=decode, s=stored: [None for data in s if d(data) is None])
        clock("streamed", lambda b=block: list(stream(source, [b], indices_of, config.readers)))
        clock("resident", lambda i=indices: resident["image"][i])
    images = steps * config.batch_size
    return {name: images / statistics.median(taken) for name, taken in seconds.items()}


def decoders() -> dict[str, Decoder]:
    """The installed decoders by name: JPEG to uint8 [H, W, 3]."""
    installed: dict[str, Decoder] = {
        "simplejpeg": simplejpeg.decode_jpeg,
        "pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
    }
    if find_spec("cv2"):
        cv2: Any = import_module("cv2")
        cv2.setNumThreads(1)
        colour = cv2.IMREAD_COLOR_RGB
        installed["opencv"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), colour)
    if find_spec("turbojpeg"):
        try:
            turbo: Any = import_module("turbojpeg").TurboJPEG()
        except RuntimeError:  # the package comes without the library itself
            return installed
        installed["pyturbojpeg"] = lambda data: turbo.decode(data, pixel_format=0)
    return installed


def time_start(name: str, data_dir: Path | None) -> dict[str, float]:
    """Time two starts of a script to the end of their first block of steps.

    Returns:
        seconds of the "cold" start, and of the "warm" one, which finds what the first compiled;
        under "cold_compiling" and "warm_compiling" those of them in which JAX traced, lowered and
        compiled, or read compiled programs.
    """
    data = [] if data_dir is None else ["--data-dir", str(data_dir)]
    script = ["-m", "experiments.bench.first_step", f"experiments.{name}"]
    command = [sys.executable, *script, *STARTS[name], *data]
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/kept"}
        cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        for state in ("cold", "warm"):
            began = time.perf_counter()
            done = subprocess.run(
                [*command, "--workdir", f"{folder}/{state}"],
                cwd=ROOT,
                env=os.environ | cache,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                check=True,
            )
            seconds[state] = time.perf_counter() - began
            seconds[f"{state}_compiling"] = float(done.stdout.split()[-1])
    return seconds


if __name__ == "__main__":
    program(Config, run)

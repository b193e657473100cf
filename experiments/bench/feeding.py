"""How fast photographs are decoded, fed and read back, and how soon a run takes its first step.

    python -m experiments.bench.feeding --out feeding.json

What came out is in docs/speed.md.

Images per second of processor time, so of one core, all threads counted. The bare decoders that are
installed decode the stored JPEGs from memory, one after the other; the streamed feed also reads
them, parses them and lays them into batches. They take turns, and of each the median is recorded.
The resident feed gathers from the array that was decoded once: fixed-size raw bytes. Seconds of a
start are from the process's beginning to the end of its first block of steps: without programs kept
from before, then with them.
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
from cnn_jax.data.read import encoded
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
    """Rates in turn, then starts."""
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
    """Images per second of processor time, by every bare decoder, streamed, and resident."""
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
    return {name: images / statistics.median(each) for name, each in seconds.items()}


def decoders() -> dict[str, Decoder]:
    """Those that are installed, by name: JPEG to uint8 [H, W, 3]."""
    found: dict[str, Decoder] = {
        "simplejpeg": simplejpeg.decode_jpeg,
        "pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
    }
    if find_spec("cv2"):
        cv2: Any = import_module("cv2")
        cv2.setNumThreads(1)
        colour = cv2.IMREAD_COLOR_RGB
        found["opencv"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), colour)
    if find_spec("turbojpeg"):
        try:
            turbo: Any = import_module("turbojpeg").TurboJPEG()
        except RuntimeError:  # the library itself does not come with the package
            return found
        found["pyturbojpeg"] = lambda data: turbo.decode(data, pixel_format=0)
    return found


def time_start(name: str, data_dir: Path | None) -> dict[str, float]:
    """Seconds to the end of the first block of steps, cold and with what that compiled; and those
    of them in which JAX traced, lowered and compiled, or read what was compiled before.
    """
    where = [] if data_dir is None else ["--data-dir", str(data_dir)]
    script = ["-m", "experiments.bench.first_step", f"experiments.{name}"]
    command = [sys.executable, *script, *STARTS[name], *where]
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/kept"}
        kept |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        for state in ("cold", "warm"):
            began = time.perf_counter()
            done = subprocess.run(
                [*command, "--workdir", f"{folder}/{state}"],
                cwd=ROOT,
                env=os.environ | kept,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            seconds[state] = time.perf_counter() - began
            seconds[f"{state}_compiling"] = float(done.stdout.split()[-1])
    return seconds


if __name__ == "__main__":
    program(Config, run)

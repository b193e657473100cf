"""What is timed, for every framework alike. It needs NumPy alone, so every worker can import it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Name = Literal["mlp", "lenet5", "alexnet2014", "alexnet2012"]
DType = Literal["float32", "bfloat16"]


class Size(NamedTuple):
    """How a network is timed by default."""

    batch_size: int
    gpu_batch_size: int
    image_size: int  # pixels of a side
    channels: int
    classes: int
    examples: int  # of noise, held in memory
    learning_rate: float  # of the script at its first step


SIZES: dict[Name, Size] = {
    "mlp": Size(128, 128, 28, 1, 10, 8192, 0.001),
    "lenet5": Size(128, 128, 28, 1, 10, 8192, 0.002),
    "alexnet2014": Size(32, 256, 224, 3, 1000, 256, 0.01),
    "alexnet2012": Size(32, 256, 224, 3, 1000, 256, 0.01),
}


@dataclass(frozen=True)
class Task:
    """A network and how it is timed. Scalars only, because it travels as JSON."""

    network: Name
    batch_size: int
    image_size: int
    dispatch: int  # steps in one call of our compiled function
    width: float = 1.0  # share of the maps and units, of the AlexNets and the MLP
    dropout: float = 0.5  # of the AlexNets
    dtype: DType = "float32"  # of the computation; parameters are float32
    training_only: bool = False  # time neither the forward pass nor the machine's limits


def noise(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, H, W, C] and labels int32 [n], the same in every process."""
    size, random = SIZES[task.network], np.random.default_rng(0)
    n = max(size.examples, task.batch_size)
    shape = (n, task.image_size, task.image_size, size.channels)
    images = random.integers(0, 256, shape, np.uint8)
    return images, random.integers(0, size.classes, n).astype(np.int32)


def standard(task: Task, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and deviation of each channel, in units of [0, 1], to standardise images by.

    The AlexNet of 2012 takes raw pixels minus their mean: its constants are made for that range.
    """
    pixels = images.reshape(-1, images.shape[-1])
    mean = pixels.mean(0, np.float64) / 255
    deviation = pixels.std(0, np.float64) / 255
    return mean, np.full_like(mean, 1 / 255) if task.network == "alexnet2012" else deviation

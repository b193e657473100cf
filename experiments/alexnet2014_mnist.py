"""AlexNets an eighth as wide on MNIST digits enlarged to 80 pixels; `bench/shift.py` trains them.

python -m cnn_jax data prepare mnist
python -m experiments.alexnet2014_mnist --blur
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from cnn_jax.augment.basic import resize
from cnn_jax.cli import main
from cnn_jax.experiment import Experiment
from cnn_jax.models import AlexNet2014, AlexNet2019, narrowed
from experiments import lenet5_mnist

IMAGE_SIZE = 80  # pixels; with 79 the last maps of the blur-pooled network shrink to one place


@dataclasses.dataclass(frozen=True)
class Config(lenet5_mnist.Config):
    blur: bool = False  # blur with 3 taps before every stride (Zhang 2019)
    width: float = 0.125  # share of the network's maps and units
    epochs: float = 5
    peak_learning_rate: float = 0.001
    max_shift: int = 0  # pixels of 28


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    digits = lenet5_mnist.build(config, data_dir)
    network: Any = partial(AlexNet2019, taps=3) if config.blur else AlexNet2014
    classes, enlarged = len(digits.dataset.class_names), resize(IMAGE_SIZE)
    return dataclasses.replace(
        digits,
        model=network(classes=classes, **narrowed(AlexNet2014, config.width)),
        train_transforms=[*digits.train_transforms, enlarged],
        eval_transforms=[enlarged],
    )


if __name__ == "__main__":
    main(Config, build)

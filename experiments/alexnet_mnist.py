"""AlexNets on MNIST, an eighth as wide, digits enlarged to 80 pixels: for `experiments.shift`.

python -m cnn_jax data prepare mnist
python -m experiments.alexnet_mnist --blur
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optax

from cnn_jax.cli import main
from cnn_jax.data import load_dataset
from cnn_jax.data.augment import random_shift, resize
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.models import AlexNet2014, AlexNet2019, narrowed

IMAGE_SIZE = 80  # pixels; at 79 the blur-pooled network's last maps have one place


@dataclass(frozen=True)
class Config:
    blur: bool = False  # pool and stride behind a blur of 3 taps (Zhang 2019)
    dataset: str = "mnist"
    train_split: str = "train"
    eval_split: str = "test"
    width: float = 0.125  # share of the network's maps and units
    epochs: float = 5
    batch_size: int = 128
    peak_learning_rate: float = 0.001  # Adam, falling to 0 along a cosine
    max_shift: int = 0  # pixels of 28
    seed: int = 0


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    dataset = load_dataset(config.dataset, data_dir)
    examples = dataset.num_examples(config.train_split)
    steps = epochs_to_steps(config.epochs, examples, config.batch_size)
    network: Any = partial(AlexNet2019, taps=3) if config.blur else AlexNet2014
    return Experiment(
        model=network(classes=len(dataset.class_names), **narrowed(AlexNet2014, config.width)),
        optimizer=optax.adam(optax.cosine_decay_schedule(config.peak_learning_rate, steps)),
        dataset=dataset,
        train_split=config.train_split,
        eval_split=config.eval_split,
        batch_size=config.batch_size,
        steps=steps,
        seed=config.seed,
        train_transforms=[random_shift(config.max_shift), resize(IMAGE_SIZE)],
        eval_transforms=[resize(IMAGE_SIZE)],
    )


if __name__ == "__main__":
    main(Config, build)

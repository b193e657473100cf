"""LeNet-5 on MNIST, shifted by up to two pixels while training.

python -m cnn_jax data prepare mnist
python -m experiments.lenet5_mnist

99.35 % ± 0.02 test accuracy over 3 seeds, each in about a minute on two CPU cores.
"""

from dataclasses import dataclass
from pathlib import Path

import optax

from cnn_jax.augment.basic import random_shift
from cnn_jax.cli import main
from cnn_jax.data import load_dataset
from cnn_jax.errors.ranges import check_not_negative
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.models import LeNet5


@dataclass(frozen=True)
class Config:
    dataset: str = "mnist"
    train_split: str = "train"
    eval_split: str = "test"
    epochs: float = 20
    batch_size: int = 128
    peak_learning_rate: float = 0.002  # of Adam; falls to 0 along a cosine
    max_shift: int = 2  # pixels
    seed: int = 0


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    check_not_negative(config, "peak_learning_rate")
    dataset = load_dataset(config.dataset, data_dir)
    examples = dataset.num_examples(config.train_split)
    steps = epochs_to_steps(config.epochs, examples, config.batch_size)
    return Experiment(
        model=LeNet5(classes=len(dataset.class_names)),
        optimizer=optax.adam(optax.cosine_decay_schedule(config.peak_learning_rate, steps)),
        dataset=dataset,
        train_split=config.train_split,
        eval_split=config.eval_split,
        batch_size=config.batch_size,
        steps=steps,
        seed=config.seed,
        train_transforms=[random_shift(config.max_shift)],
    )


if __name__ == "__main__":
    main(Config, build)

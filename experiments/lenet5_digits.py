"""LeNet-5 on the 1,797 scanned digits that come with scikit-learn: nothing to download or set.

    python -m experiments.lenet5_digits

98.98 % ± 0.16 test accuracy over 3 seeds, each in under half a minute on two CPU cores.

The 8×8 scans are enlarged to LeNet-5's 28×28 on the device. While training, they are also shifted
by up to three pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import optax

from cnn_jax.augment.basic import random_shift, resize
from cnn_jax.cli import main
from cnn_jax.data import load_dataset
from cnn_jax.errors.ranges import check_not_negative
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.models import LeNet5


@dataclass(frozen=True)
class Config:
    dataset: str = "digits"
    train_split: str = "train"
    eval_split: str = "test"
    epochs: float = 100
    batch_size: int = 64
    peak_learning_rate: float = 0.002
    max_shift: int = 3  # pixels of 28
    seed: int = 0


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    check_not_negative(config, "peak_learning_rate")
    dataset = load_dataset(config.dataset, data_dir)
    steps = epochs_to_steps(
        config.epochs, dataset.num_examples(config.train_split), config.batch_size
    )
    schedule = optax.cosine_decay_schedule(config.peak_learning_rate, steps)
    return Experiment(
        model=LeNet5(classes=len(dataset.class_names)),
        optimizer=optax.adam(schedule),
        dataset=dataset,
        train_split=config.train_split,
        eval_split=config.eval_split,
        batch_size=config.batch_size,
        steps=steps,
        seed=config.seed,
        train_transforms=(resize(28), random_shift(config.max_shift)),
        eval_transforms=(resize(28),),
    )


if __name__ == "__main__":
    main(Config, build)

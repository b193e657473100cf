"""A multilayer perceptron with two hidden layers of 800 on MNIST, shifted by up to one pixel.

python -m cnn_jax data prepare mnist
python -m experiments.mlp_mnist

98.99 % ± 0.05 test accuracy over 3 seeds, each in under a minute on two CPU cores.
"""

from dataclasses import dataclass
from pathlib import Path

import optax

from cnn_jax.augment.basic import random_shift
from cnn_jax.cli import main
from cnn_jax.data import load_dataset
from cnn_jax.errors.ranges import check_not_negative, check_range
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.models import MLP


@dataclass(frozen=True)
class Config:
    dataset: str = "mnist"
    train_split: str = "train"
    eval_split: str = "test"
    hidden_units: int = 800  # in each hidden layer
    hidden_layers: int = 2
    epochs: float = 20
    batch_size: int = 128
    peak_learning_rate: float = 0.001  # of Adam; falls to 0 along a cosine
    max_shift: int = 1  # pixels
    seed: int = 0


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    check_not_negative(config, "peak_learning_rate")
    check_range("--hidden-layers", config.hidden_layers, least=0, most=100)
    dataset = load_dataset(config.dataset, data_dir)
    examples = dataset.num_examples(config.train_split)
    steps = epochs_to_steps(config.epochs, examples, config.batch_size)
    return Experiment(
        model=MLP((config.hidden_units,) * config.hidden_layers, len(dataset.class_names)),
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

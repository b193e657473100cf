"""A small experiment with everything that a law is about: dropout, augmentation, state, clipping.

It lies outside the package and trains in a few seconds, so that tests can run it as a user would.
"""

from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import optax

from cnn_jax.augment.basic import random_shift
from cnn_jax.cli import main
from cnn_jax.data import load_dataset
from cnn_jax.experiment import Experiment
from cnn_jax.models.layers import Conv, Dropout
from cnn_jax.options import Options

# Checkpoints fall between lines of metrics, so that they hold sums.
OPTIONS = Options(steps_per_dispatch=3, log_every=9, eval_every=6, checkpoint_every=6)


@dataclass(frozen=True)
class Config:
    dataset: str = "digits"
    train_split: str = "train"
    eval_split: str = "test"
    batch_size: int = 24
    steps: int = 12
    learning_rate: float = 0.1
    clip_norm: float = 0.5  # small enough to cut every step's gradient
    seed: int = 0


class Net(nn.Module):
    """One convolution, centred by its running mean, dropout and a linear layer."""

    classes: int

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        x = nn.relu(Conv(4, 3, name="C1")(images))
        mean = self.variable("running", "mean", lambda: x.mean((0, 1, 2)))
        centred = x - mean.value[None, None, None]
        # A mean of equal shares' means is the batch's, so that this state keeps the device law.
        if train:
            mean.value = 0.9 * mean.value + 0.1 * x.mean((0, 1, 2))
        x = Dropout(0.25, name="dropout")(centred.reshape(len(x), -1), keys)
        return nn.Dense(self.classes, name="output")(x)


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    dataset = load_dataset(config.dataset, data_dir)
    return Experiment(
        model=Net(len(dataset.class_names)),
        optimizer=optax.chain(
            optax.clip_by_global_norm(config.clip_norm),
            optax.sgd(config.learning_rate, momentum=0.9),
        ),
        dataset=dataset,
        train_split=config.train_split,
        eval_split=config.eval_split,
        batch_size=config.batch_size,
        steps=config.steps,
        seed=config.seed,
        train_transforms=[random_shift(1)],
    )


if __name__ == "__main__":
    main(Config, build, OPTIONS)

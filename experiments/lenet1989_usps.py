"""The zip code network of 1989 on USPS, one digit at a time.

python -m cnn_jax data prepare usps --manual-dir DIR
python -m experiments.lenet1989_usps

5.68 % ± 0.35 test error over 3 seeds, each in a minute or two on one CPU core. LeCun et al. (1989)
report 5.0 %.
"""

from dataclasses import dataclass
from pathlib import Path

import optax

from cnn_jax.cli import main
from cnn_jax.data import load_dataset
from cnn_jax.errors.ranges import check_not_negative
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.losses import mean_squared_error
from cnn_jax.models import LeNet1989
from cnn_jax.options import Options


@dataclass(frozen=True)
class Config:
    dataset: str = "usps"
    train_split: str = "train"
    eval_split: str = "test"
    epochs: float = 23
    batch_size: int = 1
    learning_rate: float = 0.03  # plain gradient descent; the paper used a Newton method
    seed: int = 0


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    check_not_negative(config, "learning_rate")
    dataset = load_dataset(config.dataset, data_dir).scaled(-1, 1)
    examples = dataset.num_examples(config.train_split)
    return Experiment(
        model=LeNet1989(),
        optimizer=optax.sgd(config.learning_rate),
        dataset=dataset,
        train_split=config.train_split,
        eval_split=config.eval_split,
        batch_size=config.batch_size,
        steps=epochs_to_steps(config.epochs, examples, config.batch_size),
        seed=config.seed,
        loss=mean_squared_error(on=1.0, off=-1.0),
    )


if __name__ == "__main__":
    main(Config, build, Options(steps_per_dispatch=1000, log_every=10_000))

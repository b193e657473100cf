"""LeNet-5 as printed, trained as printed: one example at a time, a rate for every weight.

python -m cnn_jax data prepare mnist
python -m experiments.lenet5_1998_mnist

LeCun et al. (1998): 0.95 % test error. Ours: untrained.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from cnn_jax.cli import main
from cnn_jax.data import epoch_permutation, load_dataset
from cnn_jax.data.augment import pad
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.losses import discriminative_map
from cnn_jax.models import LeNet5_1998
from cnn_jax.models.curvature import diagonal_curvature
from cnn_jax.optim import diagonal_levenberg_marquardt, lecun1998_rates, with_curvature
from cnn_jax.step import prepare_images
from cnn_jax.train import Options


@dataclass(frozen=True)
class Config:
    dataset: str = "mnist"
    train_split: str = "train"
    eval_split: str = "test"
    epochs: float = 20
    batch_size: int = 1
    mu: float = 0.02  # added to the curvatures, of which the rates are the inverse
    curvature_examples: int = 500  # for their estimate, renewed before each epoch
    rejection: float = 0.1  # the loss's penalty j of "none of these", which the paper does not give
    seed: int = 0


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    dataset = load_dataset(config.dataset, data_dir).scaled(-0.1, 1.175)
    examples = dataset.num_examples(config.train_split)
    one_pass = epochs_to_steps(1, examples, config.batch_size)
    model, loss = LeNet5_1998(), discriminative_map(config.rejection)
    to_32x32 = pad(2, 2, 2, 2)
    estimate = jax.jit(partial(diagonal_curvature, model, loss=loss))

    def renew_curvature(state, evaluate):
        order = epoch_permutation(config.seed, int(state.step) // one_pass, examples)
        sample = dataset.open(config.train_split).read(order[: config.curvature_examples])
        images = prepare_images(experiment, [to_32x32], sample["image"], keys=None)
        curvature = estimate(state.params, images, sample["label"])
        return state._replace(opt_state=with_curvature(state.opt_state, curvature))

    experiment = Experiment(
        model=model,
        optimizer=diagonal_levenberg_marquardt(lecun1998_rates(one_pass), config.mu),
        dataset=dataset,
        train_split=config.train_split,
        eval_split=config.eval_split,
        batch_size=config.batch_size,
        steps=epochs_to_steps(config.epochs, examples, config.batch_size),
        seed=config.seed,
        train_transforms=[to_32x32],
        eval_transforms=[to_32x32],
        loss=loss,
        before_epoch=renew_curvature,
    )
    return experiment


if __name__ == "__main__":
    main(Config, build, Options(steps_per_dispatch=1000, log_every=10_000))

"""AlexNet (2012, two towers) on ImageNet (ILSVRC-2012), with the paper's recipe but for
its colour augmentation.

    python -m cnn_jax data prepare imagenet2012 --manual-dir FOLDER_OF_ILSVRC_TARS
    python -m experiments.alexnet_imagenet --dtype bfloat16

Written for GPUs and not trained to the end by us. The paper reports 18.2 % top-5 error for one
network with ten views (Krizhevsky et al. 2012, table 2); the evaluation here is of the centre.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import optax

from cnn_jax.cli import main
from cnn_jax.data import load_dataset
from cnn_jax.data.augment import centre_crop, random_crop, random_flip
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.models import AlexNet2012
from cnn_jax.train import Options


@dataclass(frozen=True)
class Config:
    dataset: str = "imagenet2012"
    train_split: str = "train"
    eval_split: str = "validation"
    read_size: int = 256  # photographs: shorter side to this, then the central square
    image_size: int = 224  # pixels of the crop
    epochs: float = 90
    batch_size: int = 128
    learning_rate: float = 0.01  # a tenth after each quarter of the epochs
    weight_decay: float = 0.0005
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation
    seed: int = 0


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    dataset = load_dataset(config.dataset, data_dir, config.read_size)
    examples = dataset.num_examples(config.train_split)
    steps = epochs_to_steps(config.epochs, examples, config.batch_size)
    # The paper divides by ten when the validation error stops falling, three times in all.
    drops = {steps * quarter // 4: 0.1 for quarter in (1, 2, 3)}
    schedule = optax.piecewise_constant_schedule(config.learning_rate, drops)
    return Experiment(
        model=AlexNet2012(classes=len(dataset.class_names), dtype=jnp.dtype(config.dtype)),
        optimizer=optax.chain(
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(schedule, momentum=0.9),
        ),
        dataset=dataset,
        train_split=config.train_split,
        eval_split=config.eval_split,
        batch_size=config.batch_size,
        steps=steps,
        seed=config.seed,
        train_transforms=(random_crop(config.image_size), random_flip()),
        eval_transforms=(centre_crop(config.image_size),),
    )


if __name__ == "__main__":
    main(Config, build, Options(steps_per_dispatch=1))

"""AlexNet (2014, one tower) on Imagenette, ten classes of ImageNet, from random initial weights.

    python -m cnn_jax data prepare folder/imagenette --manual-dir FOLDER_OF_TARS --size 160
    python -m experiments.alexnet2014_imagenette_adamw

75.69 % of the validation images are right after 39 minutes on two CPU cores (one seed). Training
takes random crops of 160 × 160 images, mirrored or not, and evaluation the central crop.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import flax.linen as nn
import optax

from cnn_jax.augment.basic import centre_crop, random_crop, random_flip
from cnn_jax.cli import main
from cnn_jax.data import load_dataset
from cnn_jax.errors.ranges import check_not_negative
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.models import AlexNet2014
from cnn_jax.options import Options


@dataclass(frozen=True)
class Config:
    dataset: str = "folder/imagenette"
    train_split: str = "train"
    eval_split: str = "val"
    image_size: int = 128  # pixels of the crop
    epochs: float = 20
    batch_size: int = 64
    peak_learning_rate: float = 0.0003  # of AdamW; up in warmup_epochs, then down a cosine
    warmup_epochs: float = 1
    weight_decay: float = 0.05
    clip_norm: float = 1.0  # largest norm of the gradient of all parameters
    dtype: Literal["float32", "bfloat16"] = "float32"  # in which the network computes
    seed: int = 0


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    check_not_negative(config, "peak_learning_rate", "warmup_epochs", "weight_decay", "clip_norm")
    dataset = load_dataset(config.dataset, data_dir)
    examples = dataset.num_examples(config.train_split)
    steps = epochs_to_steps(config.epochs, examples, config.batch_size)
    warmup = min(steps - 1, round(config.warmup_epochs * examples / config.batch_size))
    schedule = optax.warmup_cosine_decay_schedule(0, config.peak_learning_rate, warmup, steps)
    return Experiment(
        model=AlexNet2014(
            len(dataset.class_names), dtype=config.dtype, kernel_init=nn.initializers.he_normal()
        ),
        optimizer=optax.chain(
            optax.clip_by_global_norm(config.clip_norm),
            optax.adamw(schedule, weight_decay=config.weight_decay),
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

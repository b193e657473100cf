"""AlexNet (2014, one tower) by torchvision's recipe on Imagenette, ten classes of ImageNet.

    python -m experiments.alexnet2014_imagenette --width 0.25 --image-size 96 --epochs 30 \\
        --batch-size 32

33.57 % of the validation images are wrong after half an hour on a busy CPU core (one seed). See
`alexnet2014_imagenette_adamw` for the data; it trains the same network by a recipe of today.
"""

from dataclasses import dataclass
from pathlib import Path

import optax

from cnn_jax.augment.basic import centre_crop, random_flip, resize
from cnn_jax.augment.photographs import random_resized_crop
from cnn_jax.cli import main
from cnn_jax.data import load_dataset
from cnn_jax.errors.ranges import check_not_negative
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.models import AlexNet2014, narrowed
from cnn_jax.options import Options


@dataclass(frozen=True)
class Config:
    dataset: str = "folder/imagenette"
    train_split: str = "train"
    eval_split: str = "val"
    image_size: int = 128  # pixels of the crop after resizing
    width: float = 1.0  # share of the network's maps and units
    epochs: float = 90
    batch_size: int = 256
    learning_rate: float = 0.01  # divided by 10 after each third of the epochs
    weight_decay: float = 0.0001
    seed: int = 0


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    check_not_negative(config, "learning_rate", "weight_decay")
    dataset = load_dataset(config.dataset, data_dir)
    examples = dataset.num_examples(config.train_split)
    steps = epochs_to_steps(config.epochs, examples, config.batch_size)
    drops = {steps * third // 3: 0.1 for third in (1, 2)}
    schedule = optax.piecewise_constant_schedule(config.learning_rate, drops)
    return Experiment(
        model=AlexNet2014(
            classes=len(dataset.class_names),
            **narrowed(AlexNet2014, config.width),
        ),
        optimizer=optax.chain(
            optax.add_decayed_weights(config.weight_decay), optax.sgd(schedule, momentum=0.9)
        ),
        dataset=dataset,
        train_split=config.train_split,
        eval_split=config.eval_split,
        batch_size=config.batch_size,
        steps=steps,
        seed=config.seed,
        train_transforms=(random_resized_crop(config.image_size), random_flip()),
        # The same share as torchvision's 224 pixels of 256.
        eval_transforms=(
            centre_crop(min(dataset.image_shape[:2]) * 7 // 8),
            resize(config.image_size),
        ),
    )


if __name__ == "__main__":
    main(Config, build, Options(steps_per_dispatch=1))

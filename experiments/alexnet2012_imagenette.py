"""AlexNet (2012, two towers) by the paper's recipe on Imagenette, ten classes of ImageNet.

    python -m experiments.alexnet2012_imagenette --width 0.25 --read-size 110 --image-size 96 \\
        --epochs 45 --patience 4
    python -m cnn_jax evaluate RUN --split val  # training evaluates on a tenth held back

Wrong on the validation images: 27.53 % ± 0.41, with `--no-lrn` 26.33 % ± 0.74, with
`--no-overlapping-pooling` 28.26 % ± 0.47, with `--dropout 0` 26.92 % ± 0.69 (three seeds each).
"""

from dataclasses import dataclass
from pathlib import Path

import jax

from cnn_jax.augment import centre_crop, photographs, random_crop, random_flip
from cnn_jax.cli import main
from cnn_jax.data import load_dataset
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.models import AlexNet2012, alexnet2012, narrowed
from cnn_jax.optim import alexnet_momentum, observe_accuracy, plateau
from cnn_jax.options import Options


@dataclass(frozen=True)
class Config:
    dataset: str = "folder/imagenette"
    train_split: str = "train[:90%]"
    eval_split: str = "train[90%:]"
    read_size: int = 146  # pixels: the shorter side is resized to it, then cropped to a square
    image_size: int = 128  # pixels of the training and evaluation crops
    width: float = 1.0  # share of the paper's maps and units; narrower layers start larger
    lrn: bool = True
    overlapping_pooling: bool = True  # windows of 3 pixels, 2 apart; else of 2
    dropout: float = 0.5
    epochs: float = 90
    batch_size: int = 128
    learning_rate: float = 0.01  # a tenth after `patience` epochs without a gain, three times
    patience: int = 5
    seed: int = 0


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    dataset = load_dataset(config.dataset, data_dir, config.read_size).centred()
    examples = dataset.num_examples(config.train_split)
    noise = photographs.colour_noise(photographs.measure_colours(dataset))
    return Experiment(
        model=AlexNet2012(
            classes=len(dataset.class_names),
            **narrowed(AlexNet2012, config.width),
            kernel_init=jax.nn.initializers.normal(0.01 / config.width**0.5),
            orders=(alexnet2012.relu_norm_pool if config.lrn else alexnet2012.relu_pool,) * 2,
            pool_window=3 if config.overlapping_pooling else 2,
            dropout_rate=config.dropout,
        ),
        optimizer=alexnet_momentum(config.learning_rate, scaled_by=plateau(config.patience)),
        dataset=dataset,
        train_split=config.train_split,
        eval_split=config.eval_split,
        batch_size=config.batch_size,
        steps=epochs_to_steps(config.epochs, examples, config.batch_size),
        seed=config.seed,
        train_transforms=(random_crop(config.image_size), random_flip(), noise),
        eval_transforms=(centre_crop(config.image_size),),
        before_epoch=observe_accuracy,
    )


if __name__ == "__main__":
    main(Config, build, Options(steps_per_dispatch=1))

"""AlexNet (2012, two towers) on ImageNet (ILSVRC-2012), by the recipe of `alexnet2012_imagenette`.

    python -m cnn_jax data prepare imagenet2012 --manual-dir FOLDER_OF_ILSVRC_TARS
    python -m experiments.alexnet2012_imagenet --dtype bfloat16

Written for GPUs; we have not trained it to the end. The paper reports 18.2 % top-5 error for one
network over ten views (Krizhevsky et al. 2012, table 2); here only the central crop is evaluated.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from cnn_jax.cli import main
from cnn_jax.experiment import Experiment
from cnn_jax.options import Options
from experiments import alexnet2012_imagenette


@dataclasses.dataclass(frozen=True)
class Config(alexnet2012_imagenette.Config):
    dataset: str = "imagenet2012"
    train_split: str = "train"
    eval_split: str = "validation"  # decides when the learning rate falls, as in the paper
    read_size: int = 256  # pixels: the shorter side is resized to it, then cropped to a square
    image_size: int = 224
    dtype: Literal["float32", "bfloat16"] = "float32"  # in which the network computes


def build(config: Config, data_dir: Path | None = None) -> Experiment:
    experiment = alexnet2012_imagenette.build(config, data_dir)
    model: Any = experiment.model
    return dataclasses.replace(experiment, model=model.clone(dtype=config.dtype))


if __name__ == "__main__":
    main(Config, build, Options(steps_per_dispatch=1))

"""A neocognitron's first module learns MNIST's strokes without labels; ridge regression reads UC1.

    python -m cnn_jax data prepare mnist
    python -m experiments.neocognitron_mnist --out neocognitron_mnist.json

97.39 % test accuracy with 10,000 labels, in under three minutes on two busy CPU cores.

Fukushima (1980) had 16x16 binary patterns and no read-out. UC1 and the penalty were chosen with
5,000 labelled training images and 5,000 others held back, never with the test set.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.data import load_dataset, load_resident
from cnn_jax.errors.ranges import check_range
from cnn_jax.models import count_parameters
from cnn_jax.models.neocognitron import PAPER, Constants, init, present, respond
from experiments.tools.report import program


@dataclasses.dataclass(frozen=True)
class Config:
    planes: int = 24
    presented: int = 1000  # training images that the module learns from, without labels
    labelled: int = 10_000  # training images that the read-out learns from
    penalty: float = 1.0  # of the ridge regression, in units of the mean energy of a feature
    data_dir: Path | None = None
    out: Path | None = None  # a JSON file to write the record to


def run(config: Config) -> dict[str, Any]:
    check_range("--planes", config.planes, least=1, most=1000)
    check_range("--presented", config.presented, least=1)
    check_range("--labelled", config.labelled, least=1)
    check_range("--penalty", config.penalty, above=0)
    started = time.monotonic()
    # The values that PAPER has, chosen for the patterns 0 to 4, do no better: 97.34 %.
    readings = {"initial": 0.1, "s_falloff": 0.6, "gain": 4.0}
    module = dataclasses.replace(PAPER.modules[0], planes=config.planes, **readings)
    constants = Constants((module,))
    dataset = load_dataset("mnist", config.data_dir)
    train, test = (load_resident(dataset, split) for split in ("train", "test"))
    params = present(init(constants), _retina(train["image"][: config.presented]), constants)

    @jax.jit
    @jax.vmap
    def uc1(image: jax.Array) -> jax.Array:
        return respond(params, image, constants)["UC1"].ravel()

    def features(images: np.ndarray) -> np.ndarray:
        chunks = range(0, len(images), 500)
        return np.concatenate([uc1(_retina(images[i : i + 500])) for i in chunks])

    x, y = features(train["image"][: config.labelled]), train["label"][: config.labelled]
    mean = x.mean(0)
    x -= mean
    gram, targets = x.T @ x, np.eye(10, dtype=x.dtype)[y]
    gram[np.diag_indices_from(gram)] += config.penalty * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram, x.T @ (targets - targets.mean(0)))
    scores = (features(test["image"]) - mean) @ weights + targets.mean(0)
    result = {
        "accuracy": float(np.mean(scores.argmax(1) == test["label"])),
        "seconds": round(time.monotonic() - started, 1),
    }
    return {
        "split": "test",
        "count": len(scores),
        "parameters": count_parameters(params) + weights.size + len(targets[0]),
        "runs": [result],
    }


def _retina(images: np.ndarray) -> np.ndarray:
    return images[..., 0].astype(np.float32) / 255


if __name__ == "__main__":
    program(Config, run)

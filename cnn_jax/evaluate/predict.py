"""Class probabilities of a trained network for every example, from one view or several."""

from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnn_jax.augment import CentreCrop, View, crop_at
from cnn_jax.devices import parallel
from cnn_jax.devices.feed import Feed
from cnn_jax.devices.parallel import AXIS
from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import check_range
from cnn_jax.evaluate.exact import make_walk
from cnn_jax.step import evaluation_logits
from cnn_jax.trained import Trained


def predict(
    trained: Trained, feed: Feed, batch_size: int, views: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The log-probabilities and the label of every example of a split, in stored order.

    The probabilities are the softmax of the network's logits, which is what
    `losses.softmax_cross_entropy` trains. Under another loss they rank the classes as the logits
    do, but were not trained to be probabilities: under `losses.mean_squared_error` logits lie near
    -1 and 1, so that with ten classes a perfect network gives the right one 0.45. Logits that are
    minus penalties (`LeNet5_1998`) give exp(-penalty) / sum of exp(-penalties), which is what
    `losses.discriminative_map` trains but for its additional class "none of these".

    With several views the probabilities are their mean, as in Krizhevsky et al. (2012), section
    4.1.

    Args:
        batch_size: examples at a time, rounded up to a multiple of the devices. Neither it nor the
            devices change the result beyond float32 rounding of the logits.
        views: the number of crops, see `views_of`.

    Returns:
        log-probabilities [n, classes], float64: rounded to float32, near logits could become ties.
        labels int32 [n].

    Raises:
        UserError: the network cannot be evaluated from that many views.
    """
    experiment, places = trained.experiment, views_of(trained, views)
    stacked = View(*(jnp.asarray(column) for column in zip(*places, strict=True)))

    def logits_by_view(params: Any, model_state: Any, places: View, batch: Any) -> Any:
        def logits_of(view: View) -> Array:
            transforms = experiment.eval_transforms
            if views > 1:
                transforms = [
                    crop_at(t.size, view) if isinstance(t, CentreCrop) else t for t in transforms
                ]
            return evaluation_logits(experiment, params, model_state, batch["image"], transforms)

        logits = lax.map(logits_of, places) if views > 1 else logits_of(places)[None]
        gathered = (jnp.moveaxis(logits, 0, 1), batch["label"], batch["mask"])
        return lax.all_gather(gathered, AXIS, tiled=True)

    walk = make_walk(logits_by_view, replicated=3)
    network = (trained.params, trained.model_state, parallel.replicate(stacked))
    log_probabilities, labels = [], []
    for logits, label, mask in walk(feed, batch_size, *network):
        keep = np.asarray(mask) > 0
        by_view = log_softmax(np.asarray(logits)[keep])  # [n, views, classes]
        log_probabilities.append(mean_probability(list(np.moveaxis(by_view, 1, 0))))
        labels.append(np.asarray(label)[keep])
    if sum(map(len, labels)) != feed.num_examples:
        raise RuntimeError(f"predicted {sum(map(len, labels))} of {feed.num_examples} examples")
    return np.concatenate(log_probabilities), np.concatenate(labels)


def mean_probability(log_probabilities: list[np.ndarray]) -> np.ndarray:
    """Average probabilities given and returned as logarithms, all [n, classes].

    They are those of a network's views, or of the networks of a committee.
    """
    return reduce(np.logaddexp, log_probabilities) - np.log(len(log_probabilities))


def views_of(trained: Trained, views: int) -> list[View]:
    """The places at which that many views are cropped.

    Args:
        views: 1 is the image as it is evaluated in training; 2 the centre and its mirror image; 5
            the four corners and the centre; 10 those and their mirror images (Krizhevsky et al.
            2012, section 4.1); 8, 18, 32, … = 2 k^2 a grid of k x k places, the outer ones at the
            edges, and their mirror images.

    Raises:
        UserError: it is another number, or evaluation does not crop the centre exactly once.
    """
    check_range("--views", views, most=1000)
    crops = sum(isinstance(t, CentreCrop) for t in trained.experiment.eval_transforms)
    centre, corners = (1, 1), ((0, 0), (0, 2), (2, 0), (2, 2))
    k = round((views / 2) ** 0.5) if views > 0 else 0
    if views in (1, 2):
        parts, places = 2, [centre]
    elif views in (5, 10):
        parts, places = 2, [*corners, centre]
    elif k > 1 and views == 2 * k**2:
        parts, places = k - 1, [(row, column) for row in range(k) for column in range(k)]
    else:
        raise UserError(
            f"--views {views} is not possible: 1, 2 (centre and mirror image), 5 (corners and "
            "centre), 10 (those and their mirror images), or a mirrored grid, 8, 18, 32, 50, ..."
        )
    if views > 1 and crops != 1:
        raise UserError(
            f"--views {views} needs a network whose evaluation crops the centre of its images; "
            f"{trained.run} has one view"
        )
    mirrors = (0,) if views in (1, 5) else (0, 1)
    return [View(*place, parts, mirrored) for mirrored in mirrors for place in places]


def log_softmax(logits: Array | np.ndarray) -> np.ndarray:
    """Log-probabilities, float64 [..., classes]; a row of logits that holds NaN gives NaN."""
    values = np.asarray(logits, np.float64)
    shifted = values - values.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

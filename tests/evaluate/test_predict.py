"""Predictions: every example once and in order, from any number of views, by one or several."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import programs
import pytest

from cnn_jax.augment.basic import centre_crop, pad, resize
from cnn_jax.data import array_dataset
from cnn_jax.devices import parallel
from cnn_jax.devices.feed import Kind, open_feed
from cnn_jax.errors import UserError
from cnn_jax.evaluate.predict import mean_probability, predict, views_of
from cnn_jax.experiment import Experiment
from cnn_jax.trained import Trained

EXAMPLES, CLASSES = 23, 7


class Linear:
    """A linear layer, as a pair of functions; `traced` counts its compilations."""

    def __init__(self) -> None:
        self.traced = 0

    def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
        return {"params": jax.random.normal(key, (images[0].size, CLASSES)) / 5}

    def apply(self, variables: Any, images: jax.Array, **_: Any) -> Any:
        self.traced += 1
        return images.reshape(len(images), -1) @ variables["params"], {}


def trained(transforms: Sequence[Callable[..., Any]] = (centre_crop(6),), size: int = 6) -> Trained:
    """A random network of random images, 11 x 9."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (EXAMPLES, 11, 9, 1)).astype(np.uint8)
    data = array_dataset(
        "noise", {"train": (images, np.arange(EXAMPLES) % CLASSES)}, list("abcdefg")
    )
    experiment = Experiment(
        model=Linear(),
        optimizer=optax.sgd(0.1),
        dataset=data,
        train_split="train",
        eval_split="train",
        batch_size=4,
        steps=1,
        seed=0,
        eval_transforms=transforms,
    )
    params = experiment.model.init(jax.random.key(1), jnp.zeros((1, size, size, 1)))["params"]
    return Trained("run", 1, experiment, *parallel.replicate((params, {})))


def predicted(
    network: Trained, batch_size: int = 5, views: int = 1, kind: Kind = "resident"
) -> tuple[np.ndarray, np.ndarray]:
    feed = open_feed(network.experiment.dataset, "train", kind, readers=1)
    return predict(network, feed, batch_size, views)


def window(top: int, left: int, mirrored: bool) -> Callable[..., Any]:
    """A fixed crop as a user would write it."""

    def transform(key: Any, image: jax.Array) -> jax.Array:
        crop = image[top : top + 6, left : left + 6]
        return crop[:, ::-1] if mirrored else crop

    return transform


def test_one_view_is_the_softmax_of_the_networks_logits_in_stored_order() -> None:
    network = trained()
    data = network.experiment.dataset
    batch = data.open("train").read(np.arange(EXAMPLES))
    images = (batch["image"][:, 2:8, 1:7] / 255 - data.mean) / data.std
    logits = images.reshape(EXAMPLES, -1) @ np.asarray(network.params, np.float64)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found, labels = predicted(network)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(labels, batch["label"])
    assert labels.dtype == np.int32 and found.dtype == np.float64


PLACES = {  # of 6 x 6 in 11 x 9, by hand
    2: [(2, 1)],
    10: [(0, 0), (0, 3), (5, 0), (5, 3), (2, 1)],
    8: [(0, 0), (0, 3), (5, 0), (5, 3)],
    18: [(top, left) for top in (0, 2, 5) for left in (0, 1, 3)],
}


@pytest.mark.parametrize("views", PLACES)
def test_views_are_separate_evaluations_averaged(views: int) -> None:
    network = trained()
    separate = []
    for top, left in PLACES[views]:
        for mirrored in (False, True):
            seen = replace(network.experiment, eval_transforms=[window(top, left, mirrored)])
            separate.append(np.exp(predicted(network._replace(experiment=seen))[0]))
    assert len(separate) == views
    found, labels = predicted(network, views=views)
    np.testing.assert_allclose(np.exp(found), np.mean(separate, 0), atol=1e-6)
    np.testing.assert_array_equal(labels, predicted(network)[1])
    assert np.ptp(separate, axis=0).max() > 0.1  # the views differ


def test_five_views_are_the_corners_and_the_centre() -> None:
    network = trained()
    places = {(int(v.row), int(v.column), int(v.mirrored)) for v in views_of(network, 5)}
    assert places == {(0, 0, 0), (0, 2, 0), (2, 0, 0), (2, 2, 0), (1, 1, 0)}


def test_a_view_keeps_the_transforms_around_the_crop() -> None:
    transforms = (pad(1, 0, 0, 2), centre_crop(6), resize(3))
    found, _ = predicted(trained(transforms, size=3), views=2)
    network = trained((pad(1, 0, 0, 2), window(3, 2, False), resize(3)), size=3)
    mirror = trained((pad(1, 0, 0, 2), window(3, 2, True), resize(3)), size=3)
    expected = mean_probability([predicted(network)[0], predicted(mirror)[0]])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_all_views_are_compiled_once() -> None:
    network = trained()
    predicted(network)
    once, model = network.experiment.model.traced, network.experiment.model  # pyright: ignore
    predicted(network, views=18)
    assert model.traced == 2 * once  # pyright: ignore


@pytest.mark.parametrize(("kind", "batch_size"), [("resident", 7), ("stream", 10_000)])
def test_the_batch_size_does_not_show(batch_size: int, kind: Kind) -> None:
    network = trained()
    found, labels = predicted(network, batch_size, views=10, kind=kind)
    expected, their_labels = predicted(network, views=10)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(labels, their_labels)


def test_four_devices_predict_as_one() -> None:
    """Seven at a time, which makes eight: the last batch is padded by one."""
    expected, labels = predicted(trained(), views=10)
    with programs.simulated_devices(4):
        log_probabilities, their_labels = predicted(trained(), 7, views=10)
    np.testing.assert_allclose(log_probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(their_labels, labels)


@pytest.mark.parametrize("views", [-2, 0, 3, 4, 9, 12])
def test_other_numbers_of_views_are_refused(views: int) -> None:
    with pytest.raises(UserError, match=r"--views .* not possible: 1, 2 .*, 5 .*, 10 .* 8, 18, 32"):
        predicted(trained(), views=views)


@pytest.mark.parametrize("transforms", [(), (centre_crop(8), centre_crop(6))])
def test_a_network_without_one_crop_has_one_view(transforms: Any) -> None:
    with pytest.raises(UserError, match="run has one view"):
        views_of(trained(transforms), 10)
    assert len(views_of(trained(transforms), 1)) == 1


def test_a_committee_averages_probabilities() -> None:
    members = [np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.1, 0.9], [0.3, 0.7]])]
    np.testing.assert_allclose(np.exp(mean_probability(members)), [[0.3, 0.7], [0.6, 0.4]])

"""Networks and committees judged: their predictions, their scores, and the folder that shows them.

evaluation.json, evaluation.csv    one row per run; figures in 0 .. 1, log-loss in nats
RUN/per_class.csv                  recall, precision, F1 and the most frequent confusion
RUN/confusion.csv, .png            examples by true class (rows) and predicted class (columns)
RUN/calibration.png                accuracy by confidence
RUN/worst.png                      the examples of the highest loss
"""

import csv
import itertools
import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import figures
from cnn_jax.data import Dataset, content_sha256
from cnn_jax.devices.feed import Kind, open_feed
from cnn_jax.errors import UserError
from cnn_jax.evaluate import scores
from cnn_jax.evaluate.exact import make_evaluator
from cnn_jax.evaluate.predict import mean_probability, predict
from cnn_jax.evaluate.scores import Estimate, Scores
from cnn_jax.figures.evaluation import confusion_matrix, gallery, reliability_diagram
from cnn_jax.trained import Trained

WORST = 24  # images in the gallery


@dataclass(frozen=True)
class Assessment:
    """A network, or a committee of several, on one split."""

    run: str
    step: int | None  # None for a committee
    dataset: Dataset
    split: str
    views: int
    metrics: dict[str, float]  # as evaluated in training; {} for several views and for committees
    log_probabilities: np.ndarray  # [n, classes]
    labels: np.ndarray  # int32 [n]
    scores: Scores


def assess(
    trained: Trained, split: str | None, views: int, batch_size: int, kind: Kind
) -> Assessment:
    """Predict a split, None for the one evaluated in training, and score the predictions."""
    experiment = trained.experiment
    feed = open_feed(experiment.dataset, split or experiment.eval_split, kind, readers=0)
    metrics: dict[str, float] = {}
    if views == 1:  # to the last bit what training gave, whatever its loss and metrics are
        evaluate = make_evaluator(experiment, batch_size)
        metrics = evaluate(trained.params, trained.model_state, feed)
    found, labels = predict(trained, feed, batch_size, views)
    return Assessment(
        run=trained.run,
        step=trained.step,
        dataset=experiment.dataset,
        split=feed.split,
        views=views,
        metrics=metrics,
        log_probabilities=found,
        labels=labels,
        scores=scores.score(found, labels),
    )


def committee(members: Sequence[Assessment]) -> Assessment:
    """All networks' probabilities averaged: Krizhevsky et al. (2012), table 2, Cireşan et al.
    (2011). The members have passed `check_committee`.
    """
    first = members[0]
    found = mean_probability([member.log_probabilities for member in members])
    return Assessment(
        run=f"committee of {len(members)}",
        step=None,
        dataset=first.dataset,
        split=first.split,
        views=first.views,
        metrics={},
        log_probabilities=found,
        labels=first.labels,
        scores=scores.score(found, first.labels),
    )


def check_committee(networks: Sequence[Trained], split: str | None) -> None:
    """Refuse networks whose predictions are not of the same examples and classes.

    Raises:
        UserError: it names the difference.
    """
    if len(networks) < 2:
        raise UserError("--committee needs several runs")
    first, *others = (_examined(trained, split) for trained in networks)
    for trained, other in zip(networks[1:], others, strict=True):
        for what in first:
            if other[what] != first[what]:
                raise UserError(
                    f"no committee: {networks[0].run} and {trained.run} differ in {what}: "
                    f"{first[what]} and {other[what]}"
                )


def _examined(trained: Trained, split: str | None) -> dict[str, Any]:
    data, split = trained.experiment.dataset, split or trained.experiment.eval_split
    return {
        "dataset": data.name,
        "split": split,
        "classes": ", ".join(data.class_names),
        "number of examples": data.num_examples(split),
        "content of the split": content_sha256(data, split),
    }


def row(found: Assessment) -> dict[str, Any]:
    """What is known of a network on one line of JSON.

    `loss` and the experiment's metrics are there for one view, to the last bit as training gives
    them; the scores always, each as {"value", "low", "high"}.
    """
    about = {"run": found.run, "step": found.step, "split": found.split, "views": found.views}
    figures = {
        name: value._asdict() if isinstance(value, Estimate) else value
        for name, value in ((name, getattr(found.scores, name)) for name in vars(found.scores))
    }
    return about | found.metrics | figures


def write(folder: Path, assessments: Sequence[Assessment]) -> None:
    """Make the folder that this file's first lines describe."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row(found) for found in assessments]
    (folder / "evaluation.json").write_text(json.dumps(rows, indent=2) + "\n")
    flat = [_flat(values) for values in rows]
    columns = list(dict.fromkeys(name for values in flat for name in values))
    _write_csv(folder / "evaluation.csv", columns, ([v.get(c) for c in columns] for v in flat))
    taken: set[str] = set()
    for found in assessments:
        base = Path(found.run).resolve().name if found.step is not None else found.run
        name = free_name(base.replace(" ", "-"), taken)
        taken.add(name)
        _write_one(folder / name, found)


def free_name(base: str, taken: Container[str]) -> str:
    """The name, or else the first of base-2, base-3 ... that is free: runs may have equal names."""
    names = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _write_one(folder: Path, found: Assessment) -> None:
    folder.mkdir()
    predictions, names = (found.log_probabilities, found.labels), found.dataset.class_names
    table, classes = scores.confusion(*predictions), scores.per_class(*predictions, names)
    columns = list(asdict(classes[0]))
    _write_csv(folder / "per_class.csv", columns, (asdict(one).values() for one in classes))
    lines = ([name, *line] for name, line in zip(names, table.tolist(), strict=True))
    _write_csv(folder / "confusion.csv", ["true \\ predicted", *names], lines)

    error, calibration = found.scores.top1_error, found.scores.calibration_error
    title = f"{found.dataset.name}, {found.split}: error {_percent(error)}"
    figures.save(confusion_matrix(table, names, title), folder / "confusion.png")

    bins = scores.calibration(*predictions)
    interval = np.full((len(bins.count), 2), np.nan)
    for i in np.flatnonzero(bins.count):
        right = np.arange(bins.count[i]) < round(bins.accuracy[i] * bins.count[i])
        interval[i] = scores.proportion(right)[1:]
    title = f"calibration error {_percent(calibration)}"
    diagram = reliability_diagram(bins.count, bins.confidence, bins.accuracy, interval, title)
    figures.save(diagram, folder / "calibration.png")
    figures.save(_worst(found), folder / "worst.png")


def _worst(found: Assessment) -> Any:
    losses = scores.losses_of(found.log_probabilities, found.labels)
    # What is no number comes first; among equals the order is that of the split.
    places = np.argsort(-np.nan_to_num(losses, nan=np.inf), kind="stable")[:WORST]
    predicted = scores.predictions(found.log_probabilities)
    names = found.dataset.class_names
    captions = []
    for i in places:
        true = names[found.labels[i]]
        said = "nothing"
        if predicted[i] >= 0:
            probability = np.exp(found.log_probabilities[i, predicted[i]])
            said = f"{names[predicted[i]]} ({100 * probability:.0f} %)"
        between = (
            " \N{RIGHTWARDS ARROW} " if len(true) + len(said) < 18 else " \N{RIGHTWARDS ARROW}\n"
        )
        captions.append(f"{true}{between}{said}\nno. {i}")
    images = found.dataset.open(found.split).read(places)["image"]
    title = (
        f"{found.dataset.name}, {found.split}: highest loss (true \N{RIGHTWARDS ARROW} predicted)"
    )
    return gallery(images, captions, title)


def _percent(figure: Estimate) -> str:
    return f"{100 * figure.value:.2f} % ({100 * figure.low:.2f} to {100 * figure.high:.2f})"


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """An estimate becomes three columns: NAME, NAME_low, NAME_high."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= {
                name: value["value"],
                f"{name}_low": value["low"],
                f"{name}_high": value["high"],
            }
        else:
            flat[name] = value
    return flat


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)

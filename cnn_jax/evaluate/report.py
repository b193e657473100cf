"""Score networks and committees on a split, and write the folder that reports it.

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
ARROW = "\N{RIGHTWARDS ARROW}"


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
    """Predict a split and score the predictions; None is the split evaluated in training."""
    experiment = trained.experiment
    feed = open_feed(experiment.dataset, split or experiment.eval_split, kind, readers=0)
    metrics: dict[str, float] = {}
    if views == 1:  # the same bits as in training, whatever its loss and metrics are
        evaluate = make_evaluator(experiment, batch_size)
        metrics = evaluate(trained.params, trained.model_state, feed)
    log_probabilities, labels = predict(trained, feed, batch_size, views)
    return Assessment(
        run=trained.run,
        step=trained.step,
        dataset=experiment.dataset,
        split=feed.split,
        views=views,
        metrics=metrics,
        log_probabilities=log_probabilities,
        labels=labels,
        scores=scores.score(log_probabilities, labels),
    )


def committee(members: Sequence[Assessment]) -> Assessment:
    """Average the probabilities of networks that have passed `check_committee`.

    Sources: Krizhevsky et al. (2012), table 2; Cireşan et al. (2011).
    """
    first = members[0]
    log_probabilities = mean_probability([member.log_probabilities for member in members])
    return Assessment(
        run=f"committee of {len(members)}",
        step=None,
        dataset=first.dataset,
        split=first.split,
        views=first.views,
        metrics={},
        log_probabilities=log_probabilities,
        labels=first.labels,
        scores=scores.score(log_probabilities, first.labels),
    )


def check_committee(networks: Sequence[Trained], split: str | None) -> None:
    """Refuse networks that do not predict the same examples and classes.

    Raises:
        UserError: with the first difference.
    """
    if len(networks) < 2:
        raise UserError("--committee needs several runs")
    first, *others = (_subject(trained, split) for trained in networks)
    for trained, other in zip(networks[1:], others, strict=True):
        for what in first:
            if other[what] != first[what]:
                raise UserError(
                    f"no committee: {networks[0].run} and {trained.run} differ in {what}: "
                    f"{first[what]} and {other[what]}"
                )


def _subject(trained: Trained, split: str | None) -> dict[str, Any]:
    data, split = trained.experiment.dataset, split or trained.experiment.eval_split
    return {
        "dataset": data.name,
        "split": split,
        "classes": ", ".join(data.class_names),
        "number of examples": data.num_examples(split),
        "content of the split": content_sha256(data, split),
    }


def row(assessment: Assessment) -> dict[str, Any]:
    """The figures of a network or committee, ready for one line of JSON.

    The scores are {"value", "low", "high"} each. `loss` and the experiment's metrics, which are the
    same bits as in training, are there for one view only.
    """
    names = ("run", "step", "split", "views")
    about = {name: getattr(assessment, name) for name in names}
    figures = {
        name: value._asdict() if isinstance(value, Estimate) else value
        for name, value in vars(assessment.scores).items()
    }
    return about | assessment.metrics | figures


def write(folder: Path, assessments: Sequence[Assessment]) -> None:
    """Write the folder that the first lines of this file describe."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row(assessment) for assessment in assessments]
    (folder / "evaluation.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    flat = [_flat(values) for values in rows]
    columns = list(dict.fromkeys(name for values in flat for name in values))
    _write_csv(folder / "evaluation.csv", columns, ([v.get(c) for c in columns] for v in flat))
    taken: set[str] = set()
    for assessment in assessments:
        is_committee = assessment.step is None
        base = assessment.run if is_committee else Path(assessment.run).resolve().name
        name = free_name(base.replace(" ", "-"), taken)
        taken.add(name)
        _write_one(folder / name, assessment)


def free_name(base: str, taken: Container[str]) -> str:
    """The first of base, base-2, base-3, … that is not taken: runs may have equal names."""
    names = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _write_one(folder: Path, assessment: Assessment) -> None:
    folder.mkdir()
    predictions = (assessment.log_probabilities, assessment.labels)
    names = assessment.dataset.class_names
    table, classes = scores.confusion(*predictions), scores.per_class(*predictions, names)
    columns = list(asdict(classes[0]))
    _write_csv(folder / "per_class.csv", columns, (asdict(one).values() for one in classes))
    lines = ([name, *line] for name, line in zip(names, table.tolist(), strict=True))
    _write_csv(folder / "confusion.csv", ["true \\ predicted", *names], lines)

    error = assessment.scores.top1_error
    title = f"{assessment.dataset.name}, {assessment.split}: error {_percent(error)}"
    figures.save(confusion_matrix(table, names, title), folder / "confusion.png")

    bins = scores.calibration(*predictions)
    interval = np.full((len(bins.count), 2), np.nan)
    for i in np.flatnonzero(bins.count):
        right = np.arange(bins.count[i]) < round(bins.accuracy[i] * bins.count[i])
        interval[i] = scores.proportion(right)[1:]
    title = f"calibration error {_percent(assessment.scores.calibration_error)}"
    diagram = reliability_diagram(bins.count, bins.confidence, bins.accuracy, interval, title)
    figures.save(diagram, folder / "calibration.png")
    figures.save(_worst(assessment), folder / "worst.png")


def _worst(assessment: Assessment) -> Any:
    """The gallery of the examples with the highest loss."""
    log_probabilities, labels = assessment.log_probabilities, assessment.labels
    losses = scores.losses_of(log_probabilities, labels)
    # NaN comes first; examples of equal loss keep the order of the split.
    places = np.argsort(-np.nan_to_num(losses, nan=np.inf), kind="stable")[:WORST]
    predicted = scores.predictions(log_probabilities)
    names = assessment.dataset.class_names
    captions = []
    for i in places:
        true = names[labels[i]]
        prediction = "nothing"
        if predicted[i] >= 0:
            probability = np.exp(log_probabilities[i, predicted[i]])
            prediction = f"{names[predicted[i]]} ({100 * probability:.0f} %)"
        space = " " if len(true) + len(prediction) < 18 else "\n"
        captions.append(f"{true} {ARROW}{space}{prediction}\nno. {i}")
    images = assessment.dataset.open(assessment.split).read(places)["image"]
    subject = f"{assessment.dataset.name}, {assessment.split}"
    return gallery(images, captions, f"{subject}: highest loss (true {ARROW} predicted)")


def _percent(figure: Estimate) -> str:
    return f"{100 * figure.value:.2f} % ({100 * figure.low:.2f} to {100 * figure.high:.2f})"


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Turn each estimate into three columns: NAME, NAME_low, NAME_high."""
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
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)

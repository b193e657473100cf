"""Open a run: its experiment and the parameters of a checkpoint. The only way to do so."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from cnn_jax import runs
from cnn_jax.data import content_sha256
from cnn_jax.devices import parallel
from cnn_jax.errors import UserError, warn
from cnn_jax.experiment import Experiment, Variables
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.seeds import Several, folder_name, stack
from cnn_jax.step import TrainState, init_state

Step = int | Literal["best"] | None  # of a checkpoint: a step, the best, or None for the last


class Restored(NamedTuple):
    """A checkpoint of a run, read and checked."""

    experiment: Experiment
    step: int
    state: TrainState  # NumPy arrays
    about: dict[str, Any]  # what else the checkpoint holds, see `Checkpoints.about`
    changes: list[str]  # the differences between what it says of its run and what is here

    def on_devices(self, run: str) -> "Trained":
        """The network with its parameters on the devices, under the name `run`."""
        params, model_state = parallel.replicate((self.state.params, self.state.model_state))
        return Trained(run, self.step, self.experiment, params, model_state)


class Trained(NamedTuple):
    """A network with the parameters of a checkpoint, on the devices."""

    run: str
    step: int
    experiment: Experiment
    params: Any
    model_state: Any

    @property
    def variables(self) -> Variables:
        """The arguments of the model's `apply`: parameters and the collections of its state."""
        return {"params": self.params, **self.model_state}


def load_experiment(folder: Path, data_dir: Path | None = None) -> Experiment:
    """Build the experiment of a run folder as it was trained, members included.

    Args:
        data_dir: where prepared datasets lie; None is where the run had them.

    Raises:
        UserError: no run is there, or it cannot be built here.
    """
    build, config, data_dir_then = runs.load(folder)
    several = Several(**runs.describe(folder)["several"])
    variants, data_dir = several.variants(config), data_dir or data_dir_then
    if variants == [{}]:
        return build(config, data_dir)
    stacked = stack(build, config, variants, data_dir, "resident")
    if stacked is None:
        raise UserError(f"{folder} holds trainings side by side that cannot be stacked here")
    return stacked


def restore(folder: Path, step: Step = None, data_dir: Path | None = None) -> Restored:
    """Rebuild a run's experiment from its folder, and read all that a checkpoint holds.

    Args:
        folder: a run folder.
        step: of a checkpoint; "best" is the one with the highest metric, None the last.
        data_dir: where prepared datasets lie; None is where the run had them.

    Raises:
        UserError: there is no run, no such checkpoint, or its data are not prepared.
        Damaged: what is read is not what was saved.
    """
    experiment = load_experiment(folder, data_dir)
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} has no checkpoint yet")
    best = next(iter(experiment.metrics), None)
    like = jax.eval_shape(lambda: init_state(experiment))
    with Checkpoints(folder / "checkpoints", best=best, read_only=True) as checkpoints:
        number, state, about = _read(checkpoints, step, like)
    content = runs.describe(folder)
    data = {"dataset": describe_data(experiment)}
    changes = [
        *runs.departures(folder, about["receipt"]),
        *runs.changed_imports(about["receipt"].get("imports", {})),
        *runs.identity_changes({"dataset": content["dataset"]}, data),
    ]
    return Restored(experiment, number, state, about, changes)


def _read(checkpoints: Checkpoints, step: Step, like: Any) -> tuple[int, Any, dict[str, Any]]:
    """Read a checkpoint: its step, state and what else it holds."""
    while True:
        if isinstance(step, int):
            number = step
        else:
            number = checkpoints.best() if step else checkpoints.latest()
        if number is None:
            raise UserError(f"{checkpoints.folder} has no checkpoint yet, or none was evaluated")
        try:
            return number, checkpoints.restore(number, like), checkpoints.about(number)
        except UserError:
            # The run may be training, and have removed this one for a newer one.
            checkpoints.refresh()
            if isinstance(step, int) or number in checkpoints.steps():
                raise


def describe_data(experiment: Experiment) -> dict[str, Any]:
    """The entry of an experiment's data in a receipt. Raises UserError for an unknown split."""
    data = experiment.dataset
    stored = {split for split, _, _ in data.open(experiment.train_split).ranges}
    content = content_sha256(data, experiment.train_split) if stored != {"train"} else None
    return {
        "name": data.name,
        "version": data.version,
        "sha256": data.statistics.sha256,  # of the pixels and labels of "train"
        "eval_sha256": content_sha256(data, experiment.eval_split),
        "train": data.num_examples(experiment.train_split),
        "eval": data.num_examples(experiment.eval_split),
        "classes": list(data.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
        **({"train_sha256": content} if content else {}),  # of the split that is trained on
    }


def open_run(folder: Path, step: Step = None, data_dir: Path | None = None) -> Trained:
    """Put the parameters of a run's checkpoint on the devices; arguments and errors: `restore`'s.

    Those of trainings side by side stay stacked. A warning names what is no longer as it was when
    the run was trained: config, script, scripts that it imports, data.
    """
    restored = restore(folder, step, data_dir)
    if restored.changes:
        warn(f"{folder} is not as it was trained: {'; '.join(restored.changes)}")
    return restored.on_devices(str(folder))


def open_networks(folder: Path, step: Step = None, data_dir: Path | None = None) -> list[Trained]:
    """The network of a run, or each of those that were trained there side by side, named by what
    distinguishes it: "RUN:seed-3". Arguments and errors: `restore`'s.
    """
    trained = open_run(folder, step, data_dir)
    members = trained.experiment.members
    if members is None:
        return [trained]

    def member(k: int) -> Trained:
        values = {name: column[k].item() for name, column in members.values.items()}
        params, model_state = jax.tree.map(lambda x: x[k], (trained.params, trained.model_state))
        run = f"{folder}:{folder_name(values)}"
        return Trained(run, trained.step, members.of(values), params, model_state)

    return [member(k) for k in range(len(members.seeds))]


def open_network(
    folder: Path, member: int = 0, step: Step = None, data_dir: Path | None = None
) -> Trained:
    """The network of a run, or the member of that number of those trained there side by side.

    Raises:
        UserError: `restore`'s, or there is no such member.
    """
    networks = open_networks(folder, step, data_dir)
    if not 0 <= member < len(networks):
        raise UserError(f"{folder} has the members 0 to {len(networks) - 1}, not {member}")
    return networks[member]


def open_named(
    folders: Sequence[Path],
    names: Sequence[str] = (),
    step: Step = None,
    data_dir: Path | None = None,
) -> dict[str, Trained]:
    """The networks of several runs by name; without `names`, by the names of their folders.

    Raises:
        UserError: there is no run, the names are not as many or not different, or `restore`'s.
    """
    if not folders:
        raise UserError("give at least one run folder")
    if names and len(names) != len(folders):
        raise UserError(f"--names gives {len(names)} names for {len(folders)} runs")
    labels = names or [folder.resolve().name for folder in folders]
    if len(set(labels)) < len(labels):
        raise UserError(f"runs need different names, got {', '.join(labels)}: choose --names")
    return {
        name + network.run.removeprefix(str(folder)): network
        for name, folder in zip(labels, folders, strict=True)
        for network in open_networks(folder, step, data_dir)
    }

"""`preflight`: what a run would cost."""

import json as json_module
from pathlib import Path

from rich.console import Console

from cnn_jax.check import preflight as preflights
from cnn_jax.cli import find_experiment, run_script
from cnn_jax.commands.arguments import Script, Unknown
from cnn_jax.experiment import Experiment
from cnn_jax.train import Options


def preflight(experiment: Script, json: bool = False, *, flags: Unknown = ()) -> None:
    """Say what training will cost, in seconds and without training: work, memory, disk.

    All other flags are the experiment's own.

    Args:
        experiment: A module, experiments.lenet5_mnist, or a file.
        json: Print JSON instead of a table.
    """

    def report(experiment: Experiment, options: Options, folder: Path) -> None:
        found = preflights.preflight(experiment, options, folder)
        print(json_module.dumps(found)) if json else Console().print(preflights.table(found))

    run_script(find_experiment(experiment), flags, report)

"""The receipt of a run: what made it, as JSON, and how one receipt differs from another.

config.json of the run folder is the receipt. A checkpoint keeps a copy, with the script's text and
with the options and environment of the process that wrote it.
"""

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_jax.errors import UserError
from cnn_jax.errors.machine_limits import unreadable
from cnn_jax.errors.wording import change
from cnn_jax.runs.environment import differences, environment, file_sha256, imported_scripts
from cnn_jax.runs.json_files import check_fields, read_json
from cnn_jax.runs.settings import to_json

# The content of config.json.
CONTENT: Mapping[str, type] = {
    "experiment": str,  # the script's name
    "origin": str,  # where the script lay: the files that it imports may lie beside it
    "config": dict,
    "dataset": dict,  # name, version, hashes, sizes, classes, mean and deviation
    "several": dict,  # the seeds or values that are trained side by side, if there are several
    "imports": dict,  # {module: SHA-256} of the scripts that the script imports
    "options": dict,
    "environment": dict,
    # The processes that went on with other options or in another environment:
    # {"step", "options", "environment"} of each.
    "continued": list,
    "overridden": list,  # earlier configs, see --override-config
}
# What is used of its parts.
SEVERAL: Mapping[str, Any] = {"seeds": int, "sweep": str | None}
PROCESS: Mapping[str, Any] = {"options": dict, "environment": dict}
OPTIONS: Mapping[str, Any] = {"data_dir": str | None, "eval_batch_size": int, "feed": str}
# Options that decide where a run takes place and not what it computes.
PLACES = ("workdir", "data_dir", "stop_at", "override_config") + (
    ("distributed", "coordinator", "num_processes", "process_id")
)


def identity(
    script: Path,
    config: Any,
    dataset: Mapping[str, Any],
    several: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The values by which a run is recognized.

    Args:
        dataset: the entry of its data, from `trained.describe_data`.
        several: the seeds or values that are trained side by side, if there are several.
    """
    return {
        "experiment": script.stem,
        "config": to_json(config),
        "dataset": dict(dataset),
        "several": dict(several or {}),
        "imports": imported_scripts(script),
    }


def describe(folder: Path) -> dict[str, Any]:
    """Read config.json. Raises UserError if there is none, or it is damaged or cannot be read."""
    path = folder / "config.json"
    try:
        content = read_json(path, CONTENT)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not a run folder: it has no config.json") from error
    check_fields(path, content["dataset"], {"train": int})
    check_fields(path, content["several"], SEVERAL if content["several"] else {})
    check_fields(path, {"batch_size": 1} | content["config"], {"batch_size": int})
    for process in (content, *content["continued"]):
        check_fields(path, process, PROCESS)
        check_fields(path, process["options"], OPTIONS)
    return {name: content[name] for name in CONTENT}


def finished(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read config.json and result.json of a run that reached its last step.

    Raises:
        UserError: it did not, or one of the files is damaged or cannot be read.
    """
    content = describe(folder)
    try:
        return content, read_json(folder / "result.json", {"step": int, "split": str})
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not finished: it has no result.json") from error


def checkpoint_receipt(folder: Path, seed: int, options: Any) -> dict[str, Any]:
    """The copy of the receipt that each checkpoint of the run in `folder` carries.

    Args:
        options: those of this process, which may be others than the run began with.

    Returns:
        the content of config.json, "script", its text, and "seed"; {} if `folder` is no run folder.
    """
    if not (folder / "config.json").exists():
        return {}
    script = (folder / "experiment.py").read_text(encoding="utf-8")
    process = {"options": to_json(options), "environment": environment()}
    return describe(folder) | process | {"seed": seed, "script": script}


def last_process(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The "options" and "environment" of the process that brought the run of a receipt furthest."""
    return content["continued"][-1] if content["continued"] else content


def continuations(content: Mapping[str, Any]) -> list[str]:
    """A phrase for each way in which a run went on otherwise than it began."""
    processes = [content, *content["continued"]]
    return [
        f"from step {after['step']} on, {change}"
        for before, after in itertools.pairwise(processes)
        for change in process_changes(before, after)
    ]


def chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those of `PLACES`."""
    return {name: value for name, value in options.items() if name not in PLACES}


def process_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for each difference between the options and environments of two processes."""
    old, new = chosen(then["options"]), chosen(now["options"])
    options = [
        change(name, old.get(name), new.get(name))
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]
    return options + differences(then["environment"], now["environment"])


def identity_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A phrase for each difference between two identities."""
    return [change(*difference) for difference in changes(old, new)]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The differences of two identities: (name in words, value in `old`, value in `new`)."""
    one, two = _flat(old), _flat(new)
    return [
        (name, one.get(name), two.get(name))
        for name in dict.fromkeys((*two, *one))
        if one.get(name) != two.get(name)
    ]


def departures(folder: Path, receipt: Mapping[str, Any]) -> list[str]:
    """A phrase for each way in which a run folder is not what the receipt of a checkpoint says.

    A config that was overridden since is no difference.
    """
    if not receipt:
        return ["its checkpoint says nothing of the run that wrote it"]
    content = describe(folder)
    if receipt.get("config") in content["overridden"]:
        content["config"] = receipt["config"]
    phrases = identity_changes(receipt, content)
    if script_text(folder) != receipt.get("script"):
        phrases.append("experiment.py has changed")
    return phrases


def changed_imports(imports: Mapping[str, str]) -> list[str]:
    """A phrase for each script that a run's script imports and that is not what it was.

    To be asked once the script is loaded: the files compared are those that were imported.

    Args:
        imports: the SHA-256 of each when the run began.
    """
    phrases = []
    for name, sha256 in imports.items():
        source = getattr(sys.modules.get(name), "__file__", None)
        if source is None:
            continue  # the script that is loaded now does not import it
        if not Path(source).is_file() or file_sha256(Path(source)) != sha256:
            phrases.append(f"{name}, which experiment.py imports, has changed")
    return phrases


def script_text(folder: Path) -> str:
    """The script of a run folder. Raises UserError if it cannot be read."""
    path = folder / "experiment.py"
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: it is not UTF-8") from error


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an identity that are compared, by the names that messages call them."""
    return {
        "experiment": identity.get("experiment"),
        **identity.get("config", {}),
        **identity.get("several", {}),
        **{f"the script {name}": sha for name, sha in identity.get("imports", {}).items()},
        **{f"the dataset's {name}": value for name, value in identity.get("dataset", {}).items()},
    }

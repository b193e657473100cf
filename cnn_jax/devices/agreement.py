"""The settings that all processes of a run must have in common, and how they are compared.

JAX by itself compares nothing: processes that differ wait for each other or compute different
numbers.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cnn_jax.errors import UserError
from cnn_jax.errors.wording import contrast
from cnn_jax.runs.environment import environment, source_sha256

# JAX's settings that may differ between processes, by parts of their names: folders, addresses,
# what is logged, and the devices that each of them sees.
_OF_A_PROCESS = ("cache", "dump", "visible_devices", "address", "log", "traceback", "pprint")
_NUMERICAL = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")  # environment variables


def surroundings() -> dict[str, Any]:
    """List what, besides commands, must be the same in all processes of a run: {name: value}."""
    variables = {name: os.environ.get(name, "") for name in _NUMERICAL}
    settings = {
        name: str(value)
        for name, value in jax.config.values.items()
        if not any(part in name for part in _OF_A_PROCESS)
    }
    versions = {"Python": platform.python_version(), "JAX": jax.__version__}
    return {"the source of cnn_jax": source_sha256(), **versions, **variables, **settings}


def equipment() -> dict[str, Any]:
    """The packages and devices that must be the same in all processes of a run, which have met.

    Processors of two kinds round differently, so that the processes' parameters would drift apart.
    """
    here = environment()
    names = ["platform", "platform_version", "device"]
    names += ["processor"] if here["platform"] == "cpu" else []
    return here["packages"] | {f"the {name.replace('_', ' ')}": here[name] for name in names}


def describe_differences(settings: Mapping[int, Mapping[str, Any]]) -> str:
    """Say in one line how the settings of processes differ from process 0's; "" if none do."""
    first = settings[0]
    phrases = [
        "{} is {} in process 0 and {} in process {}".format(
            name, *contrast(first.get(name), settings[k].get(name)), k
        )
        for k in sorted(settings)
        for name in dict.fromkeys((*first, *settings[k]))
        if settings[k].get(name) != first.get(name)
    ]
    if not phrases:
        return ""
    more = f" (and {len(phrases) - 3} more)" if len(phrases) > 3 else ""
    return (
        f"the processes of this run differ: {'; '.join(phrases[:3])}{more}: start all with the "
        "same command, code and settings"
    )


def check_equal(what: str, value: object) -> None:
    """Refuse, in every process, a value that is not the same in all of them; all wait for it."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(repr(value).encode()).digest(), np.uint32)
    digests = np.asarray(multihost_utils.process_allgather(digest))
    if (digests != digests[0]).any():
        raise UserError(
            f"the processes do not see the same {what}, this one {value}: --workdir must be one "
            "folder for all, and its file system up to date"
        )


def check_same(values: Mapping[str, Any]) -> None:
    """Refuse, in every process, JSON values that are not the same in all; all wait for it.

    Raises:
        UserError: it names the values that differ.
    """
    count = jax.process_count()
    if count == 1:
        return
    text = np.frombuffer(json.dumps(values).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(text.size)))
    texts = multihost_utils.process_allgather(np.resize(text, sizes.max()))
    everyone = {k: json.loads(np.asarray(texts[k])[: sizes[k]].tobytes()) for k in range(count)}
    if refusal := describe_differences(everyone):
        raise UserError(refusal)

"""Save and restore any pytree of arrays, and know damage when it is met. The only file that says
Orbax.

Arrays are copied to the host before they are written, so a checkpoint has no trace of the devices
that made it (it restores on any number of them), training may go on and reuse its buffers while
the write is under way, and a write that is killed half-way is never taken for a checkpoint
(Orbax writes beside, then renames).

Orbax's steps, folders, barriers and policies are used as they are; the arrays themselves go into
one file, STEP/state/arrays.safetensors. Orbax's own handlers would write them as TensorStore does,
in pieces and in parallel, which costs 2 ms of Python per array: for a small network, saved often,
more than training itself leaves to spare.

Every checkpoint holds the shapes and a SHA-256 of its arrays. What is read is compared with it:
arrays that come back are those that were saved, or `Damaged` is raised.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as managers
from orbax.checkpoint import future
from safetensors import SafetensorError

from cnn_jax.errors import UserError
from cnn_jax.runs import arrays

WRITE_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError)
ARRAYS = "arrays.safetensors"


class Damaged(UserError):
    """A checkpoint whose files are not what was written."""


class Checkpoints:
    """The checkpoints of one run folder: the last `keep`, and the one with the highest `best`."""

    def __init__(
        self,
        folder: Path,
        keep: int = 3,
        best: str | None = None,
        read_only: bool = False,
        receipt: Mapping[str, Any] | None = None,
    ):
        """Open the checkpoints in `folder`.

        Args:
            best: the name of a metric; None keeps no best one.
            receipt: what each checkpoint says of the run that wrote it, as JSON.
        """
        self.folder = folder
        self._receipt = dict(receipt or {})
        self._metric = best
        self._scores: dict[int, float | None] = {}
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._begun: Future[None] | None = None
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(
                    [managers.LatestN(keep), _Best(self.best)]
                ),
                read_only=read_only,
                create=not read_only,
            ),
            item_names=("state",),
            item_handlers={"state": _OneFile()},
        )

    def latest(self) -> int | None:
        """The newest step that was saved, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step whose metric was highest when it was saved, or None; the last of equals."""
        scored = [(score, n) for n in self.steps() if (score := self._score(n)) is not None]
        return max(scored)[1] if scored else None

    def steps(self) -> list[int]:
        """All steps that were saved and kept, in order."""
        return sorted(self._manager.all_steps())

    def present(self) -> list[int]:
        """Steps with something by their name, newest first, whether it is a checkpoint or not."""
        numbered = {int(path.name) for path in self.folder.glob("*") if path.name.isdecimal()}
        return sorted(numbered | set(self.steps()), reverse=True)

    def save(self, step: int, state: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Start writing `state` and return once it is copied; an earlier write is waited for.

        Without `metrics` the checkpoint does not compete for the best. Before anything is read,
        `wait`.

        Raises:
            UserError: an earlier write failed, for want of space perhaps.
        """
        self.wait()
        host = jax.tree.map(partial(np.array, order="C"), state)
        evaluation = dict(metrics or {})
        self._scores[step] = evaluation.get(self._metric or "")
        if jax.process_count() > 1:  # Orbax's barriers keep their place among the steps
            self._write(step, host, evaluation)
        else:  # Orbax takes some ms to begin, in which a CPU or GPU would have nothing to do
            self._begun = self._thread.submit(self._write, step, host, evaluation)

    def _write(self, step: int, host: Any, evaluation: Mapping[str, float]) -> None:
        about = json.dumps(
            {
                "sha256": arrays.sha256(host),
                "arrays": arrays.describe(host),
                "evaluation": evaluation,
                "receipt": self._receipt,
            }
        )
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(state=_Saved(host)),
                force=True,
                custom_metadata={"about": about, "about_sha256": _text_sha256(about)},
            )
        except WRITE_ERRORS as error:
            raise self._unwritten(error) from error

    def about(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself: "sha256", "arrays", "evaluation" and "receipt".

        Raises:
            UserError: there is no such step.
            Damaged: it cannot be read.
        """
        if step not in self._manager.all_steps():
            there = ", ".join(map(str, self.steps())) or "none"
            raise UserError(f"{self.folder} has no checkpoint of step {step}; there are: {there}")
        try:
            held = dict(self._manager.metadata(step).custom_metadata or {})
            if not {"about", "about_sha256"} <= held.keys():
                raise ValueError("it has no checksum, or is of an older version of this package")
            if _text_sha256(held["about"]) != held["about_sha256"]:
                raise ValueError(
                    "what it says of itself does not have the checksum it was saved with"
                )
            return json.loads(held["about"])
        except Exception as error:  # whatever the reader of a damaged file comes to
            raise self._damaged(step, error) from error

    def restore(self, step: int, like: Any) -> Any:
        """Read the state of `step` as NumPy arrays.

        Args:
            like: a pytree of arrays or `jax.ShapeDtypeStruct` with the structure that was saved.

        Raises:
            UserError: there is no such step, or its arrays are not those of `like`.
            Damaged: what is read is not what was saved.
        """
        about, wanted = self.about(step), arrays.describe(like)
        if about["arrays"] != wanted:
            there = about["arrays"]
            name = next(n for n in (*wanted, *there) if wanted.get(n) != there.get(n))
            raise UserError(
                f"checkpoint {self.folder / str(step)} is of another model or optimizer: {name} is "
                f"{there.get(name, 'absent')} there and {wanted.get(name, 'absent')} here"
            )
        try:
            args = ocp.args.Composite(state=_Restored(like))
            restored = self._manager.restore(step, args=args)["state"]
        except Exception as error:  # whatever the reader of a damaged file comes to
            raise self._damaged(step, error) from error
        if arrays.sha256(restored) != about["sha256"]:
            raise self._damaged(step, "its arrays do not have the checksum they were saved with")
        return restored

    def restore_newest(
        self, like: Any, say: Callable[[str], object], set_aside: Path | None = None
    ) -> tuple[int, Any] | None:
        """Read the newest checkpoint that is whole: `(step, state)`, or None if there are none.

        Args:
            say: told of each damaged one that is passed over.
            set_aside: where those are moved, so that their steps can be saved again.

        Raises:
            UserError: there are checkpoints and none is whole, or they are not of `like`.
        """
        steps = self.present()
        for step in steps:
            try:
                state = self.restore(step, like)
            except Damaged as error:
                damage = str(error)
            except UserError as error:
                if step in self.steps():
                    raise
                damage = f"checkpoint {self.folder / str(step)} is damaged: {error}"
            else:
                self._set_aside([s for s in steps if s > step], set_aside)
                return step, state
            say(f"{damage}; trying the one before it")
        if steps:
            raise UserError(
                f"none of the checkpoints in {self.folder} is whole: remove the folder to start "
                "from the beginning"
            )
        return None

    def wait(self) -> None:
        """Return when everything saved is on disk. Raises UserError for a write that failed."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.result()
        try:
            self._manager.wait_until_finished()
        except WRITE_ERRORS as error:
            raise self._unwritten(error) from error

    def close(self) -> None:
        self._thread.shutdown()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _score(self, step: int) -> float | None:
        if step not in self._scores and self._metric is not None:
            try:
                self._scores[step] = self.about(step)["evaluation"].get(self._metric)
            except Damaged:
                self._scores[step] = None
        return self._scores.get(step)

    def _set_aside(self, steps: list[int], elsewhere: Path | None) -> None:
        if not steps or elsewhere is None:
            return
        if jax.process_index() == 0:
            elsewhere.mkdir(parents=True, exist_ok=True)
            for step in steps:
                count = len(list(elsewhere.glob(f"{step}*")))
                shutil.move(self.folder / str(step), elsewhere / f"{step}-{count}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._manager.reload()

    def _damaged(self, step: int, error: Exception | str) -> Damaged:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Damaged(f"checkpoint {self.folder / str(step)} is damaged: {reason[:300]}")

    def _unwritten(self, error: Exception) -> UserError:
        whole = self.latest()
        last = "there is none" if whole is None else f"the last whole one is of step {whole}"
        reason = " ".join(str(error).split())
        return UserError(f"no checkpoint can be written to {self.folder}, {last}: {reason[-300:]}")


class _Best:
    """Orbax's rule for what to keep, by a score that the metadata holds.

    Orbax's own metrics are a file that a manager of checkpoints cannot be opened without.
    """

    def __init__(self, best: Callable[[], int | None]):
        self._best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        best = self._best()
        return [info.step == best for info in checkpoints]


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class _OneFile(ocp.AsyncCheckpointHandler):
    """Orbax's way to be told how a part of a checkpoint is written and read."""

    def save(self, directory: Path, args: "_Saved") -> None:
        if jax.process_index() == 0:  # all processes have the same state
            arrays.write(args.state, directory / ARRAYS)

    async def async_save(self, directory: Path, args: "_Saved") -> list[future.Future]:
        async def save() -> None:
            self.save(directory, args)

        return [future.CommitFutureAwaitingContractedSignals(save(), name="arrays")]

    def restore(self, directory: Path, args: "_Restored") -> Any:
        if (directory / "_METADATA").exists():
            raise ValueError("its arrays are as an older version of this package wrote them")
        return arrays.read(directory / ARRAYS, args.like)


@ocp.args.register_with_handler(_OneFile, for_save=True)
@dataclasses.dataclass
class _Saved(ocp.args.CheckpointArgs):
    state: Any


@ocp.args.register_with_handler(_OneFile, for_restore=True)
@dataclasses.dataclass
class _Restored(ocp.args.CheckpointArgs):
    like: Any

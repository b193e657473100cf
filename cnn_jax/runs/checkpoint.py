"""Save and restore any pytree of arrays with Orbax, and find damage. The only file that uses Orbax.

A checkpoint is what Orbax's `StandardSave` writes, in the folder STEP/default, so that
`ocp.StandardCheckpointer().restore("RUN/checkpoints/STEP/default")` and an `ocp.CheckpointManager`
of RUN/checkpoints read it. Orbax copies the arrays before `save` returns, so that training can go
on and reuse its buffers while they are written. It writes into a folder beside and renames that, so
a save that is killed half-way is never taken for a checkpoint.

The arrays are saved as NumPy arrays, without a trace of the devices that computed them: they
restore on any number of devices.

Orbax's metadata of a step hold, besides the receipt and the run's metrics so far, the step, a
SHA-256 of the arrays and one of the metadata themselves. What is read is compared with them: arrays
that come back are those that were saved, or `Damaged` is raised.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as managers

from cnn_jax.errors import UserError
from cnn_jax.errors.machine_limits import limit_reached
from cnn_jax.errors.wording import message
from cnn_jax.runs import arrays

ITEM = "default"  # Orbax's own name: its managers find such an item without being told of it
WRITE_ERRORS = (OSError, ValueError, RuntimeError)


def quieten_orbax() -> None:
    """Silence what Orbax prints of errors that it then raises, or that follow from those.

    It logs their tracebacks. And when one of several reads or writes fails, it closes the event
    loop that the others will report to, for each of which Python would print a traceback.
    """

    def print_unraisable(event: Any) -> None:
        if str(event.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(event)

    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = print_unraisable


class Damaged(UserError):
    """A checkpoint is not what was saved."""


class Checkpoints:
    """The checkpoints of a run, in one folder: the last `keep`, and the one with the best metric.

    As a context manager it waits at the end for what is still being written.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 3,
        best: str | None = None,
        read_only: bool = False,
    ):
        """Open the checkpoints in `folder`.

        Args:
            best: the metric by which the checkpoint with the highest value is kept; None for none.
        """
        self.folder = folder
        self._metric = best
        self._scores: dict[int, float | None] = {}
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(
                    [managers.LatestN(keep), _Best(self.best)]
                ),
                read_only=read_only,
                create=not read_only,
            ),
            item_names=(ITEM,),
        )

    def latest(self) -> int | None:
        """The newest step that was saved, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step with the highest metric, the last of equals; None if no step has that metric.

        NaN is no metric, which would be the highest or not as it is compared with others.
        """
        scores = [(self._score(n), n) for n in self.steps()]
        scored = [(score, n) for score, n in scores if score is not None and score == score]
        return max(scored)[1] if scored else None

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in ascending order."""
        return sorted(self._manager.all_steps())

    def present(self) -> list[int]:
        """The steps that name a file or folder, newest first, whether it is a checkpoint or not."""
        numbered = {int(path.name) for path in self.folder.glob("*") if path.name.isdecimal()}
        return sorted(numbered | set(self.steps()), reverse=True)

    def refresh(self) -> None:
        """Look again at what is on the disk, where another process may save and remove."""
        self._manager.reload()

    def save(
        self,
        step: int,
        state: Any,
        evaluation: Mapping[str, float] | None = None,
        receipt: Mapping[str, Any] | None = None,
        metrics_jsonl: str = "",
    ) -> None:
        """Copy `state` and start writing it; an earlier write is waited for.

        Call `wait` before reading.

        Args:
            evaluation: metrics; without them the checkpoint does not compete for the best.
            receipt: the run that writes it, as JSON values.
            metrics_jsonl: the lines of that file so far.

        Raises:
            UserError: this write or an earlier one failed, for lack of space perhaps.
        """
        self.wait()
        stored, evaluation = arrays.to_stored(state), dict(evaluation or {})
        self._scores[step] = evaluation.get(self._metric or "")
        about = {
            "step": step,
            "sha256": arrays.sha256(state),
            "arrays": arrays.describe(state),
            "evaluation": evaluation,
            "receipt": dict(receipt or {}),
            "metrics_jsonl": metrics_jsonl,
        }
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(**{ITEM: ocp.args.StandardSave(stored)}),
                force=True,
                custom_metadata=about | {"about_sha256": _json_sha256(about)},
            )
        except WRITE_ERRORS as error:
            raise self._unwritten(error) from error

    def about(self, step: int) -> dict[str, Any]:
        """Read what was stored with the arrays.

        Returns:
            "step", "sha256", "arrays" (their types and shapes), "evaluation", "receipt" and
            "metrics_jsonl", as `save` had them.

        Raises:
            UserError: there is no such step, it was renamed, or it may not be read.
            Damaged: it is not what was saved.
        """
        if step not in self._manager.all_steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise UserError(f"{self.folder} has no checkpoint of step {step}; there are: {known}")
        try:
            about = dict(self._manager.metadata(step).custom_metadata or {})
            if about.pop("about_sha256", None) != _json_sha256(about):
                raise ValueError("its metadata do not have the checksum they were saved with")
        except Exception as error:  # readers of damaged files raise all sorts of things
            raise self._unreadable(step, error) from error
        if about["step"] != step:
            raise UserError(
                f"checkpoint {self.folder / str(step)} was saved as step {about['step']}: give the "
                "folder that name again, or remove it"
            )
        return about

    def restore(self, step: int, like: Any) -> Any:
        """Read the state of `step` as NumPy arrays; random keys come back as keys.

        Args:
            like: a pytree of arrays or `jax.ShapeDtypeStruct` with the structure that was saved.

        Raises:
            UserError: `about`'s, or its arrays are not those of `like`.
            Damaged: what is read is not what was saved.
        """
        about, expected = self.about(step), arrays.describe(like)
        saved = about["arrays"]
        if saved != expected:
            name = next(n for n in (*expected, *saved) if expected.get(n) != saved.get(n))
            raise UserError(
                f"checkpoint {self.folder / str(step)} is of another model or optimizer: {name} is "
                f"{saved.get(name, 'absent')} there and {expected.get(name, 'absent')} here"
            )
        try:
            shapes = ocp.args.StandardRestore(arrays.stored_shapes(like))
            restored = self._manager.restore(step, args=ocp.args.Composite(**{ITEM: shapes}))
            state = arrays.from_stored(restored[ITEM], like)
        except Exception as error:  # readers of damaged files raise all sorts of things
            raise self._unreadable(step, error) from error
        if arrays.sha256(state) != about["sha256"]:
            raise self._damaged(step, "its arrays do not have the checksum they were saved with")
        return state

    def restore_newest(
        self,
        like: Any,
        say: Callable[[str], object],
        set_aside: Path | None = None,
        check: Callable[[int, Mapping[str, Any]], object] = lambda step, receipt: None,
    ) -> tuple[int, Any] | None:
        """Read the newest whole checkpoint: `(step, state)`, or None if there is no checkpoint.

        Args:
            say: called with a line about each damaged checkpoint that is passed over.
            set_aside: the folder to move those to, so that their steps can be saved again.
            check: called with the step and receipt of a checkpoint; raises UserError if it is not
                of this run.

        Raises:
            UserError: none of the checkpoints is whole, one is not of this run, was renamed or may
                not be read, or their arrays are not those of `like`.
        """
        steps = self.present()
        for step in steps:
            try:
                if step in self.steps():
                    check(step, self.about(step)["receipt"])
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
        try:
            self._manager.wait_until_finished()
        except WRITE_ERRORS as error:
            raise self._unwritten(error) from error

    def close(self) -> None:
        """Wait, as `wait` does, and release Orbax's threads."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(*WRITE_ERRORS):  # Orbax raises what `wait` said once more
                self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # What ended the block is what the user must hear, not what follows from it.
        with contextlib.nullcontext() if kind is None else contextlib.suppress(UserError):
            self.close()

    def _score(self, step: int) -> float | None:
        if step not in self._scores and self._metric is not None:
            try:
                self._scores[step] = self.about(step)["evaluation"].get(self._metric)
            except Damaged:
                self._scores[step] = None
        return self._scores.get(step)

    def _set_aside(self, steps: list[int], target: Path | None) -> None:
        if not steps or target is None:
            return
        if jax.process_index() == 0:
            target.mkdir(parents=True, exist_ok=True)
            for step in steps:
                count = len(list(target.glob(f"{step}*")))
                shutil.move(self.folder / str(step), target / f"{step}-{count}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._manager.reload()

    def _unreadable(self, step: int, error: Exception) -> UserError:
        """Tell damage from a machine's limit where reading a checkpoint raised `error`."""
        folder = self.folder / str(step)
        if not all(os.access(p, os.R_OK, effective_ids=True) for p in (folder, *folder.rglob("*"))):
            # Orbax takes what it may not read for missing.
            error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        if limit := limit_reached(error):
            return UserError(f"checkpoint {folder} cannot be read: {limit}")
        return self._damaged(step, message(error))

    def _damaged(self, step: int, reason: str) -> Damaged:
        return Damaged(f"checkpoint {self.folder / str(step)} is damaged: {reason[:300]}")

    def _unwritten(self, error: Exception) -> UserError:
        latest = self.latest()
        last = "there is none" if latest is None else f"the last whole one is of step {latest}"
        reason = limit_reached(error) or message(error)[-300:]
        return UserError(f"no checkpoint can be written to {self.folder}, {last}: {reason}")


class _Best:
    """Preserve the best checkpoint by a score that its metadata hold.

    Orbax's own metrics are a file without which a manager of checkpoints cannot be opened.
    """

    def __init__(self, best: Callable[[], int | None]):
        self._best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        best = self._best()
        return [info.step == best for info in checkpoints]


def _json_sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

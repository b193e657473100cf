"""Save and restore any pytree of arrays. The only file that says Orbax.

Arrays are copied to the host before they are written, so a checkpoint has no trace of the devices
that made it (it restores on any number of them), training may go on and reuse its buffers while
the write is under way, and a write that is killed half-way is never taken for a checkpoint
(Orbax writes beside, then renames).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from cnn_jax.errors import UserError


class Checkpoints:
    """The checkpoints of one run folder: the last `keep`, and the one with the highest `best`."""

    def __init__(
        self, folder: Path, keep: int = 3, best: str | None = None, read_only: bool = False
    ):
        """Open the checkpoints in `folder`; `best` names a metric, None keeps no best one."""
        latest = managers.LatestN(keep)
        highest = managers.BestN(
            get_metric_fn=lambda metrics: metrics[best], n=1, keep_checkpoints_without_metrics=False
        )
        policy = managers.AnyPreservationPolicy([latest, highest]) if best else latest
        self.folder = folder
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                # Only makes Orbax write the metrics down, so that the best survives a restart.
                best_fn=(lambda metrics: metrics[best]) if best else None,
                read_only=read_only,
                create=not read_only,
            ),
            item_names=("state",),
        )

    def latest(self) -> int | None:
        """The newest step that was saved whole, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step whose metric was highest when it was saved, or None."""
        return self._manager.best_step()

    def steps(self) -> list[int]:
        """All steps that were saved whole and kept, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Start writing `state` and return once it is copied; an earlier write is waited for.

        Without `metrics` the checkpoint does not compete for the best.
        """
        host = jax.tree.map(np.array, state)
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(host)),  # pyright: ignore
            metrics=dict(metrics) if metrics else None,
            force=True,
        )

    def restore(self, step: int, like: Any) -> Any:
        """Read the state of `step` as NumPy arrays.

        Args:
            like: a pytree of arrays or `jax.ShapeDtypeStruct` with the structure that was saved.

        Raises:
            UserError: there is no such step, or its arrays do not have the shapes of `like`.
        """
        if step not in self._manager.all_steps():
            there = ", ".join(map(str, self.steps())) or "none"
            raise UserError(f"{self.folder} has no checkpoint of step {step}; there are: {there}")
        target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))  # pyright: ignore
        try:
            restored = self._manager.restore(step, args=args)["state"]
        except ValueError as error:  # Orbax's word for a tree of another structure
            raise UserError(
                f"checkpoint {self.folder / str(step)} is of another model or optimizer: "
                f"{' '.join(str(error).split())}"
            ) from error
        for (path, want), got in zip(
            jax.tree_util.tree_leaves_with_path(target), jax.tree.leaves(restored), strict=True
        ):
            if want.shape != got.shape:  # Orbax only cuts or pads
                raise UserError(
                    f"checkpoint {self.folder / str(step)} is of another model: "
                    f"{jax.tree_util.keystr(path)} is {got.shape} there and {want.shape} here"
                )
        return restored

    def wait(self) -> None:
        """Return when everything saved is on disk; a write that failed raises here."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

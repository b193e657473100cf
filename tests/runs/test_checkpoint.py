"""Checkpoints: what is restored is what was saved, whole, and the right ones are kept."""

import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from cnn_jax.errors import UserError
from cnn_jax.runs.checkpoint import Checkpoints

STATE = {
    "step": jnp.asarray(7, jnp.int32),
    "params": {
        "kernel": jnp.arange(12, dtype=jnp.float32).reshape(3, 4) / 7,
        "half": jnp.ones(3, "bfloat16"),
    },
    "model_state": {},
    "opt_state": ((), (jnp.full((3, 4), jnp.nan), jnp.asarray(-1, jnp.int32))),
}


def zeros_like(state: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, state)


def assert_identical(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2, best="accuracy")


def save_some(checkpoints: Checkpoints, accuracies: dict[int, float | None]) -> None:
    for step, accuracy in accuracies.items():
        metrics = None if accuracy is None else {"accuracy": accuracy, "loss": 1.0}
        checkpoints.save(step, STATE | {"step": jnp.asarray(step, jnp.int32)}, metrics)
    checkpoints.wait()


def test_what_was_saved_is_restored_bit_for_bit(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None and checkpoints.best() is None
    checkpoints.save(7, STATE)
    checkpoints.wait()
    assert checkpoints.latest() == 7
    restored = checkpoints.restore(7, zeros_like(STATE))
    assert_identical(restored, STATE)
    shapes = jax.eval_shape(lambda: STATE)
    assert_identical(checkpoints.restore(7, shapes), STATE)
    assert {type(leaf) for leaf in jax.tree.leaves(restored)} == {np.ndarray}


def test_other_programs_can_read_the_arrays(checkpoints: Checkpoints) -> None:
    checkpoints.save(7, STATE)
    checkpoints.wait()
    with safe_open(checkpoints.folder / "7" / "state" / "arrays.safetensors", "numpy") as file:
        assert {"step", "params/kernel", "params/half", "opt_state/1/0"} <= set(file.keys())
        np.testing.assert_array_equal(file.get_tensor("params/kernel"), STATE["params"]["kernel"])


def test_the_state_may_be_reused_as_soon_as_save_returns(checkpoints: Checkpoints) -> None:
    state = {"x": np.arange(1000.0)}
    donated = {"y": jnp.arange(1000.0)}
    checkpoints.save(1, state | donated)
    state["x"][:] = -1
    jax.jit(lambda y: y + 1, donate_argnums=0)(donated["y"]).block_until_ready()
    checkpoints.wait()
    restored = checkpoints.restore(1, {"x": np.zeros(1000), "y": np.zeros(1000, np.float32)})
    np.testing.assert_array_equal(restored["x"], np.arange(1000.0))
    np.testing.assert_array_equal(restored["y"], np.arange(1000.0))


def test_the_last_ones_and_the_best_are_kept(checkpoints: Checkpoints) -> None:
    save_some(checkpoints, {10: 0.5, 20: 0.9, 30: 0.7, 35: None, 40: 0.8, 50: None})
    assert checkpoints.steps() == [20, 40, 50]
    assert (checkpoints.best(), checkpoints.latest()) == (20, 50)


def test_the_best_survives_a_restart(checkpoints: Checkpoints) -> None:
    save_some(checkpoints, {10: 0.9, 20: 0.5})
    checkpoints.close()
    again = Checkpoints(checkpoints.folder, keep=2, best="accuracy")
    save_some(again, {30: 0.6, 40: None, 50: 0.7})
    assert again.steps() == [10, 40, 50] and again.best() == 10


def test_without_a_metric_the_last_ones_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    save_some(checkpoints, {10: 0.9, 20: 0.5, 30: None})
    assert checkpoints.steps() == [20, 30]


def test_reading_writes_nothing(checkpoints: Checkpoints, tmp_path: Path) -> None:
    save_some(checkpoints, {10: 0.5, 20: 0.9, 30: 0.7})
    checkpoints.close()
    before = sorted(tmp_path.rglob("*"))
    reader = Checkpoints(checkpoints.folder, keep=1, best="accuracy", read_only=True)
    assert (reader.latest(), reader.best()) == (30, 20)
    assert_identical(reader.restore(20, zeros_like(STATE))["params"], STATE["params"])
    reader.close()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_step_is_refused_with_those_there_are(checkpoints: Checkpoints) -> None:
    with pytest.raises(UserError, match="no checkpoint of step 3; there are: none"):
        checkpoints.restore(3, STATE)
    save_some(checkpoints, {10: None, 20: None})
    with pytest.raises(UserError, match="no checkpoint of step 3; there are: 10, 20"):
        checkpoints.restore(3, STATE)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (
            {"kernel": jnp.zeros((3, 5))},
            r"\['kernel'\] is float32\(3, 4\) there and .*3, 5\) here",
        ),
        (
            {"kernel": jnp.zeros((2, 2))},
            r"\['kernel'\] is float32\(3, 4\) there and .*2, 2\) here",
        ),
        ({"another": jnp.zeros(1)}, "another model or optimizer"),
    ],
    ids=["larger", "smaller", "structure"],
)
def test_another_models_checkpoint_is_refused(
    checkpoints: Checkpoints, kernel: dict[str, Any], message: str
) -> None:
    save_some(checkpoints, {10: None})
    like = STATE | {"params": STATE["params"] | kernel}
    with pytest.raises(UserError, match=message) as raised:
        checkpoints.restore(10, like)
    assert "\n" not in str(raised.value)


def test_what_a_kill_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    first = Checkpoints(folder)
    save_some(first, {10: 0.5})
    first.close()
    # Orbax writes into a folder of such a name and renames it when all is there.
    for name in ("20.orbax-checkpoint-tmp", "20.orbax-checkpoint-tmp-1732345678901234"):
        shutil.copytree(folder / "10", folder / name)
        shutil.rmtree(folder / name / "state")
    again = Checkpoints(folder)
    assert again.latest() == 10 and again.steps() == [10]
    assert_identical(again.restore(10, zeros_like(STATE))["params"], STATE["params"])
    save_some(again, {20: 0.6})
    assert again.latest() == 20
    assert_identical(again.restore(20, zeros_like(STATE))["params"], STATE["params"])


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space left is met wherever the bytes go: when folders are made, and in the arrays."""
    checkpoints.save(10, STATE)
    checkpoints.wait()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = STATE | {"params": {"kernel": jnp.asarray(np.random.default_rng(0).random(50_000))}}
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limit[1]))  # bytes of one file
        with pytest.raises(UserError, match="no checkpoint can be written .* step 10: "):
            checkpoints.save(20, large)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert_identical(checkpoints.restore(10, zeros_like(STATE)), STATE)

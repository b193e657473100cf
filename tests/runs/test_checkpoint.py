"""Checkpoints: what is restored is what was saved, whole, and the right ones are kept."""

import importlib.util
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from cnn_jax import cli
from cnn_jax.errors import UserError
from cnn_jax.runs.arrays import sha256, to_stored
from cnn_jax.runs.checkpoint import Checkpoints, quieten_orbax
from cnn_jax.trained import restore

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


def test_orbax_alone_lists_and_reads_them(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """In a process that imports nothing but JAX and Orbax, and with another manager's options."""
    save_some(checkpoints, {10: 0.5, 20: None})
    program = f"""
import jax
import orbax.checkpoint as ocp

folder, shapes = {str(checkpoints.folder)!r}, jax.ShapeDtypeStruct((3, 4), "float32")
with ocp.StandardCheckpointer() as checkpointer:
    print(checkpointer.restore(folder + "/20/default")["params"]["kernel"].tolist())
with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=5)) as manager:
    print(manager.all_steps(), manager.latest_step())
    print(manager.restore(10, args=ocp.args.StandardRestore())["params"]["kernel"].tolist())
    print(manager.metadata(10).custom_metadata["evaluation"])
with ocp.CheckpointManager(folder) as manager:
    print(list(manager.restore(20)))
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    kernel = np.asarray(STATE["params"]["kernel"]).tolist()
    expected = [
        str(kernel),
        "[10, 20] 20",
        str(kernel),
        "{'accuracy': 0.5, 'loss': 1.0}",
        "['model_state', 'opt_state', 'params', 'step']",
    ]
    assert process.stdout.splitlines() == expected, process.stderr


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_random_keys_are_saved_and_restored(impl: str, checkpoints: Checkpoints) -> None:
    state = {"key": jax.random.key(3, impl=impl), "keys": jax.random.split(jax.random.key(4), 5)}
    checkpoints.save(1, state)
    checkpoints.wait()
    restored = checkpoints.restore(1, jax.eval_shape(lambda: state))
    assert_identical(jax.tree.map(jax.random.key_data, restored), to_stored(state))
    assert restored["key"].dtype == state["key"].dtype
    assert sha256(restored) == sha256(state)
    assert sha256(restored) != sha256(state | {"key": jax.random.key(2, impl=impl)})
    other = {"threefry2x32": "rbg", "rbg": "unsafe_rbg"}[impl]
    with pytest.raises(UserError, match="another model or optimizer: ..key.. is key<"):
        checkpoints.restore(1, state | {"key": jax.random.key(3, impl=other)})


NOISY = """
import dataclasses

import jax
import optax
import tiny

Config = tiny.Config


def build(config, data_dir=None):
    experiment = tiny.build(config, data_dir)
    noise = optax.add_noise(0.01, 0.55, jax.random.key(3))
    return dataclasses.replace(experiment, optimizer=optax.chain(noise, experiment.optimizer))
"""


def test_a_run_whose_optimizer_holds_a_random_key_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "noisy.py"
    script.write_text(NOISY)
    spec = importlib.util.spec_from_file_location("noisy", script)
    assert spec is not None and spec.loader is not None
    noisy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "noisy", noisy)
    spec.loader.exec_module(noisy)

    def train(name: str, *flags: str) -> str:
        arguments = ["--workdir", str(tmp_path / name), *flags]
        cli.main(noisy.Config, noisy.build, tiny.OPTIONS, arguments=arguments)
        return sha256(restore(tmp_path / name).state)

    straight = train("straight")
    assert train("stopped", "--stop-at", "6") != straight
    assert train("stopped") == straight


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


def test_a_block_ends_when_all_is_on_disk(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, STATE)
    assert (tmp_path / "7" / "default" / "_METADATA").exists()


def test_the_last_ones_and_the_best_are_kept(checkpoints: Checkpoints) -> None:
    save_some(checkpoints, {10: 0.5, 20: 0.9, 30: 0.7, 35: None, 40: 0.8, 50: None})
    assert checkpoints.steps() == [20, 40, 50]
    assert (checkpoints.best(), checkpoints.latest()) == (20, 50)


def test_a_metric_that_is_no_number_is_not_the_best(checkpoints: Checkpoints) -> None:
    save_some(checkpoints, {10: float("nan"), 20: 0.5, 30: float("nan"), 40: 0.4, 50: 0.3})
    assert checkpoints.best() == 20 and checkpoints.steps() == [20, 40, 50]


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
        shutil.rmtree(folder / name / "default")
    again = Checkpoints(folder)
    assert again.latest() == 10 and again.steps() == [10]
    assert_identical(again.restore(10, zeros_like(STATE))["params"], STATE["params"])
    save_some(again, {20: 0.6})
    assert again.latest() == 20
    assert_identical(again.restore(20, zeros_like(STATE))["params"], STATE["params"])


def test_reads_and_writes_that_end_after_a_failure_print_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed: list[SimpleNamespace] = []
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # restored at the end
    monkeypatch.setattr(sys, "__unraisablehook__", printed.append)
    quieten_orbax()
    late, other = (
        SimpleNamespace(exc_value=RuntimeError(text)) for text in ("Event loop is closed", "other")
    )
    for event in (late, other):
        sys.unraisablehook(event)  # pyright: ignore[reportArgumentType]
    assert printed == [other]


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

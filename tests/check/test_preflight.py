"""What `preflight` says of a run is what the papers' arithmetic, the arrays and the disk say."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import programs
import pytest
import tiny
from jax import lax
from rich.console import Console

from cnn_jax.check.preflight import preflight, table
from cnn_jax.data import array_dataset
from cnn_jax.devices import parallel
from cnn_jax.errors import UserError
from cnn_jax.experiment import Experiment
from cnn_jax.models import MLP, AlexNet2014, LeNet5
from cnn_jax.options import Options
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.step import init_state

TINY = tiny.build(tiny.Config())  # 1,437 + 360 images of 8x8x1, batches of 24, 12 steps
OPTIONS = Options()


@pytest.fixture(autouse=True)
def nothing_written_or_compiled(tmp_path: Path) -> Iterator[None]:
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    before = list(tmp_path.rglob("*"))
    jax.monitoring.register_event_duration_secs_listener(listen)
    with contextlib.chdir(tmp_path):
        yield
    jax.monitoring.unregister_event_duration_listener(listen)
    assert list(tmp_path.rglob("*")) == before and not compiled


def on_blank_images(model: Any, image: tuple[int, int, int], classes: int = 10) -> Experiment:
    """An experiment with four examples, which nobody may read."""

    def fetch(split: str, positions: list[int], out: Any) -> None:
        raise AssertionError(f"{split} was read")

    split = (np.zeros((4, *image), np.uint8), np.arange(4))
    data = array_dataset("blank", {"train": split, "test": split}, list(map(str, range(classes))))
    data = dataclasses.replace(data, _fetch=fetch)
    return Experiment(model, optax.sgd(0.1), data, "train", "test", batch_size=2, steps=6, seed=0)


# ---- work ----

# Multiply-adds of each layer: output pixels and maps times the numbers that each of them sees.
MULTIPLY_ADDS = {
    "MLP": (MLP(), (28, 28, 1), 10, 636_010, [784 * 800, 800 * 10]),
    "LeNet5": (
        LeNet5(),
        (28, 28, 1),
        10,
        61_706,
        [28 * 28 * 6 * 25, 10 * 10 * 16 * 6 * 25, 400 * 120, 120 * 84, 84 * 10],
    ),
    "AlexNet2014": (
        AlexNet2014(),
        (224, 224, 3),
        1000,
        61_100_840,
        [
            55 * 55 * 64 * 11 * 11 * 3,
            27 * 27 * 192 * 5 * 5 * 64,
            13 * 13 * 384 * 3 * 3 * 192,
            13 * 13 * 256 * 3 * 3 * 384,
            13 * 13 * 256 * 3 * 3 * 256,
            9216 * 4096,
            4096 * 4096,
            4096 * 1000,
        ],
    ),
}


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_parameters_and_work_of_published_networks(name: str, tmp_path: Path) -> None:
    model, image, classes, parameters, layers = MULTIPLY_ADDS[name]
    said = preflight(on_blank_images(model, image, classes), OPTIONS, tmp_path)["model"]
    # Backward, each layer has two products of the same size, the first only that by its input.
    training = 3 * sum(layers) - layers[0]
    assert said == {
        "parameters": parameters,
        "flops_forward": 2 * sum(layers),
        "flops_training": 2 * training,
        "flops_step": 2 * training * 2,
        "flops_run": 2 * training * 2 * 6,
    }


def test_the_work_of_alexnet_is_the_published_one() -> None:
    assert round(sum(MULTIPLY_ADDS["AlexNet2014"][-1]) / 1e6) == 714  # torchvision's 0.71 GFLOPS


class Unusual:
    """Strides, groups, a loop, a choice, and a kernel that is made of two matrices."""

    def init(self, key: jax.Array, images: jax.Array, /) -> Mapping[str, Any]:
        del key, images
        shapes = {"a": (3, 3, 1, 4), "b": (3, 3, 2, 4), "left": (4, 7), "right": (7, 4)}
        return {"params": {name: jnp.ones(shape) for name, shape in shapes.items()}}

    def apply(self, variables: Any, images: jax.Array, /, **options: Any) -> tuple[jax.Array, Any]:
        del options
        params, numbers = variables["params"], ("NHWC", "HWIO", "NHWC")
        x = images
        for name, pad in (("a", 1), ("b", 0)):
            pads = [(pad, pad)] * 2
            x = lax.conv_general_dilated(
                x, params[name], (2, 2), pads, dimension_numbers=numbers, feature_group_count=2
            )
        kernel = params["left"] @ params["right"]
        x = x.reshape(-1, 4)
        x, _ = lax.scan(lambda x, _: (jnp.tanh(x @ kernel), None), x, length=3)
        return lax.cond(x.sum() > 0, lambda x: x @ kernel, lambda x: x, x), {}


def test_work_inside_loops_choices_and_grouped_strided_convolutions(tmp_path: Path) -> None:
    said = preflight(on_blank_images(Unusual(), (8, 8, 2), classes=4), OPTIONS, tmp_path)["model"]
    a, b = 4 * 4 * 4 * 9 * 1, 1 * 1 * 4 * 9 * 2
    products = 3 * 4 * 4 + 4 * 4  # the loop's and the choice's; left @ right is not per example
    assert said["flops_forward"] == 2 * (a + b + products)
    assert said["flops_training"] == 2 * (2 * a + 3 * b + 3 * products)


# ---- memory ----


def test_memory_of_the_tiny_experiment(tmp_path: Path) -> None:
    memory = preflight(TINY, OPTIONS, tmp_path)["memory"]
    parameters = 4 * ((3 * 3 * 4 + 4) + (6 * 6 * 4 * 10 + 10))
    activations = memory["by"].pop("activations")
    assert memory["by"] == {
        "parameters": parameters,
        "optimizer_state": parameters,  # the momentum
        "model_state": 4 * 4,
        "gradients": parameters,
        "resident_data": (1437 + 360) * (8 * 8 + 4),
        "streamed_data": 0,
    }
    # C1's patches of 3 rows and 8 columns (its form for a CPU), two masks of bytes, the linear
    # layer's input and the softmax; a few numbers per example more.
    kept = 24 * (6 * 24 * 4 + 2 * 144 + 144 * 4 + 10 * 4)
    assert kept <= activations <= 1.01 * kept
    assert memory["total"] == sum(memory["by"].values()) + activations
    assert memory["device"] == parallel.device_memory() and memory["fits"]


def memory_of(experiment: Experiment, **options: Any) -> dict[str, Any]:
    return preflight(experiment, dataclasses.replace(OPTIONS, **options), Path("run"))["memory"]


def test_a_batch_is_split_over_devices_and_pieces() -> None:
    one = memory_of(TINY)["by"]
    with programs.simulated_devices(4):
        run = preflight(TINY, OPTIONS, Path("run"))["run"]
        spread, in_pieces = (memory_of(TINY, accumulate=n)["by"] for n in (1, 3))
    assert (run["batch_size"], run["devices"], run["batch_per_device"]) == (24, 4, 6)
    assert spread["activations"] == pytest.approx(one["activations"] / 4, rel=0.01)
    assert in_pieces["activations"] == pytest.approx(one["activations"] / 12, rel=0.02)
    assert in_pieces["gradients"] == 2 * spread["gradients"] == 2 * one["gradients"]
    with (
        programs.simulated_devices(4),
        pytest.raises(UserError, match="24 does not divide by 4 devices times 4 micro-batches"),
    ):
        memory_of(TINY, accumulate=4)


def test_a_streamed_dataset_is_on_the_device_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    by = memory_of(TINY, feed="stream", steps_per_dispatch=5)["by"]
    assert by["resident_data"] == 0
    assert by["streamed_data"] == 3 * 5 * 24 * (8 * 8 + 4)
    # By itself it is streamed where it needs more than a quarter: train does, test does not.
    monkeypatch.setattr(parallel, "device_memory", lambda: 4 * 360 * 64)
    memory = memory_of(TINY, steps_per_dispatch=100)  # of 12
    assert memory["by"]["resident_data"] == 360 * (8 * 8 + 4)
    assert memory["by"]["streamed_data"] == 3 * 12 * 24 * (8 * 8 + 4)
    assert not memory["fits"]


# ---- data, steps, disk ----


def test_data_and_steps(tmp_path: Path) -> None:
    said = preflight(TINY, OPTIONS, tmp_path)
    assert said["data"] == {
        "name": "digits",
        "version": TINY.dataset.version,
        "image": [8, 8, 1],
        "train": ["train", 1437],
        "eval": ["test", 360],
    }
    assert said["run"]["steps"] == 12
    assert said["run"]["epochs"] == pytest.approx(12 * 24 / 1437)
    assert json.loads(json.dumps(said)) == said


@pytest.mark.parametrize(
    ("options", "steps", "every", "written", "kept"),
    [
        (Options(), 12, 60, 1, 1),  # an epoch, in whole dispatches of 10
        (Options(steps_per_dispatch=3, checkpoint_every=6), 12, 6, 2, 2),
        (Options(steps_per_dispatch=1, checkpoint_every=5), 12, 5, 3, 3),
        (Options(steps_per_dispatch=1, checkpoint_every=1), 12, 1, 12, 4),  # three and the best
        (Options(steps_per_dispatch=1, checkpoint_every=1, keep=1, stop_at=7), 7, 1, 7, 2),
    ],
)
def test_checkpoints_by_the_options(
    options: Options, steps: int, every: int, written: int, kept: int, tmp_path: Path
) -> None:
    said = preflight(TINY, options, tmp_path)
    checkpoints = said["checkpoints"]
    assert said["run"]["steps"] == steps
    assert [checkpoints[name] for name in ("every", "written", "kept")] == [every, written, kept]
    assert checkpoints["needed"] == checkpoints["each"] * min(written, kept + 1)


def test_a_checkpoint_is_as_large_as_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    """On the disk, but for 10 kB of names and notes."""
    each = preflight(TINY, OPTIONS, Path("run"))["checkpoints"]["each"]
    rng, shapes = np.random.default_rng(0), jax.eval_shape(lambda: init_state(TINY))
    state = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes)
    assert each == sum(x.nbytes for x in jax.tree.leaves(state))
    folder = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert each <= size <= each + 10_000


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(steps_per_dispatch=1, checkpoint_every=1, keep=2)
    folder = tmp_path / "runs" / "one"  # not there yet: the disk is that of what is
    needed = 4 * preflight(TINY, options, folder)["checkpoints"]["each"]  # two, the best, the next
    for free, fits in ((needed, True), (needed - 1, False)):

        def usage(path: Path, free: int = free) -> Any:
            assert path == tmp_path
            return shutil._ntuple_diskusage(10 * needed, 10 * needed - free, free)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        said = preflight(TINY, options, folder)
        assert said["checkpoints"]["free"] == free
        assert said["checkpoints"]["fits"] == fits
        assert ("too little" in printed(said)) == (not fits)


# ---- the table ----


def printed(said: dict[str, Any]) -> str:
    console = Console(width=90, color_system=None)
    with console.capture() as capture:
        console.print(table(said))
    return capture.get()


def test_the_table_is_in_human_units_and_aligned(tmp_path: Path) -> None:
    experiment = on_blank_images(MLP(), (28, 28, 1))
    experiment = dataclasses.replace(experiment, train_split="train[:50%]")
    shown = printed(preflight(experiment, OPTIONS, tmp_path))
    rows = {" ".join(line.split()) for line in shown.splitlines()}
    assert rows >= {
        "data: blank in memory",
        "examples to train on 2 in train[:50%]",  # not taken for markup
        "parameters 636,010",
        "forward, per example 1.27 MFLOP",
        "per step 5.11 MFLOP",
        "parameters 2.54 MB",
        "gradients 2.54 MB",
        "epochs 6",
        "size of one 2.54 MB",
    }
    assert "optimizer state" not in shown  # there is none
    values = [line.rstrip() for line in shown.splitlines() if line.startswith("    ")]
    assert len({len(line) for line in values if line}) == 1

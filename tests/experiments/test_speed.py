"""The speed benchmark: its requests and records, and that both frameworks do the same work."""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data import Dataset, array_dataset
from cnn_jax.devices import feed as feeds
from cnn_jax.devices import parallel
from cnn_jax.errors import UserError
from cnn_jax.experiment import Experiment
from cnn_jax.figures.speed import growth_curves
from cnn_jax.step import evaluation_logits, init_state, make_advance
from experiments import ladder
from experiments.bench.speed import __main__ as command
from experiments.bench.speed import (
    growth,
    jax_layer_worker,
    jax_networks,
    jax_worker,
    layers,
    loop_worker,
    table,
)
from experiments.bench.speed.driver import Worker, WorkerFailed, ratios, spread, take_rounds, warm
from experiments.bench.speed.task import SIZES, Task, noise, standard

ROOT = table.PAGE.parents[1]
SCRIPTS = {
    "mlp": ("mlp_mnist", {}),
    "lenet5": ("lenet5_mnist", {}),
    "alexnet2014": ("alexnet2014_imagenette", {"image_size": 70, "width": 0.125}),
    "alexnet2012": (
        "alexnet2012_imagenette",
        {"image_size": 70, "width": 0.125, "train_split": "train", "eval_split": "train"},
    ),
}


def small(name: Any, **changes: Any) -> Task:
    size = 70 if name.startswith("alexnet") else 28
    width = 0.125 if name.startswith("alexnet") else 1.0
    return dataclasses.replace(Task(name, 8, size, dispatch=1, width=width), **changes)


class Fake:
    """A worker whose samples are given; `asked` is the order of all requests, of all workers."""

    def __init__(self, label: str, amounts: dict[str, float], answers: Any, asked: list[Any]):
        self.about: Mapping[str, Any] = {"amounts": amounts, "built_bytes": 5}
        self.label, self.answers, self.asked = label, iter(answers), asked

    def ask(self, **request: Any) -> dict[str, Any]:
        self.asked.append((self.label, request))
        return next(self.answers)


def test_every_round_asks_each_worker_once_and_the_order_changes() -> None:
    asked: list[Any] = []
    samples = [{"seconds": float(n)} for n in range(1, 13)]
    workers = {
        "jax": Fake("jax", {"train": 10, "gemm": 2}, samples, asked),
        "eager": Fake("eager", {"train": 5}, samples, asked),
        "fused": Fake("fused", {"train": 5}, samples, asked),
    }
    taken = take_rounds(workers, rounds=6, seconds=0.25)
    rounds = [asked[start : start + 4] for start in range(0, len(asked), 4)]
    assert len(rounds) == 6
    for one in rounds:
        assert sorted(label for label, _ in one[:3]) == ["eager", "fused", "jax"]
        assert all(request == {"time": "train", "seconds": 0.25} for _, request in one[:3])
        assert one[3] == ("jax", {"time": "gemm", "seconds": 0.25})
    assert len({tuple(label for label, _ in one) for one in rounds}) > 1
    # Seconds for each example: a call of the first is of 10, its samples are every second answer.
    np.testing.assert_allclose(taken["jax", "train"], [0.1, 0.3, 0.5, 0.7, 0.9, 1.1])
    np.testing.assert_allclose(taken["jax", "gemm"], [1, 2, 3, 4, 5, 6])
    np.testing.assert_allclose(taken["fused", "train"], [0.2, 0.4, 0.6, 0.8, 1.0, 1.2])


def test_a_worker_is_warmed_by_training_first() -> None:
    asked: list[Any] = []
    answers = [{"first": 9.0, "call": 1.0, "peak_bytes": 7}, {"first": 1, "call": 1}]
    start = warm(Fake("jax", {"train": 1, "forward": 1}, answers, asked))
    assert [request["warm"] for _, request in asked] == ["train", "forward"]
    expected = {"first_seconds": 9, "call_seconds": 1, "built_bytes": 5, "peak_bytes": 7}
    assert start == expected


def test_medians_quartiles_and_ratios_are_numpys() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.uniform(1, 2, (2, 9)).tolist()
    low, median, high = np.percentile(np.array(theirs) / np.array(ours), (25, 50, 75))
    assert ratios(ours, theirs) == pytest.approx({"median": median, "low": low, "high": high})
    assert spread([3.0, 1.0, 2.0, 5.0, 4.0]) == {"median": 3, "low": 2, "high": 4}


STARTS = {
    label: {"first_seconds": 5.5, "call_seconds": 0.5, "built_bytes": 1, "peak_bytes": 2e9}
    for label in ("jax", "eager", "fused")
}
SAMPLES = {
    ("jax", "train"): [0.01, 0.02, 0.01],
    ("eager", "train"): [0.02, 0.01, 0.09],  # its best round counts for nothing
    ("fused", "train"): [0.015, 0.015, 0.015],
    ("jax", "forward"): [0.001] * 3,
    ("eager", "forward"): [0.0005] * 3,
    ("fused", "forward"): [0.002] * 3,
    ("jax", "gemm"): [1e-10] * 3,
    ("eager", "gemm"): [0.5e-10] * 3,
    ("jax", "copy"): [1e-10] * 3,
}


def record() -> dict[str, Any]:
    run = {"network": "lenet5", "batch_size": 128, "image_size": 28, "dtype": "float32"}
    run |= {"flops_forward": 4e6, "flops_training": 1e7}
    run |= command.summarise(SAMPLES, STARTS)
    seconds = {"bare": [0.01] * 3, "loop": [0.0125] * 3, "pipeline": [0.0001] * 3}
    loop = {"name": "LeNet-5", "batch_size": 128}
    loop |= {name: spread(values) for name, values in seconds.items()}
    loop |= {"share": ratios(seconds["loop"], seconds["bare"])}
    return {"experiment": "speed", "runs": [run], "loops": [loop]}


def test_the_peer_of_the_best_median_counts_and_the_larger_limit() -> None:
    found = command.summarise(SAMPLES, STARTS)
    assert found["best_peer"] == {"train": "fused", "forward": "eager"}
    np.testing.assert_allclose(found["ratio"]["train"]["median"], 1.5)
    np.testing.assert_allclose(found["ratio"]["forward"]["median"], 0.5)
    assert found["contestants"]["eager"]["train"]["rounds"] == SAMPLES["eager", "train"]
    np.testing.assert_allclose(found["limits"]["gemm_per_second"], 2e10)
    calm = {("deterministic", "train"): [0.04, 0.04, 0.02]}
    more = command.summarise(SAMPLES | calm, STARTS | {"deterministic": STARTS["jax"]})
    assert more["best_peer"] == found["best_peer"]  # not ourselves
    assert more["ratio"]["deterministic"]["median"] == 0.5  # of 1 / 4, 1 / 2 and 1 / 2
    assert "| lenet5 | 25.0 | 50.0 % (37.5 to 50.0) |" in table.tables(
        {"runs": [record()["runs"][0] | more], "loops": []}
    )
    alone = {key: values for key, values in SAMPLES.items() if key[0] == "jax"}
    found = command.summarise(alone, {"jax": STARTS["jax"]})
    assert found["best_peer"] == found["ratio"] == {}
    assert "-" in table.speed([record()["runs"][0] | found])


def test_the_tables_say_what_the_record_does() -> None:
    text = table.tables(record())
    step = "| lenet5, 128 × 28², float32 | training step | 100.0 | 66.7 | fused "
    assert f"{step}| 1.50 (1.12 to 1.50) | 1 G | 5.0 % | 3.3 % |\n" in text
    rates = "| forward | 1,000 | 2,000 | eager | 0.50 (0.50 to 0.50) "
    assert f"{rates}| 4 G | 20.0 % | 40.0 % |\n" in text
    costs = "| lenet5 | 5.0 s | 5.0 s | 2,000 MB | 2,000 MB "
    assert f"{costs}| 20 GFLOP/s | 10 GB/s |\n" in text
    assert "| LeNet-5 | 128 | 80 | 100 | 80.0 % (80.0 to 80.0) | 10,000 |\n" in text


def test_the_page_has_the_tables_of_the_records() -> None:
    """And until there is one, page and scripts say so."""
    text = table.PAGE.read_text()
    assert table.filled(text) == text
    places = {place[2] for place in table.PLACE.finditer(text)}
    kinds = {"speed.__main__": "speed-{}.json", "speed.growth": "speed-growth-{}.json"}
    kinds |= {"speed.layers": "speed-layers-{}.json", "feeding": "feeding.json"}
    kinds |= {"checkpointing": "checkpointing.json"}
    for module, name in kinds.items():
        files = {name.format(device) for device in ("cpu", "gpu")}
        assert files <= places
        known = any((ladder.RECORDS / file).exists() for file in files)
        about = importlib.import_module(f"experiments.bench.{module}").__doc__ or ""
        assert ("no record yet" in about) != known


def test_readme_quotes_the_record() -> None:
    readme = (ROOT / "README.md").read_text()
    runs = ladder.load("speed-cpu")["runs"]  # pyright: ignore[reportOptionalSubscript]
    assert [run["network"] for run in runs] == ["mlp", "lenet5", "alexnet2014", "alexnet2012"]
    claims = [f"{run['ratio']['train']['median']:.2f}" for run in runs]
    names = ("(MLP)", "(LeNet-5)", "(AlexNet 2014)", "times (AlexNet 2012)")
    text = " ".join(readme.split())
    assert all(f"{claim} {name}" in text for claim, name in zip(claims, names, strict=True)), claims


def test_a_record_fills_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "RECORDS", tmp_path)
    (tmp_path / "speed-cpu.json").write_text(json.dumps(record()))
    page = "before\n<!-- speed-cpu.json -->\nold\n<!-- end -->\n"
    page += "<!-- speed-gpu.json -->\n<!-- end -->"
    content = f"<!-- speed-cpu.json -->\n{table.tables(record())}<!-- end -->"
    missing = "<!-- speed-gpu.json -->\nNo record yet.\n<!-- end -->"
    assert table.filled(page) == f"before\n{content}\n{missing}"


def test_a_peer_on_fewer_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=0"):
        command.run(command.Config(peer="torch"))


@pytest.mark.parametrize("changes", ({"rounds": 1}, {"seconds": 0.0}))
def test_what_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--rounds"):
        command.run(command.Config(**changes))
    with pytest.raises(UserError, match="--rounds"):
        growth.run(growth.Config(**changes))
    with pytest.raises(UserError, match="--rounds"):
        layers.run(layers.Config(**changes))


def test_a_peer_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install torch"):
        command.run(command.Config(peer="torch"))


def test_a_picture_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "there.png").touch()
    with pytest.raises(UserError, match="exists already"):
        growth.run(growth.Config(figure=tmp_path / "there.png"))


def test_a_worker_that_fails_says_why() -> None:
    """In a process that ends before it has imported anything."""
    with pytest.raises(WorkerFailed, match="No module named experiments.bench.speed.absent"):
        with contextlib.closing(Worker("absent", "no task")) as worker:
            warm(worker)


SERVER = """
from experiments.bench.speed.worker import Benchmark, serve

def run(calls):
    print("a library prints", calls)

def told(calls):
    return 0.5 * calls

serve({"run": Benchmark(run, 3), "told": Benchmark(told, 1, warm_up=False)}, {"version": "1"})
"""


def test_a_worker_answers_on_standard_output_and_nothing_else_does() -> None:
    requests = [{"warm": "run"}, {"warm": "told"}, {"time": "told", "seconds": 2}]
    requests += [{"time": "run", "seconds": 0}]
    done = subprocess.run(
        [sys.executable, "-c", SERVER],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        cwd=ROOT,
        text=True,
        check=True,
    )
    about, run, told, timed, once = map(json.loads, done.stdout.splitlines())
    assert about["amounts"] == {"run": 3, "told": 1} and about["version"] == "1"
    assert 0 < about["built_bytes"] <= run["peak_bytes"] and 0 < run["first"] < 1
    assert told["first"] == told["call"] == timed["seconds"] == 0.5
    assert once.keys() == {"seconds"}
    # Warmed twice, then a call that does not count, then one that does.
    assert done.stderr == "a library prints 1\n" * 4


class Stub(Fake):
    """A worker that answers everything at once, of two kinds of work."""

    def __init__(self, label: str, amounts: dict[str, float], asked: list[Any]):
        super().__init__(label, amounts, (), asked)
        self.about = {**self.about, "version": jax.__version__, "platform": "cpu"}

    def ask(self, **request: Any) -> dict[str, Any]:
        self.asked.append((self.label, request))
        return {"first": 5.5, "call": 0.5, "peak_bytes": 7, "seconds": 0.25}

    def close(self) -> None:
        self.asked.append((self.label, "closed"))


def test_a_network_is_timed_by_its_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The benchmark without its workers; a loop whose data are missing is left out by name."""
    asked: list[Any] = []
    tasks = []

    def start(module: str, task: str) -> Stub:
        tasks.append((module, Task(**json.loads(task))))
        return Stub("jax", {"train": 4, "forward": 4, "gemm": 2, "copy": 8}, asked)

    monkeypatch.setattr(command, "Worker", start)
    config = command.Config(("lenet5",), rounds=2, seconds=0.001, batch_size=4, data_dir=tmp_path)
    result = json.loads(json.dumps(command.run(config)))
    (run,) = result["runs"]
    assert tasks == [("jax_worker", *config.tasks())] and asked[-1] == ("jax", "closed")
    check_run(result, run)
    assert run["contestants"]["jax"]["train"]["rounds"] == [0.25 / 4] * 2
    assert run["limits"] == {"gemm_per_second": 8, "copy_per_second": 32}


def check_run(result: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Of LeNet-5 in batches of 4, without a peer and without data for a loop."""
    assert (run["parameters"], run["batch_size"], run["dispatch"]) == (61706, 4, 10)
    assert 2 * run["flops_forward"] < run["flops_training"] < 3 * run["flops_forward"]
    assert run["versions"] == {"jax": jax.__version__}
    assert result["loops"] == []
    assert "prepare" in result["loops_left_out"]["LeNet-5, MNIST, resident"]


def test_layers_are_timed_by_their_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    names = ["C1", "S2"]
    monkeypatch.setattr(layers, "Worker", lambda *_: Stub("jax", dict.fromkeys(names, 4), asked))
    (run,) = layers.run(layers.Config(("lenet5",), rounds=2, seconds=0.001, batch_size=4))["runs"]
    assert [row["layer"] for row in run["layers"]] == names and asked[-1] == ("jax", "closed")
    assert all(row["seconds"]["jax"]["median"] == 0.25 / 4 for row in run["layers"])


def test_the_deterministic_worker_asks_for_such_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")
    served = {}
    monkeypatch.setattr(jax_worker, "serve", lambda benchmarks, *_: served.update(benchmarks))
    monkeypatch.setattr(jax_worker, "training", lambda *_: None)
    jax_worker.main(small("mlp", training_only=True), deterministic=True)
    assert served.keys() == {"train"}
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=true"


@pytest.mark.slow
def test_a_tiny_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """JAX's side with its worker, a process of its own."""
    monkeypatch.setenv("XLA_FLAGS", "")  # a worker uses all devices, of which the tests have eight
    config = command.Config(("lenet5",), rounds=2, seconds=0.001, batch_size=4, data_dir=tmp_path)
    result = json.loads(json.dumps(command.run(config)))
    (run,) = result["runs"]
    check_run(result, run)
    own = run["contestants"]["jax"]
    assert all(len(own[work]["rounds"]) == 2 for work in ("train", "forward"))
    assert min(own["train"]["rounds"] + own["forward"]["rounds"]) > 0
    assert 0 < own["built_bytes"] <= own["peak_bytes"]
    assert run["limits"].keys() == {"gemm_per_second", "copy_per_second"}


@pytest.mark.slow
def test_a_tiny_run_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    config = layers.Config(("lenet5",), rounds=2, seconds=0.001, batch_size=4)
    (run,) = json.loads(json.dumps(layers.run(config)))["runs"]
    named = [row["layer"] for row in run["layers"]]
    assert named == ["C1", "S2", "C3", "S4", "C5", "F6", "output"]
    assert all(row["seconds"]["jax"]["median"] > 0 for row in run["layers"])
    assert run["versions"] == {"jax": jax.__version__}


def test_a_layer_goes_forward_and_backward() -> None:
    """A dense layer's output and gradients are NumPy's; of an image none is computed."""
    x, kernel, dy = jax.random.normal(jax.random.key(0), (3, 4, 4))
    params = {"kernel": kernel, "bias": jnp.arange(4.0)}
    given = (nn.Dense(4), False, params, x, dy)
    y, dparams, dx = jax_layer_worker.forward_and_backward(*given)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(y, x @ kernel + params["bias"])
    close(dx, dy @ kernel.T)
    close(dparams["kernel"], x.T @ dy)
    close(dparams["bias"], dy.sum(0))
    assert len(jax_layer_worker.forward_and_backward(given[0], True, params, x, dy)) == 2


@pytest.mark.parametrize("name", SCRIPTS)
def test_layers_are_timed_beside_those_of_pytorch(name: Any) -> None:
    """Each of ours has one of the same name, in the same place."""
    pytest.importorskip("torch", reason="PyTorch is a peer, which few install here")
    from experiments.bench.speed import torch_layer_worker
    from experiments.bench.speed.torch_worker import VARIANTS, Peer

    task = small(name)
    peer = Peer(task, VARIANTS["channels_last"])
    theirs = torch_layer_worker.benchmarks(task, peer)
    ours = list(jax_layer_worker.benchmarks(task))
    assert [layer for layer in theirs if layer in ours] == ours == list(theirs)
    assert next(iter(theirs)) == ours[0]  # the gradient of whose input neither computes
    for each in theirs.values():
        each.run(1)
        assert each.amount == task.batch_size


def test_the_table_of_layers_says_what_the_record_does() -> None:
    seconds = {"jax": spread([0.0001] * 3), "eager": spread([0.0002] * 3)}
    row = {"layer": "C3", "seconds": seconds, "best_peer": "eager"}
    row["ratio"] = ratios([0.0001] * 3, [0.0002] * 3)
    alone = {"layer": "S4", "seconds": seconds}
    text = table.layers(
        {"runs": [{"network": "lenet5", "batch_size": 128, "layers": [row, alone]}]}
    )
    assert "| lenet5, 128 | C3 | 12.8 | 25.6 | eager | 2.00 (2.00 to 2.00) |\n" in text
    assert "| lenet5, 128 | S4 | 12.8 | - | - | - |\n" in text


def test_the_table_of_feeding_says_what_the_record_does() -> None:
    seconds = {"cold": 8.26, "cold_compiling": 6.7, "warm": 3.0, "warm_compiling": 1.12}
    record = {"bare": {"a": 5000.0, "b": 3000.0}, "best": "a", "streamed": 4000.0}
    text = table.feeding(record | {"resident": 8e4, "start": {"lenet5_mnist": seconds}})
    assert "| b, from memory | 3,000 | 60 % |\n| streamed | 4,000 | 80 % |\n" in text
    assert "| lenet5_mnist | 8.3 s | 6.7 s | 3.0 s | 1.1 s |\n" in text


def test_a_loop_is_timed_over_its_stretch(capsys: pytest.CaptureFixture[str]) -> None:
    own = jax_networks.experiment(small("mlp", width=0.01))
    loop = loop_worker.Loop("lenet5_mnist", "resident", 2, 4, 8, small=True)
    whole = loop_worker.whole_loop(own, loop, None)
    seconds = whole.run(1)
    assert seconds is not None and seconds > 0
    said = capsys.readouterr().out
    assert "step 4/12" in said and "step 12/12" in said and "step 16" not in said
    feed = feeds.open_feed(own.dataset, "train", "resident", readers=1)
    pipeline = loop_worker.pipeline(own, loop, feed)
    bare = loop_worker.bare_steps(own, loop, feed)
    assert whole.amount == pipeline.amount == bare.amount == 8 * 8
    pipeline.run(1)
    bare.run(1)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_network_is_that_of_its_script(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Initial parameters and logits, with dropout, are computed alike; so is the first update."""
    script = importlib.import_module(f"experiments.{SCRIPTS[name][0]}")
    own = jax_networks.experiment(small(name))

    def load_dataset(*_: Any) -> Dataset:
        images, labels = noise(small(name, batch_size=8))
        classes = [str(n) for n in range(SIZES[name].classes)]
        return array_dataset("noise", {"train": (images[:20], labels[:20])}, classes)

    monkeypatch.setattr(script, "load_dataset", load_dataset)
    changes: dict[str, Any] = SCRIPTS[name][1]
    theirs = script.build(script.Config(**changes), None)
    shape = (2, *own.dataset.image_shape)

    def computed(experiment: Experiment) -> Any:
        images = jax.random.normal(jax.random.key(1), shape)
        variables = experiment.model.init(jax.random.key(0), images)
        keys = jax.random.split(jax.random.key(2), 2)
        return variables, experiment.model.apply(
            variables, images, train=True, keys=keys, mutable=[]
        )

    mine, expected = (str(jax.make_jaxpr(partial(computed, e))()) for e in (own, theirs))
    assert re.sub("0x[0-9a-f]+", "", mine) == re.sub("0x[0-9a-f]+", "", expected)
    params = {"kernel": np.linspace(-2, 2, 5, dtype=np.float32)}
    gradients = {"kernel": np.linspace(1, -0.5, 5, dtype=np.float32)}
    mine, expected = (
        e.optimizer.update(gradients, e.optimizer.init(params), params)[0] for e in (own, theirs)
    )
    jax.tree.map(np.testing.assert_array_equal, mine, expected)
    assert own.loss is theirs.loss


def test_images_are_standardised_as_by_the_dataset() -> None:
    for name in ("lenet5", "alexnet2012"):
        data = jax_networks.experiment(small(name)).dataset
        mean, deviation = standard(small(name), noise(small(name))[0])
        np.testing.assert_allclose(mean, data.mean, rtol=1e-9)
        np.testing.assert_allclose(deviation, data.std, rtol=1e-9)


@pytest.mark.parametrize("name", SCRIPTS)
def test_pytorch_computes_the_same(name: Any) -> None:
    """Logits, and the loss after a step, from the same weights; without dropout."""
    pytest.importorskip("torch", reason="PyTorch is a peer, which few install here")
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.bench.speed.torch_networks import load_weights
    from experiments.bench.speed.torch_worker import VARIANTS, Peer

    task = small(name, dropout=0.0)
    own = jax_networks.experiment(task)
    feed = feeds.open_feed(own.dataset, "train", "resident", readers=1)
    state = parallel.replicate(jax.jit(lambda: init_state(own))())
    peer = Peer(task, VARIANTS["channels_last"])
    load_weights(peer.net, state.params)

    advance, losses, total = make_advance(own), [], 0.0
    for block in feeds.training_blocks(feed, 0, task.batch_size, [(0, 1), (1, 2)]):
        (index,) = block["index"]
        logits = evaluation_logits(own, state.params, {}, feed.resident["image"][index])
        chosen = torch.tensor(index, dtype=torch.int64)
        np.testing.assert_allclose(peer.logits(chosen).detach(), logits, rtol=1e-4, atol=1e-4)
        state, _ = advance(state, feed.resident, parallel.share_out(block))
        losses.append((float(state.metrics["loss"]) - total, peer.step(chosen).item()))
        total = float(state.metrics["loss"])
    for ours, theirs in losses:
        np.testing.assert_allclose(theirs, ours / task.batch_size, rtol=1e-4)


def test_the_estimate_is_that_of_a_ring() -> None:
    config = growth.Config(link=100.0, machine_link=10.0)
    eight, sixteen, _ = growth.estimate(0.01, int(4e8), config)
    np.testing.assert_allclose(eight["reduce_seconds"], 2 * 7 / 8 * 4e8 / 100e9)  # 7 ms
    np.testing.assert_allclose(eight["efficiency"], 10 / 17)
    np.testing.assert_allclose(eight["times_one_device"], 8 * 10 / 17)
    np.testing.assert_allclose(sixteen["reduce_seconds"], 2 * 15 / 16 * 4e8 / 10e9)


def test_growth_is_timed_drawn_and_tabled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With times in place of workers: an image takes as long as its batch is large."""
    seen: list[tuple[Task, int]] = []

    def time_points(points: dict[str, tuple[Task, int]], config: Any) -> dict[str, Any]:
        seen.extend(points.values())
        return {k: spread([1 / t.batch_size] * 2) for k, (t, _) in points.items()}

    monkeypatch.setattr(growth, "time_points", time_points)
    picture = tmp_path / "new" / "growth.svg"
    result = growth.run(growth.Config(figure=picture))
    assert picture.exists()
    assert {devices for _, devices in seen} == {1, 2, 4}
    assert all(task.training_only for task, _ in seen)
    text = table.growth(result)
    assert "| batch size | lenet5 | 8: 8, 32: 32, 128: 128, 512: 512 |\n" in text
    row = "| 8 in one machine | alexnet2014 | 1,000 ms | 244.4 MB | 0.95 ms | 100 % |\n"
    assert row in text
    batches = [task.batch_size for task, _ in seen[:4]]
    assert batches == [8, 32, 128, 512]


def test_growth_curves_draw_medians_in_bands() -> None:
    rates = [(1, 2, 3), (2, 4, 6)]
    panels = {"batch": {"lenet5": ((8, 16), rates)}, "width": {"mlp": ((0.5, 1), rates)}}
    figure = growth_curves(panels)
    batch, width = figure.axes
    assert [panel.get_xlabel() for panel in (batch, width)] == list(panels)
    assert batch.get_xscale() == batch.get_yscale() == "log" and batch.get_ylabel() == "images/s"
    assert np.stack(batch.lines[0].get_data()).tolist() == [[8, 16], [2, 4]]
    assert batch.lines[0].get_color() != width.lines[0].get_color()
    (band,) = batch.collections
    np.testing.assert_allclose(band.get_datalim(batch.transData).get_points()[:, 1], [1, 6])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lenet5", "mlp"]

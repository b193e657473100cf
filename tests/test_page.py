"""The page's layers give JAX's logits, its script JAX's probabilities, and it stands alone."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import programs
import pytest

from cnn_jax import __main__ as program
from cnn_jax import cli, page
from cnn_jax.data import array_dataset, load_dataset
from cnn_jax.data.augment import centre_crop, pad, resize
from cnn_jax.errors import UserError
from cnn_jax.evaluate import Trained
from cnn_jax.feed import open_feed
from cnn_jax.models import MLP, LeNet5, LeNet5_1998
from cnn_jax.models.layer_list import ACTIVATIONS, layer_list, run_list
from cnn_jax.models.layers import BlurPool, Conv, Dropout, MaxPool
from cnn_jax.predict import predict
from cnn_jax.step import init_state
from experiments import lenet5_digits, mlp_mnist

pytestmark = pytest.mark.usefixtures("quick_compilation")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
NODE = shutil.which("node") or ""


class Small(nn.Module):
    """What the networks of the package have not: strides, edges that are padded, a maximum."""

    blur: bool = False

    @nn.compact
    def __call__(self, images: Any, train: bool = False, keys: Any = None) -> Any:
        x = nn.sigmoid(Conv(5, (3, 2), strides=(1, 2), padding=((1, 0), (0, 1)))(images))
        x = Conv(4, 3, padding="SAME", use_bias=False)(BlurPool()(x) if self.blur else x)
        x = MaxPool(2, 1)(nn.relu(x))
        x = Dropout(0.5)(x.reshape(len(x), -1), keys)
        return nn.Dense(10, use_bias=False)(x)


def trained(name: str, **changes: Any) -> Trained:
    """A network with random weights, large enough that it is sure of some of its answers."""
    experiment = replace(lenet5_digits.build(lenet5_digits.Config()), **changes)
    random = np.random.default_rng(0)

    def draw(leaf: Any) -> np.ndarray:
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
        return random.normal(0, 1.5 / fan_in**0.5, leaf.shape).astype(np.float32)

    # No compilation for initial values, which takes longer than all else here.
    state = jax.eval_shape(lambda: init_state(experiment))
    return Trained(name, 0, experiment, jax.tree.map(draw, state.params), {})


@pytest.fixture(scope="module")
def networks() -> dict[str, Trained]:
    """Of all kinds of layers, and of all kinds of transforms."""
    lenet_1998 = load_dataset("digits").scaled(-0.1, 1.175)
    return {
        "LeNet-5": trained("LeNet-5"),
        "MLP": trained("MLP", model=MLP((50, 30)), eval_transforms=()),
        "ReLU, cropped": trained(
            "ReLU",
            model=LeNet5(activation=jax.nn.relu, padding=0),
            eval_transforms=(resize(30, 24), centre_crop(22)),
        ),
        "small": trained("small", model=Small(), eval_transforms=()),
        "1998": trained(
            "1998",
            model=LeNet5_1998(),
            dataset=lenet_1998,
            eval_transforms=(resize(28), pad(2, 2, 2, 2)),
        ),
    }


def probabilities(network: Trained, split: str) -> np.ndarray:
    feed = open_feed(network.experiment.dataset, split, "auto", readers=0)
    log_probabilities, _ = predict(network, feed, 250)
    return np.exp(log_probabilities)


def in_chromium(html: str, folder: Path, script: str) -> Any:
    """What an expression gives in the page, opened from disk; through JSON, as a node of it."""
    if not CHROMIUM:
        pytest.skip("there is no Chromium: apt-get install chromium")
    told = f'element("pre", {{ id: "found", text: JSON.stringify({script}) }})'
    file = folder / "page.html"
    file.write_text(
        html.replace("</body>", f"<script>document.body.append({told})</script></body>")
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command = [CHROMIUM, *flags, "--dump-dom", file.absolute().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the page's script failed\n{done.stderr[-2000:]}"
    return json.loads(found[1])


def in_node(html: str, folder: Path, script: str) -> Any:
    """The same of the forward pass alone, without a page around it."""
    if not NODE:
        pytest.skip("there is no Node.js")
    content = re.search(r'type="application/json">(.*?)</script>', html, re.DOTALL)
    assert content
    (folder / "content.json").write_text(content[1])
    document = "const text = require('fs').readFileSync('content.json', 'utf8');\n"
    document += "const document = { getElementById: () => ({ textContent: text }) };\n"
    forward = (page.TEMPLATE / "forward.js").read_text().replace('"use strict";', document)
    (folder / "forward.js").write_text(f"{forward}\nconsole.log(JSON.stringify({script}));")
    done = subprocess.run([NODE, "forward.js"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ALL = """networks.map(({ layers }) =>
  examples.map(({ image }) => probabilities(forward(layers, image))))"""


@pytest.mark.parametrize("engine", [in_chromium, in_node])
def test_the_script_gives_jaxs_probabilities(
    engine: Any, networks: dict[str, Trained], tmp_path: Path
) -> None:
    html = page.make_page(networks, "train[:50]", examples=50)
    found = np.array(engine(html, tmp_path, ALL))
    expected = np.stack([probabilities(each, "train[:50]") for each in networks.values()])
    assert found.shape == (5, 50, 10)
    assert expected.max(-1).mean() > 0.2  # or any answer would do
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [in_chromium, in_node])
def test_the_script_agrees_on_a_thousand_images(
    engine: Any, networks: dict[str, Trained], tmp_path: Path
) -> None:
    html = page.make_page(networks, "train[:1000]", examples=1000)
    found = np.array(engine(html, tmp_path, ALL))
    expected = np.stack([probabilities(each, "train[:1000]") for each in networks.values()])
    assert found.shape == (5, 1000, 10)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_half_precision_is_near(networks: dict[str, Trained], tmp_path: Path) -> None:
    one = {"LeNet-5": networks["LeNet-5"]}
    html = page.make_page(one, "train[:50]", examples=50, half=True)
    (found,) = in_node(html, tmp_path, ALL)
    expected = probabilities(one["LeNet-5"], "train[:50]")
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3)
    assert len(html) < 0.75 * len(page.make_page(one, "train[:50]", examples=50))


UNITS = """networks.flatMap(({ layers }) => {
  const values = forward(layers, examples[3].image);
  return stagesOf(layers).slice(1).flatMap((stage) => {
    const { shape, data } = values[stage.sum];
    return [0, 0.37, 0.61, 1].map((share) => {
      const at = Math.round(share * (data.length - 1));
      const place = Math.floor(at / shape[2]);
      const unit = shape.length === 1 ? { index: at } : {
        map: at % shape[2], y: Math.floor(place / shape[1]), x: place % shape[1],
      };
      const { parts, bias, sum } = explainUnit(layers, values, stage, unit);
      return [parts.reduce((total, each) => total + each.sum, bias), sum, data[at]];
    });
  });
})"""


def test_the_products_of_a_unit_add_up_to_it(networks: dict[str, Trained], tmp_path: Path) -> None:
    html = page.make_page(networks, examples=5)
    added, told, value = np.array(in_chromium(html, tmp_path, UNITS)).T
    assert len(value) == 4 * (7 + 3 + 7 + 4 + 7)
    np.testing.assert_array_equal(told, value)
    np.testing.assert_allclose(added, value, rtol=1e-4, atol=1e-4)


FIELD = """networks.map(({ layers }) => {
  const stage = stagesOf(layers).filter(({ layer }) => layer?.type === "conv")[1];
  if (!stage) return null;
  const unit = { map: 1, y: 3, x: 2 };
  const image = examples[0].image;
  const values = forward(layers, image);
  const seen = image.map((_, i) => {
    const other = Float32Array.from(image);
    other[i] = 1 - other[i] / 2;
    const data = (v) => v[stage.sum].data[unitPlace(v[stage.sum].shape, unit)];
    return Number(data(forward(layers, other)) !== data(values));
  });
  return [fieldsOf(layers, values, stage.sum, unit)[0], Array.from(seen)];
})"""


def test_the_field_of_a_unit_is_what_changes_it(
    networks: dict[str, Trained], tmp_path: Path
) -> None:
    """Every pixel of the drawing is changed, one after the other."""
    for found in in_chromium(page.make_page(networks, examples=2), tmp_path, FIELD):
        if found is not None:
            (top, left, bottom, right), seen = found[0], np.array(found[1]).reshape(8, 8)
            rows, columns = np.nonzero(seen)
            assert (rows.min(), columns.min()) == (top, left)
            assert (rows.max() + 1, columns.max() + 1) == (bottom, right)


SESSION = """(() => {
  const says = () => [...document.querySelectorAll(".network p")].map((p) => p.textContent);
  const key = (name) => document.body.dispatchEvent(
    new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
  const first = Array.from(pad.image);
  key("ArrowDown"); key("ArrowRight");
  const moved = Array.from(pad.image);
  const texts = [byId("moved").textContent];
  byId("back").click();
  const back = Array.from(pad.image);
  byId("clear").click();
  const times = [];
  for (let i = 0; i < 20; i++) {
    const start = performance.now();
    stroke([2 + i / 5, 1 + i / 4], [2.5 + i / 5, 1.5 + i / 4]);
    refresh();
    for (const { canvas } of canvases) canvas.getContext("2d").getImageData(0, 0, 1, 1);
    times.push(performance.now() - start);
  }
  const ink = pad.image.reduce((a, b) => a + b, 0);
  choose({ stage: 3, unit: { map: 4, y: 2, x: 1 }, kept: true });
  texts.push(byId("unit").textContent);
  const field = document.querySelector("#cells input");
  field.value = "0.5";
  field.dispatchEvent(new Event("input"));
  byId("step").click();
  byId("step").click();
  texts.push(byId("preset").value, byId("total").textContent);
  return { first, moved, back, ink, texts, says: says(), times };
})()"""


def test_a_reader_draws_moves_looks_and_edits(networks: dict[str, Trained], tmp_path: Path) -> None:
    found = in_chromium(page.make_page(networks, examples=3), tmp_path, SESSION)
    first, moved, back = (np.reshape(found[name], (8, 8)) for name in ("first", "moved", "back"))
    np.testing.assert_array_equal(moved[1:, 1:], first[:-1, :-1])
    assert not moved[0].any() and not moved[:, 0].any()
    np.testing.assert_array_equal(back, first)
    place, unit, preset, total = found["texts"]
    assert place == "moved 1 down, 1 right"
    assert unit.startswith("C3, map 5, row 3, column 2 · keptSum of 150 products")
    assert preset == "my own" and "row 1, column 2" in total
    assert found["ink"] > 5 and len(found["says"]) == 5
    assert np.median(found["times"]) < 200  # a few times what an idle machine takes


def test_the_page_needs_nothing_else(networks: dict[str, Trained]) -> None:
    html = page.make_page(networks, examples=3)
    assert "{{" not in html.replace("${{", "")
    assert not re.findall(r"https?://|\bimport\s*\(|\bfetch\s*\(|@import|url\(", html)
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["data:,"]
    declared = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert 'cnn_jax = ["page_template/*"]' in declared


def test_the_list_gives_jaxs_logits(networks: dict[str, Trained]) -> None:
    images = np.random.default_rng(1).normal(size=(7, 32, 32, 1)).astype(np.float32)
    for network in networks.values():
        size = {"1998": 32, "MLP": 8, "ReLU": 22, "small": 8}.get(network.run, 28)
        x, model = images[:, :size, :size], network.experiment.model
        layers = layer_list(model, {"params": network.params}, x)
        expected = model.apply({"params": network.params}, x, train=False, keys=None, mutable=False)  # pyright: ignore
        np.testing.assert_allclose(run_list(layers, x), expected, rtol=1e-4, atol=1e-4)
        used = [layer["function"] for layer in layers if layer["type"] == "activation"]
        own = {"LeNet-5": {"tanh"}, "1998": {"scaled_tanh"}, "small": {"sigmoid", "relu"}}
        assert set(used) == own.get(network.run, {"relu"}) <= set(ACTIVATIONS)


def refused(message: str, **networks: Trained) -> None:
    with pytest.raises(UserError, match=message):
        page.make_page(networks)


def test_what_does_not_go_on_a_page_is_refused() -> None:
    mlp, flat = trained("MLP", model=MLP((20,)), eval_transforms=()), jax.nn.softplus
    other = replace(mlp.experiment, dataset=grey_of(9))
    refused("do not go on one page", MLP=mlp, other=mlp._replace(experiment=other))
    refused("at least one run")
    large = trained("large", model=MLP((4000, 2000)), eval_transforms=())
    refused(r"at most 6,000,000 weights, as float16; large have 8,28", large=large)
    soft = trained("soft", model=MLP((20,), activation=flat), eval_transforms=())
    refused("between fc1 and output this network computes something", soft=soft)
    half = trained("half", model=LeNet5(dtype=jax.numpy.bfloat16))
    refused("half cannot be put on a page", half=half)
    turned = trained("turned", model=MLP(()), eval_transforms=(lambda key, x: x.swapaxes(0, 1),))
    refused("more than resizing, padding or cropping", turned=turned)
    refused("grey images of up to 64x64", colour=trained("c", dataset=grey_of(8, channels=3)))
    refused("grey images of up to 64x64", big=trained("b", dataset=grey_of(65)))
    blurred = trained("blurred", model=Small(blur=True), eval_transforms=())
    refused(r"cannot be listed: BlurPool_0 \(BlurPool\)", blurred=blurred)
    with pytest.raises(UserError, match="--examples must be at least 1"):
        page.make_page({"MLP": mlp}, examples=0)


def grey_of(size: int, channels: int = 1) -> Any:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, size, size, channels)).astype(np.uint8)
    split = (images, np.arange(4))
    names = load_dataset("digits").class_names
    return array_dataset("own", {"train": split, "test": split}, names)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks side by side, after a few steps."""
    folder = tmp_path_factory.mktemp("page") / "mlp"
    flags = ["--dataset", "digits", "--hidden-units", "20", "--epochs", "0.5", "--seeds", "2"]
    cli.main(mlp_mnist.Config, mlp_mnist.build, arguments=[*flags, "--workdir", str(folder)])
    return folder


def test_the_program_writes_all_networks_of_a_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    program.main(["page", str(run), "--out", str(out), "--examples", "4"])
    assert capsys.readouterr().out == f"{out} ({out.stat().st_size / 1e6:.1f} MB)\n"
    script = "[networks.map(({ name }) => name), examples.length]"
    found = in_chromium(out.read_text(), tmp_path, script) if CHROMIUM else None
    assert found in (None, [["mlp:seed-0", "mlp:seed-1"], 4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--names", "a", "b"], "2 names for 1 runs"),
        (["--out", "{folder}/page.png"], "--out must end in .html"),
        (["--out", "{folder}/there.html"], "exists: choose another --out"),
        (["--out", "{folder}/none/page.html"], "there is no folder"),
        (["--split", "validation"], "has no split 'validation'"),
        (["--examples", "0"], "--examples must be at least 1"),
        (["--step", "7"], "no checkpoint of step 7"),
    ],
)
def test_the_program_refuses_and_writes_nothing(
    arguments: list[str],
    message: str,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "there.html").write_text("mine")
    given = [text.replace("{folder}", str(tmp_path)) for text in arguments]
    out = [] if "--out" in given else ["--out", str(tmp_path / "page.html")]
    programs.assert_refused(["page", str(tiny_run), *given, *out], message, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


def test_the_program_refuses_runs(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of `tiny.py` subtracts a mean of its own between two layers."""
    out = ["--out", str(tmp_path / "page.html")]
    for runs, message in (
        ([tiny_run, tiny_run], "runs need different names"),
        ([tiny_run], "between C1 and output this network"),
        ([tmp_path], "is not a run folder"),
    ):
        programs.assert_refused(["page", *map(str, runs), *out], message, capsys)
    assert list(tmp_path.iterdir()) == []

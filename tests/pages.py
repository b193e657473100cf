"""Networks for the page, and its scripts run in Chromium and in Node."""

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from cnn_jax.augment.basic import centre_crop, pad, resize
from cnn_jax.data import load_dataset
from cnn_jax.models import MLP, LeNet5_1998
from cnn_jax.models.layers import BlurPool, Conv, Dropout, MaxPool
from cnn_jax.see import page
from cnn_jax.step import init_state, prepare_images
from cnn_jax.trained import Trained
from experiments import lenet5_digits

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
NODE = shutil.which("node") or ""


class Small(nn.Module):
    """What the networks of the package do not have: strides, padded edges, a maximum."""

    blur: bool = False

    @nn.compact
    def __call__(self, images: Any, train: bool = False, keys: Any = None) -> Any:
        x = nn.sigmoid(Conv(5, (3, 2), strides=(1, 2), padding=((1, 0), (0, 1)))(images))
        x = Conv(4, 3, padding="SAME", use_bias=False)(BlurPool()(x) if self.blur else x)
        x = MaxPool(2, 1)(nn.relu(x))
        x = Dropout(0.5)(x.reshape(len(x), -1), keys)
        return nn.Dense(10, use_bias=False)(x)


def random_weights(shapes: Any) -> Any:
    """Weights large enough for a network to be sure of some of its answers, without compiling."""
    random = np.random.default_rng(0)

    def draw(leaf: Any) -> np.ndarray:
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
        return random.normal(0, 1.5 / fan_in**0.5, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


def trained(name: str, **changes: Any) -> Trained:
    """A network with random weights."""
    experiment = replace(lenet5_digits.build(lenet5_digits.Config()), **changes)
    state = jax.eval_shape(lambda: init_state(experiment))
    return Trained(name, 0, experiment, random_weights(state.params), {})


@functools.cache
def networks() -> dict[str, Trained]:
    """Networks with all kinds of layers and transforms that the page knows."""
    lenet_1998 = load_dataset("digits").scaled(-0.1, 1.175)
    return {
        "LeNet-5": trained("LeNet-5"),
        "MLP, cropped": trained(
            "MLP", model=MLP((50, 30)), eval_transforms=(resize(30, 24), centre_crop(22))
        ),
        "small": trained("small", model=Small(), eval_transforms=()),
        "1998": trained(
            "1998",
            model=LeNet5_1998(),
            dataset=lenet_1998,
            eval_transforms=(resize(28), pad(2, 2, 2, 2)),
        ),
    }


# Of every network, the probabilities that the page's script gives for every example.
ALL = """networks.map(({ layers }) =>
  examples.map(({ image }) => probabilities(forward(layers, image))))"""


def assert_probabilities(answer: Any, split: str, atol: float = 1e-4) -> None:
    """Compare what ALL gives, for all examples of a split, with what JAX computes."""
    expected = np.stack([probabilities(name, split) for name in networks()])
    assert expected.max(-1).mean() > 0.2  # or any answer would do
    np.testing.assert_allclose(np.array(answer), expected, rtol=0, atol=atol)


@functools.cache
def probabilities(name: str, split: str) -> np.ndarray:
    """The probabilities that JAX computes with one of `networks` for every image of a split."""
    network = networks()[name]
    experiment, source = network.experiment, network.experiment.dataset.open(split)
    model: Any = experiment.model

    @jax.jit
    def compute(images: Any) -> Any:
        x = prepare_images(experiment, experiment.eval_transforms, images, keys=None)
        return jax.nn.softmax(model.apply(network.variables, x, train=False, keys=None))

    return np.asarray(compute(source.read(np.arange(len(source)))["image"]))


def in_chromium(html: str, folder: Path, scripts: Mapping[str, str]) -> dict[str, Any]:
    """Open the page from disk and evaluate expressions in it, in order; {name: value}, by JSON."""
    if not CHROMIUM:
        pytest.skip("there is no Chromium: apt-get install chromium")
    values = ", ".join(f"{name}: {script}" for name, script in scripts.items())
    made = f'{{ id: "values", textContent: JSON.stringify({{ {values} }}) }}'
    append = f'Object.assign(document.createElement("pre"), {made})'
    file = folder / "page.html"
    file.write_text(
        html.replace("</body>", f"<script>document.body.append({append})</script></body>"),
        encoding="utf-8",
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command = [CHROMIUM, *flags, "--dump-dom", file.absolute().as_uri()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    answer = re.search(r'<pre id="values">(.*?)</pre>', done.stdout, re.DOTALL)
    assert answer, f"the page's script failed\n{done.stderr[-2000:]}"
    return json.loads(unescape(answer[1]))


def content(html: str) -> str:
    """The page's data, JSON."""
    script = re.search(r'type="application/json">(.*?)</script>', html, re.DOTALL)
    assert script
    return script[1]


def in_node(html: str, folder: Path, script: str) -> Any:
    """Evaluate an expression after the forward pass alone, without a page around it."""
    if not NODE:
        pytest.skip("there is no Node.js")
    (folder / "content.json").write_text(content(html), encoding="utf-8")
    document = "const text = require('fs').readFileSync('content.json', 'utf8');\n"
    document += "const document = { getElementById: () => ({ textContent: text }) };\n"
    forward = (page.TEMPLATE / "forward.js").read_text().replace('"use strict";', document)
    (folder / "forward.js").write_text(f"{forward}\nconsole.log(JSON.stringify({script}));")
    done = subprocess.run([NODE, "forward.js"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

"""Networks for the page, and its script run in Chromium and in Node."""

import functools
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
import pytest

from cnn_jax.augment.basic import centre_crop, pad, resize
from cnn_jax.data import load_dataset
from cnn_jax.models import MLP, LeNet5, LeNet5_1998
from cnn_jax.models.layers import BlurPool, Conv, Dropout, MaxPool
from cnn_jax.see import page
from cnn_jax.step import init_state
from cnn_jax.trained import Trained
from experiments import lenet5_digits

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


@functools.cache
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

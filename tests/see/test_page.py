"""The page's layers give JAX's logits, its script JAX's probabilities, and it stands alone."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pages
import programs
import pytest
from pages import Small, content, in_chromium, in_node, trained

from cnn_jax import __main__ as program
from cnn_jax.data import array_dataset, load_dataset
from cnn_jax.errors import UserError
from cnn_jax.models import MLP
from cnn_jax.see import page
from cnn_jax.trained import Trained


@pytest.fixture(scope="module")
def networks() -> dict[str, Trained]:
    return pages.networks()


def test_the_script_gives_jaxs_probabilities(networks: dict[str, Trained], tmp_path: Path) -> None:
    html = page.make_page(networks, "train[:50]", examples=50)
    pages.assert_probabilities(in_node(html, tmp_path, pages.ALL), "train[:50]")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["Chromium", "Node"])
def test_the_script_agrees_on_a_thousand_images(
    engine: str, networks: dict[str, Trained], tmp_path: Path
) -> None:
    html = page.make_page(networks, "train[:1000]", examples=1000)
    if engine == "Node":
        answer = in_node(html, tmp_path, pages.ALL)
    else:
        answer = in_chromium(html, tmp_path, {"all": pages.ALL})["all"]
    pages.assert_probabilities(answer, "train[:1000]", atol=1e-3)


def test_half_precision_is_near(networks: dict[str, Trained], tmp_path: Path) -> None:
    one = {"LeNet-5": networks["LeNet-5"]}
    html = page.make_page(one, "train[:50]", examples=50, half=True)
    (found,) = in_node(html, tmp_path, pages.ALL)
    expected = pages.probabilities("LeNet-5", "train[:50]")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert len(html) < 0.75 * len(page.make_page(one, "train[:50]", examples=50))


def test_the_page_needs_nothing_else(networks: dict[str, Trained]) -> None:
    html = page.make_page(networks, examples=3)
    assert "{{" not in html.replace("${{", "")
    assert not re.findall(r"https?://|\bimport\s*\(|\bfetch\s*\(|@import|url\(", html)
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["data:,"]
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"cnn_jax.see" = ["page_template/*"]' in declared


NASTY = ["{{script}}", "{{content}}", "</script>", "<!--<script>", "a\u2028b", "'\"&`${x}\\"]
NASTY += ["\\u003c", "__proto__", "<b>9</b>", "ø ✓"]


def test_names_can_be_any_text(tmp_path: Path) -> None:
    html = page.make_page(nasty(), examples=3)
    assert html.count("<script") == 3 and html.count("</script>") == 3
    data = json.loads(content(html))
    assert data["classes"] == NASTY and [n["name"] for n in data["networks"]] == NASTY[:4]
    said = in_node(html, tmp_path, "[content.classes, networks.map(({ name }) => name)]")
    assert said == [NASTY, NASTY[:4]]


def nasty() -> dict[str, Trained]:
    """Networks and classes whose names look like parts of a page."""
    one = trained("MLP", model=MLP((20,)), eval_transforms=(), dataset=grey_of(8, names=NASTY))
    return {name: one for name in NASTY[:4]}


class Rematerialised(nn.Module):
    @nn.compact
    def __call__(self, images: Any, train: bool = False, keys: Any = None) -> Any:
        del train, keys
        return nn.remat(nn.Dense)(10, name="hidden")(images.reshape(len(images), -1))


def refused(message: str, **networks: Trained) -> None:
    with pytest.raises(UserError, match=message):
        page.make_page(networks)


def test_what_does_not_go_on_a_page_is_refused() -> None:
    mlp, flat = trained("MLP", model=MLP((20,)), eval_transforms=()), jax.nn.softplus
    other = replace(mlp.experiment, dataset=grey_of(9))
    refused("do not go on one page", MLP=mlp, other=mlp._replace(experiment=other))
    refused("at least one run")
    large = trained("large", model=MLP((4000, 2000)), eval_transforms=())
    refused(r"at most 6,000,000 weights, as int16; large have 8,28", large=large)
    soft = trained("soft", model=MLP((20,), activation=flat), eval_transforms=())
    refused("between fc1 and output this network computes something", soft=soft)
    half = trained("half", model=MLP((20,), dtype=jax.numpy.bfloat16), eval_transforms=())
    refused("half cannot be put on a page", half=half)
    turned = trained("turned", model=MLP(()), eval_transforms=(lambda key, x: x.swapaxes(0, 1),))
    refused("do more than resizing, padding or cropping", turned=turned)
    refused("grey images of up to 64x64", colour=trained("c", dataset=grey_of(8, channels=3)))
    refused("grey images of up to 64x64", big=trained("b", dataset=grey_of(65)))
    blurred = trained("blurred", model=Small(blur=True), eval_transforms=())
    refused(r"cannot be listed: BlurPool_0 \(BlurPool\)", blurred=blurred)
    hidden = trained("remat", model=Rematerialised(), eval_transforms=())
    refused("remat cannot be put on a page: the values of hidden cannot be seen", remat=hidden)
    with pytest.raises(UserError, match="--examples must be at least 1"):
        page.make_page({"MLP": mlp}, examples=0)


def grey_of(size: int, channels: int = 1, names: Sequence[str] = ()) -> Any:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, size, size, channels)).astype(np.uint8)
    split = (images, np.arange(4))
    names = names or load_dataset("digits").class_names
    return array_dataset("own", {"train": split, "test": split}, names)


def test_the_program_writes_all_networks_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def members(folder: Path, *_: Any) -> list[Trained]:
        mlp = trained("", model=MLP((20,)), eval_transforms=())
        return [mlp._replace(run=f"{folder}:seed-{k}") for k in range(2)]

    monkeypatch.setattr("cnn_jax.trained.open_networks", members)
    out = tmp_path / "page.html"
    program.main(["page", "runs/mlp", "--out", str(out), "--examples", "4"])
    assert capsys.readouterr().out == f"{out} ({out.stat().st_size / 1e6:.1f} MB)\n"
    data = json.loads(content(out.read_text()))
    assert [network["name"] for network in data["networks"]] == ["mlp:seed-0", "mlp:seed-1"]
    assert len(data["labels"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--names", "a", "b"], "2 names for 1 runs"),
        (["--out", "{folder}/page.png"], "--out must end in .html"),
        (["--out", "{folder}/there.html"], "exists: choose another"),
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

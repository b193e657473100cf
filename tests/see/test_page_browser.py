"""The page in Chromium: its numbers, and drawing by mouse, finger and keyboard."""

from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
import test_page

from cnn_jax.see import page

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
  for (let i = 0; i < 20; i++) {
    stroke([2 + i / 5, 1 + i / 4], [2.5 + i / 5, 1.5 + i / 4]);
    refresh();
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
  return { first, moved, back, ink, texts, says: says() };
})()"""


PEN = """(() => {
  const canvas = byId("pad");
  byId("clear").click();
  const key = (name) => canvas.dispatchEvent(
    new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
  const told = () => byId("pen").textContent;
  const said = [];
  const inks = [];
  for (const names of [["ArrowUp"], [" "], ["ArrowLeft", "ArrowLeft", "ArrowLeft"], ["Enter"],
                       ["ArrowDown", "ArrowDown"], ["Enter"], Array(20).fill("ArrowRight")]) {
    names.forEach(key);
    said.push(told());
    inks.push(Array.from(pad.image));
  }
  return { said, inks, moved: pad.moved, role: canvas.getAttribute("role"),
           keys: byId(canvas.getAttribute("aria-describedby")).textContent };
})()"""


TOUCH = """(() => {
  const canvas = byId("pad");
  byId("clear").click();
  canvas.setPointerCapture = () => {}; // there is no finger to capture
  const box = canvas.getBoundingClientRect();
  let drawn = 0;
  awaited = false; // no frame from the scripts before
  window.requestAnimationFrame = () => { drawn += 1; }; // frames that the page asks for
  const touch = (type, y, x, pointerId = 7) => canvas.dispatchEvent(new PointerEvent(type, {
    pointerType: "touch", pointerId, bubbles: true, cancelable: true,
    clientX: box.left + (x + 0.5) * box.width / 8,
    clientY: box.top + (y + 0.5) * box.height / 8 }));
  touch("pointermove", 0, 0);
  touch("pointerdown", 2, 1);
  touch("pointerdown", 7, 7, 8);
  touch("pointermove", 7, 0, 8);
  for (let x = 2; x < 6; x++) touch("pointermove", 2, x);
  touch("pointerup", 2, 5);
  touch("pointermove", 6, 6);
  return { ink: Array.from(pad.image), action: getComputedStyle(canvas).touchAction, drawn };
})()"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the scripts give in one process, one after the other on the same page."""
    html = page.make_page(pages.networks(), "train[:50]", examples=50)
    scripts = {"all": pages.ALL, "units": UNITS, "field": FIELD}
    scripts |= {"session": SESSION, "pen": PEN, "touch": TOUCH}
    return pages.in_chromium(html, tmp_path_factory.mktemp("chromium"), scripts)


def test_the_script_gives_jaxs_probabilities(answers: dict[str, Any]) -> None:
    pages.assert_probabilities(answers["all"], "train[:50]")


NASTY = """[byId("failure").hidden, networks.length,
  [...document.querySelectorAll("#bars .network:first-child th")].map((th) => th.textContent)]"""


def test_names_can_be_any_text(tmp_path: Path) -> None:
    html = page.make_page(test_page.nasty(), examples=3)
    (answer,) = pages.in_chromium(html, tmp_path, {"names": NASTY}).values()
    assert answer == [True, 4, test_page.NASTY]


def test_a_script_that_fails_says_so(tmp_path: Path) -> None:
    """Even one that cannot be read, as by an old browser."""
    html = page.make_page({"MLP": pages.networks()["MLP, cropped"]}, examples=3)
    failing = html.replace('"use strict";', "class {", 1)
    says = '[document.getElementById("failure").hidden, document.body.innerText]'
    (answer,) = pages.in_chromium(failing, tmp_path, {"says": says}).values()
    assert answer[0] is False and "This page has failed" in answer[1]


def test_the_products_of_a_unit_add_up_to_it(answers: dict[str, Any]) -> None:
    added, told, value = np.array(answers["units"]).T
    assert len(value) == 4 * (7 + 3 + 4 + 7)
    np.testing.assert_array_equal(told, value)
    np.testing.assert_allclose(added, value, rtol=1e-4, atol=1e-4)


def test_the_field_of_a_unit_is_what_changes_it(answers: dict[str, Any]) -> None:
    """Every pixel of the drawing is changed, one after the other."""
    for found in answers["field"]:
        if found is not None:
            (top, left, bottom, right), seen = found[0], np.array(found[1]).reshape(8, 8)
            rows, columns = np.nonzero(seen)
            assert (rows.min(), columns.min()) == (top, left)
            assert (rows.max() + 1, columns.max() + 1) == (bottom, right)


def test_a_reader_draws_moves_looks_and_edits(answers: dict[str, Any]) -> None:
    found = answers["session"]
    first, moved, back = (np.reshape(found[name], (8, 8)) for name in ("first", "moved", "back"))
    np.testing.assert_array_equal(moved[1:, 1:], first[:-1, :-1])
    assert not moved[0].any() and not moved[:, 0].any()
    np.testing.assert_array_equal(back, first)
    place, unit, preset, total = found["texts"]
    assert place == "moved 1 down, 1 right"
    assert unit.startswith("C3, map 5, row 3, column 2 · keptSum of 150 products")
    assert preset == "my own" and "row 1, column 2" in total
    assert found["ink"] > 5 and len(found["says"]) == 4


def test_a_reader_draws_with_the_keyboard(answers: dict[str, Any]) -> None:
    """From the middle of 8x8 pixels; the drawing itself must not move."""
    found = answers["pen"]
    assert found["said"][0] == "row 4, column 5, ink 0 %"
    assert found["said"][1] == "row 4, column 5, ink 90 %"
    assert found["said"][3] == "Pen down at row 4, column 2, ink 90 %"
    assert found["said"][5] == "Pen up at row 6, column 2, ink 90 %"
    assert found["said"][6] == "row 6, column 8, ink 0 %"
    inks = np.reshape(found["inks"], (-1, 8, 8))
    assert not inks[0].any() and inks[1].argmax() == 3 * 8 + 4
    np.testing.assert_array_equal(inks[1], inks[2])  # a pen that is up leaves nothing
    assert inks[4][3:6, 1].min() > 0.8 and inks[4][6:].max() == 0
    np.testing.assert_array_equal(inks[4], inks[6])
    assert found["moved"] == [0, 0] and found["role"] == "application"
    assert "Space makes a dot" in found["keys"]


def test_a_finger_draws_and_a_second_does_not(answers: dict[str, Any]) -> None:
    found = answers["touch"]
    ink = np.reshape(found["ink"], (8, 8))
    assert ink[2, 1:6].min() > 0.8 and ink[4:].max() == 0 and ink[0].max() == 0
    assert found["action"] == "none"  # or the page would scroll
    assert found["drawn"] == 1  # five strokes, one frame

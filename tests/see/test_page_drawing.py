"""Drawing on the page by mouse, finger and keyboard, as Chromium has it."""

from pathlib import Path

import numpy as np
import pages
import pytest
from pages import in_chromium

from cnn_jax.see import page
from cnn_jax.trained import Trained


@pytest.fixture(scope="module")
def networks() -> dict[str, Trained]:
    return pages.networks()


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


def test_a_reader_draws_with_the_keyboard(networks: dict[str, Trained], tmp_path: Path) -> None:
    """From the middle of 8x8 pixels; the drawing itself must not move."""
    found = in_chromium(page.make_page(networks, examples=3), tmp_path, PEN)
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


TOUCH = """(() => {
  const canvas = byId("pad");
  byId("clear").click();
  canvas.setPointerCapture = () => {}; // there is no finger to capture
  const box = canvas.getBoundingClientRect();
  let drawn = 0;
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


def test_a_finger_draws_and_a_second_does_not(networks: dict[str, Trained], tmp_path: Path) -> None:
    found = in_chromium(page.make_page(networks, examples=3), tmp_path, TOUCH)
    ink = np.reshape(found["ink"], (8, 8))
    assert ink[2, 1:6].min() > 0.8 and ink[4:].max() == 0 and ink[0].max() == 0
    assert found["action"] == "none"  # or the page would scroll
    assert found["drawn"] == 1  # five strokes, one frame

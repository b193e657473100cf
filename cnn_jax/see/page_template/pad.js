"use strict";
// The drawing: ink between 0 and 1 on the dataset's grid of pixels.

const pad = {
  drawn: new Float32Array(content.height * content.width), // before it is moved
  moved: [0, 0], // pixels down, right
  image: new Float32Array(content.height * content.width), // what the networks see
  erasing: false,
  pointer: null, // the finger or mouse that draws
  numbers: false,
  last: null, // where the stroke is, [x, y] in pixels; null between strokes
  cursor: null, // [row, column] of the keyboard's pen, while the drawing has the focus
  down: false, // whether that pen is down
  field: null, // what the chosen unit sees
  room: 280, // the width for the drawing, in CSS pixels
};

// The image, moved down and to the right; black moves in at the edges.
function shifted(image, [down, right]) {
  const { height, width } = content;
  const out = new Float32Array(height * width);
  for (let y = Math.max(0, down); y < Math.min(height, height + down); y++) {
    for (let x = Math.max(0, right); x < Math.min(width, width + right); x++) {
      out[y * width + x] = image[(y - down) * width + x - right];
    }
  }
  return out;
}

// Ink that leaves the grid comes back when it is moved back, since the drawing is kept.
function move(down, right) {
  const { height, width } = content;
  const most = (value, size) => Math.min(Math.max(value, -size), size);
  pad.moved = [most(pad.moved[0] + down, height), most(pad.moved[1] + right, width)];
  pad.image = shifted(pad.drawn, pad.moved);
}

function take(image) {
  pad.drawn = Float32Array.from(image);
  pad.image = Float32Array.from(image);
  pad.moved = [0, 0];
}

// Move the centre of mass to the middle of the grid, as in MNIST.
function centreDrawing() {
  const { height, width } = content;
  let [mass, y, x] = [0, 0, 0];
  pad.image.forEach((ink, i) => {
    mass += ink;
    y += ink * Math.floor(i / width);
    x += ink * (i % width);
  });
  if (mass > 0) move(Math.round((height - 1) / 2 - y / mass), Math.round((width - 1) / 2 - x / mass));
}

// Draw a straight stroke between two points [x, y] in pixels. Its edge fades over one pixel.
function stroke(from, to) {
  if (pad.moved[0] || pad.moved[1]) take(pad.image); // from here on the moved image is the drawing
  const { height, width } = content;
  const radius = Math.max(0.045 * Math.min(height, width), 0.4);
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const length = dx * dx + dy * dy;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [px, py] = [x + 0.5 - from[0], y + 0.5 - from[1]];
      const along = length ? Math.min(Math.max((px * dx + py * dy) / length, 0), 1) : 0;
      const distance = Math.hypot(px - along * dx, py - along * dy);
      const ink = Math.min(Math.max(radius + 0.5 - distance, 0), 1);
      const i = y * width + x;
      pad.drawn[i] = pad.erasing ? Math.min(pad.drawn[i], 1 - ink) : Math.max(pad.drawn[i], ink);
    }
  }
  pad.image = Float32Array.from(pad.drawn);
}

// The side of a pixel of the drawing in CSS pixels; large enough to read numbers if they are shown.
function padCell() {
  if (pad.numbers) return Math.max(26, Math.floor(280 / content.width));
  return Math.max(1, Math.floor(Math.min(280, pad.room) / content.width));
}

function measureRoom() {
  pad.room = document.body.clientWidth - 32;
}

// Whether the drawing is larger than its frame, so that a finger scrolls instead of drawing.
function padIsZoomed() {
  return pad.numbers && padCell() * content.width > 300;
}

// Paint the drawing, and on it the field [top, left, bottom, right] of a unit, or null.
function paintPad(field = pad.field) {
  pad.field = field;
  const { height, width } = content;
  const size = padCell();
  const canvas = document.getElementById("pad");
  canvas.style.touchAction = padIsZoomed() ? "auto" : "none";
  const context = prepare(canvas, width * size, height * size);
  const at = (i) => pad.image[i];
  paintGrid(context, 0, 0, height, width, size, at, greyColour);
  if (pad.numbers) {
    const format = (ink) => String(Math.round(255 * ink));
    paintNumbers(context, 0, 0, height, width, size, at, greyColour, format);
  }
  if (pad.cursor) {
    const [y, x] = pad.cursor;
    // Light on dark, to be visible on ink and on paper, however fine the grid.
    const box = [x * size - 2, y * size - 2, size + 4, size + 4];
    outline(context, ...box, "#000", 4);
    outline(context, ...box, pad.down ? MARK : "#fff", 2);
  }
  if (field) {
    const [top, left, bottom, right] = field;
    const inset = 1; // otherwise a field at the edge would be cut
    outline(
      context,
      left * size + inset,
      top * size + inset,
      (right - left) * size - 2 * inset,
      (bottom - top) * size - 2 * inset,
    );
  }
}

function listenToPad(changed) {
  const canvas = document.getElementById("pad");
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * content.width;
    const y = ((event.clientY - box.top) / box.height) * content.height;
    return [x, y];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" && padIsZoomed()) return;
    if (pad.last !== null || event.button > 0) return; // a second finger, or another button
    canvas.setPointerCapture(event.pointerId);
    pad.pointer = event.pointerId;
    pad.last = place(event);
    stroke(pad.last, pad.last);
    changed();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (pad.last === null || event.pointerId !== pad.pointer) return;
    // All events since the last frame, otherwise fast strokes would have corners.
    const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const moved of events.length ? events : [event]) {
      const now = place(moved);
      stroke(pad.last, now);
      pad.last = now;
    }
    changed();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => {
      if (event.pointerId === pad.pointer) pad.last = null;
    });
  }
  listenToPen(canvas, changed);
}

// Draw with the keyboard: arrow keys move a pen, Space makes a dot, Enter lowers or lifts the pen.
function listenToPen(canvas, changed) {
  const { height, width } = content;
  const middle = ([y, x]) => [x + 0.5, y + 0.5];
  const say = (what) => {
    const [y, x] = pad.cursor;
    const ink = Math.round(100 * pad.image[y * width + x]);
    document.getElementById("pen").textContent = `${what}row ${y + 1}, column ${x + 1}, ink ${ink} %`;
  };
  canvas.addEventListener("focus", () => {
    if (!canvas.matches(":focus-visible")) return; // focused by a pointer
    pad.cursor = [Math.floor(height / 2), Math.floor(width / 2)];
    paintPad();
    say("Pen at ");
  });
  canvas.addEventListener("blur", () => {
    [pad.cursor, pad.down] = [null, false];
    paintPad();
    document.getElementById("pen").textContent = "";
  });
  canvas.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    const act = step || event.key === " " || event.key === "Enter";
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // otherwise the drawing would move
    const from = pad.cursor || [Math.floor(height / 2), Math.floor(width / 2)];
    pad.cursor = from;
    let what = "";
    if (event.key === "Enter") {
      pad.down = !pad.down;
      what = pad.down ? "Pen down at " : "Pen up at ";
    }
    if (step) {
      const within = (value, size) => Math.min(Math.max(value, 0), size - 1);
      pad.cursor = [within(from[0] + step[0], height), within(from[1] + step[1], width)];
    }
    if (pad.down || event.key === " ") {
      stroke(middle(from), middle(pad.cursor));
      changed();
    } else {
      paintPad();
    }
    say(what);
  });
}

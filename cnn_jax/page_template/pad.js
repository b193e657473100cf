"use strict";
// The drawing: ink between 0 and 1 on the dataset's own grid of pixels.

const pad = {
  drawn: new Float32Array(content.height * content.width), // before it is moved
  moved: [0, 0], // pixels down, right
  image: new Float32Array(content.height * content.width), // what the networks see
  erasing: false,
  numbers: false,
  last: null, // where the stroke was, in pixels of the image
};

// The image moved down and to the right; what moves in is black.
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

// Moved ink comes back when it is moved back: the drawing is kept as it was.
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

// The centre of mass to the middle of the grid, as MNIST's digits lie.
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

// A straight stroke between two points [x, y] in pixels. Its edge fades over one pixel.
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

// CSS pixels of one pixel of the drawing: with numbers, enough to read them.
function padCell() {
  if (pad.numbers) return Math.max(26, Math.floor(280 / content.width));
  return Math.max(1, Math.floor(Math.min(280, document.body.clientWidth - 32) / content.width));
}

// Larger than its frame, so that a finger on it scrolls instead of drawing.
function padIsZoomed() {
  return pad.numbers && padCell() * content.width > 300;
}

// The drawing, and on it the field [top, left, bottom, right] of a unit, or null.
function paintPad(field) {
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
  if (field) {
    const [top, left, bottom, right] = field;
    const inset = 1; // so that a field at the edge is not cut
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
    canvas.setPointerCapture(event.pointerId);
    pad.last = place(event);
    stroke(pad.last, pad.last);
    changed();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (pad.last === null) return;
    const now = place(event);
    stroke(pad.last, now);
    pad.last = now;
    changed();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      pad.last = null;
    });
  }
}

"use strict";
// Paint numbers as colours and as text.

const BLUE = [33, 102, 172];
const RED = [178, 24, 43];
const MARK = "#f28e2b"; // visible on white, black, red and blue

// A colour of page.css. It is kept, since reading it makes the browser compute all styles.
const kept = new Map();
const dark = window.matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => kept.clear());

function css(name) {
  if (!kept.has(name)) {
    kept.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  }
  return kept.get(name);
}

// All colours, made once so that painting makes no array per cell.
const STEPS = 255;
const SIGNED = Array.from({ length: 2 * STEPS + 1 }, (_, i) => {
  const share = Math.abs(i - STEPS) / STEPS;
  return (i < STEPS ? BLUE : RED).map((c) => Math.round(255 + (c - 255) * share));
});
const GREY = Array.from({ length: 256 }, (_, level) => [level, level, level]);

// The colour [r, g, b] of a number between -1 and 1: blue below zero, white at zero, red above.
function signedColour(value) {
  return SIGNED[STEPS + Math.round(STEPS * Math.min(Math.max(value, -1), 1))] || SIGNED[STEPS];
}

function greyColour(value) {
  return GREY[Math.round(255 * Math.min(Math.max(value, 0), 1))];
}

function largest(data) {
  let most = 0;
  for (const value of data) most = Math.max(most, Math.abs(value));
  return most || 1; // an empty map is white
}

// Set a canvas to `width` by `height` CSS pixels at the screen's resolution, and return its context
// in CSS pixels. Do not read sizes of elements between two calls: that lays the page out each time.
function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    [canvas.width, canvas.height] = [w, h];
    [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  return context;
}

// Paint a frame, which separates a white map from white paper.
function frame(context, left, top, width, height, colour) {
  outline(context, left + 0.5, top + 0.5, width - 1, height - 1, colour, 1);
}

const scratch = document.createElement("canvas");
const scratchContext = scratch.getContext("2d");

// Paint rows x columns numbers as cells of `size` CSS pixels. `at(i)` is the number of cell i.
function paintGrid(context, left, top, rows, columns, size, at, colour) {
  [scratch.width, scratch.height] = [columns, rows];
  const image = scratchContext.createImageData(columns, rows);
  const { data } = image;
  for (let i = 0; i < rows * columns; i++) {
    const value = at(i);
    if (value === undefined) continue; // the last row may be incomplete
    const [r, g, b] = colour(value);
    const k = 4 * i;
    data[k] = r;
    data[k + 1] = g;
    data[k + 2] = b;
    data[k + 3] = 255;
  }
  scratchContext.putImageData(image, 0, 0);
  context.drawImage(scratch, left, top, columns * size, rows * size);
}

// Write the numbers into the cells, in black or white, whichever the cell's colour needs.
function paintNumbers(context, left, top, rows, columns, size, at, colour, format) {
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.font = `${Math.min(Math.max(size * 0.36, 7), 14)}px system-ui, sans-serif`;
  for (let i = 0; i < rows * columns; i++) {
    const value = at(i);
    if (value === undefined) continue;
    const [r, g, b] = colour(value);
    context.fillStyle = 0.3 * r + 0.59 * g + 0.11 * b > 140 ? "#111" : "#fff";
    const x = left + ((i % columns) + 0.5) * size;
    const y = top + (Math.floor(i / columns) + 0.5) * size;
    context.fillText(format(value), x, y + 0.5);
  }
}

function outline(context, x, y, width, height, colour = MARK, thickness = 2) {
  context.strokeStyle = colour;
  context.lineWidth = thickness;
  context.strokeRect(x, y, width, height);
}

// A number with two decimals and a true minus sign.
function number(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

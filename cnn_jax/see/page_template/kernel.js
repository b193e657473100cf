"use strict";
// A kernel that the reader changes by hand, and the window that slides over the drawing.

const PRESETS = {
  "top edges": [[-1, -1, -1], [1, 1, 1], [0, 0, 0]],
  "bottom edges": [[0, 0, 0], [1, 1, 1], [-1, -1, -1]],
  "left edges": [[-1, 1, 0], [-1, 1, 0], [-1, 1, 0]],
  "right edges": [[0, 1, -1], [0, 1, -1], [0, 1, -1]],
  "outline": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
  "blur": [[1, 2, 1], [2, 4, 2], [1, 2, 1]].map((row) => row.map((w) => w / 16)),
  "identity": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
};

const hand = {
  size: 3,
  weights: PRESETS["top edges"].flat(),
  place: null, // of the window, counted row by row; null shows the whole map
  timer: null,
};

// The kernels of the networks' first convolutions that fit one of the page's two sizes.
function learnedKernels() {
  const kernels = {};
  for (const { name, layers } of networks) {
    const layer = layers.find(({ type }) => type === "conv");
    if (!layer) continue;
    const [rows, columns, channels, maps] = layer.kernel.shape;
    if (channels !== 1 || rows !== columns || ![3, 5].includes(rows)) continue;
    for (let map = 0; map < maps; map++) {
      const weights = Array.from({ length: rows * columns }, (_, i) => layer.kernel.data[i * maps + map]);
      kernels[`${name}, ${layer.name}, map ${map + 1}`] = { size: rows, weights };
    }
  }
  return kernels;
}

function handLayer() {
  const kernel = { shape: [hand.size, hand.size, 1, 1], data: Float32Array.from(hand.weights) };
  const bias = { shape: [1], data: new Float32Array(1) };
  return { type: "conv", kernel, bias, stride: [1, 1], padding: [[0, 0], [0, 0]] };
}

// The kernel in another size, with the same weights in the middle.
function resized(weights, size, newSize) {
  const margin = (newSize - size) / 2;
  return Array.from({ length: newSize ** 2 }, (_, i) => {
    const [row, column] = [Math.floor(i / newSize) - margin, (i % newSize) - margin];
    const inside = row >= 0 && row < size && column >= 0 && column < size;
    return inside ? weights[row * size + column] : 0;
  });
}

// The side of a weight's cell in CSS pixels.
function handCell() {
  if (hand.size === 3) return 40;
  return window.innerWidth < 640 ? 30 : 35;
}

// Show the input fields for the weights; they are rebuilt only when the size or the preset changes.
function showCells(changed) {
  const cells = document.getElementById("cells");
  cells.style.gridTemplateColumns = `repeat(${hand.size}, ${handCell()}px)`;
  cells.style.fontSize = hand.size === 3 ? "13px" : "10.5px";
  cells.style.gridAutoRows = `${handCell()}px`;
  const fields = hand.weights.map((weight, i) => {
    const where = `row ${Math.floor(i / hand.size) + 1}, column ${(i % hand.size) + 1}`;
    const value = String(Math.round(weight * 100) / 100);
    const attributes = { type: "number", step: "any", value, "aria-label": `kernel, ${where}` };
    const field = element("input", attributes);
    field.addEventListener("input", () => {
      hand.weights[i] = Number.isFinite(field.valueAsNumber) ? field.valueAsNumber : 0;
      changed();
    });
    return field;
  });
  cells.replaceChildren(...fields);
}

function tintCells() {
  const scale = largest(hand.weights);
  [...document.getElementById("cells").children].forEach((field, i) => {
    const colour = signedColour(hand.weights[i] / scale);
    const [r, g, b] = colour;
    field.style.background = `rgb(${colour})`;
    field.style.color = 0.3 * r + 0.59 * g + 0.11 * b > 140 ? "#111" : "#fff";
  });
}

function paintHand() {
  const { height, width } = content;
  const line = css("--line");
  const cell = Math.max(1, Math.floor(252 / width));
  const grid = { shape: [height, width, 1], data: pad.image };
  const whole = RUN.conv(handLayer(), grid);
  const [rows, columns] = whole.shape;
  const place = hand.place === null ? null : [Math.floor(hand.place / columns), hand.place % columns];

  const under = prepare(document.getElementById("under"), width * cell, height * cell);
  paintGrid(under, 0, 0, height, width, cell, (i) => pad.image[i], greyColour);
  // Without a place, the window rests where the response is largest.
  const best = whole.data.indexOf(Math.max(...whole.data));
  const [y, x] = place || [Math.floor(best / columns), best % columns];
  const side = hand.size * cell;
  outline(under, x * cell + 1, y * cell + 1, side - 2, side - 2);

  const layer = handLayer();
  const [part] = convParts(layer, grid, { y, x, map: 0 });
  const size = handCell();
  const scale = largest(part.products);
  const show = (id, values, colour) => {
    const context = prepare(document.getElementById(id), hand.size * size, hand.size * size);
    const all = [context, 0, 0, hand.size, hand.size, size, (i) => values[i], colour];
    paintGrid(...all);
    // Smaller cells have ".25" instead of "0.25".
    const format = (v) => (size < 40 ? number(v).replace(/0(?=\.)/, "") : number(v));
    paintNumbers(...all, format);
    frame(context, 0, 0, hand.size * size, hand.size * size, line);
  };
  show("patch", part.values, greyColour);
  show("products", part.products, (v) => signedColour(v / scale));
  tintCells();
  const at = `row ${y + 1}, column ${x + 1}`;
  document.getElementById("total").textContent =
    `Sum of ${hand.size ** 2} products at ${at}: ${number(part.sum)}`;

  const reached = hand.place === null ? Infinity : hand.place;
  const most = largest(whole.data);
  const map = prepare(document.getElementById("map"), columns * cell, rows * cell);
  const value = (i) => (i <= reached ? whole.data[i] : undefined);
  paintGrid(map, 0, 0, rows, columns, cell, value, (v) => signedColour(v / most));
  frame(map, 0, 0, columns * cell, rows * cell, line);
  outline(map, x * cell, y * cell, cell, cell);
  document.getElementById("map-caption").textContent =
    `feature map, ${rows} × ${columns}, ±${number(most)}`;
}

function placesOfHand() {
  return (content.height - hand.size + 1) * (content.width - hand.size + 1);
}

function stopHand() {
  clearInterval(hand.timer);
  hand.timer = null;
  document.getElementById("play").textContent = "Play";
}

function stepHand() {
  const next = hand.place === null ? 0 : hand.place + 1;
  if (next >= placesOfHand()) {
    stopHand();
    return;
  }
  hand.place = next;
  paintHand();
}

function playHand() {
  if (hand.timer !== null) {
    stopHand();
    return;
  }
  if (hand.place === placesOfHand() - 1) hand.place = null;
  document.getElementById("play").textContent = "Pause";
  // About ten seconds for the whole image, whatever its size.
  hand.timer = setInterval(stepHand, Math.max(12, 10000 / placesOfHand()));
}

function listenToHand() {
  const learned = learnedKernels();
  const preset = document.getElementById("preset");
  const custom = "my own";
  for (const name of [...Object.keys(PRESETS), ...Object.keys(learned), custom]) {
    preset.append(element("option", { text: name }));
  }
  const sizes = document.getElementById("sizes");
  const edited = () => {
    preset.value = custom;
    paintHand();
  };
  const reset = () => {
    stopHand();
    hand.place = null;
    sizes.querySelector(`[value="${hand.size}"]`).checked = true;
    showCells(edited);
    paintHand();
  };
  preset.addEventListener("change", () => {
    if (preset.value in PRESETS) {
      [hand.size, hand.weights] = [3, PRESETS[preset.value].flat()];
    } else if (preset.value in learned) {
      hand.size = learned[preset.value].size;
      hand.weights = [...learned[preset.value].weights];
    }
    reset();
  });
  sizes.addEventListener("change", (event) => {
    const size = Number(event.target.value);
    hand.weights = resized(hand.weights, hand.size, size);
    hand.size = size;
    preset.value = custom;
    reset();
  });
  document.getElementById("step").addEventListener("click", () => {
    stopHand();
    stepHand();
  });
  document.getElementById("play").addEventListener("click", playHand);
  document.getElementById("whole").addEventListener("click", () => {
    stopHand();
    hand.place = null;
    paintHand();
  });
  showCells(edited);
}

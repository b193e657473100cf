"use strict";
// Listen to the reader, and draw again what changes.

const state = {
  network: 0, // the one whose maps are shown
  before: false, // show values before the activation
  chosen: null, // {stage, unit, kept}
  example: null,
};
const stagesByNetwork = networks.map(({ layers }) => stagesOf(layers));
let computed = []; // the values of each network
let layouts = []; // one for each layer that is shown
let canvases = [];

const byId = (id) => document.getElementById(id);

// Draw everything, after a change of the image.
function refresh() {
  computed = networks.map(({ layers }) => forward(layers, pad.image));
  showBars();
  paintHand();
  showMoved();
  look();
}

// The same, at most once per frame of the screen, however many strokes it has.
let awaited = false;
function refreshSoon() {
  if (awaited) return;
  awaited = true;
  requestAnimationFrame(() => {
    awaited = false;
    refresh();
  });
}

// Draw the maps, the unit, and its field on the drawing, after another unit or network is chosen.
function look() {
  const { layers } = networks[state.network];
  const values = computed[state.network];
  const stages = stagesByNetwork[state.network];
  const { chosen } = state;
  const at = chosen && stages[chosen.stage].sum;
  const fields = chosen ? fieldsOf(layers, values, at, chosen.unit) : [];
  const line = css("--line");
  stages.forEach((stage, i) => {
    const value = values[state.before ? stage.sum : stage.out];
    const earlier = chosen && i < chosen.stage;
    const direct = earlier && i === chosen.stage - 1 && stages[chosen.stage].layer;
    const oneMap = direct && ["pool", "subsample"].includes(stages[chosen.stage].layer.type);
    const scale = paintStage(canvases[i].canvas, value, layouts[i], {
      selected: chosen && i === chosen.stage ? chosen.unit : null,
      field: earlier ? fields[stage.out] : null,
      only: oneMap ? chosen.unit.map : null,
      line,
    });
    canvases[i].low.textContent = number(-scale);
    canvases[i].high.textContent = number(scale);
  });
  paintPad(fields[0] || null);
  showUnit(layers, values, stages, chosen, fields[0] || null);
}

function showBars() {
  networks.forEach((network, n) => {
    const shares = probabilities(computed[n]);
    const best = shares.indexOf(Math.max(...shares));
    const { says, rows } = barParts[n];
    says.textContent = `says ${content.classes[best]}, ${percent(shares[best])}`;
    rows.forEach(({ row, bar, text }, k) => {
      row.className = k === best ? "best" : "";
      bar.style.width = `${100 * shares[k]}%`;
      text.textContent = percent(shares[k]);
    });
  });
}

const barParts = networks.map((network) => {
  const says = element("p", { "aria-live": "polite" });
  const rows = content.classes.map((name) => {
    const bar = element("div", { class: "bar" });
    const text = element("td");
    const label = element("th", { scope: "row", text: name });
    const row = element("tr", {}, label, element("td", {}, bar), text);
    return { row, bar, text };
  });
  const title = element("h3", { text: network.name });
  const body = element("tbody", {}, ...rows.map(({ row }) => row));
  byId("bars").append(element("div", { class: "network" }, title, says, element("table", {}, body)));
  return { says, rows };
});

function showMoved() {
  const [down, right] = pad.moved;
  const parts = [
    down && `${Math.abs(down)} ${down > 0 ? "down" : "up"}`,
    right && `${Math.abs(right)} ${right > 0 ? "right" : "left"}`,
  ].filter(Boolean);
  byId("moved").textContent = parts.length ? `moved ${parts.join(", ")}` : "not moved";
  byId("back").disabled = parts.length === 0;
}

// Make the canvases of a network's layers, for the width of the page.
function buildStages() {
  const values = computed[state.network];
  const width = byId("stages").clientWidth;
  const stages = stagesByNetwork[state.network];
  layouts = stages.map((stage, i) => {
    const layout = arrange(values[stage.out].shape, width);
    const isLast = i === stages.length - 1;
    return isLast ? withLabels(layout, content.classes) : layout;
  });
  canvases = stages.map((stage, i) => {
    const what = describeStage(stage, values[stage.out]);
    const label = `${stage.name}: ${what}. Arrow keys choose a unit.`;
    const canvas = element("canvas", { tabindex: "0", role: "img", "aria-label": label });
    const [low, high] = [element("span"), element("span")];
    const scale = element("span", { class: "scale" }, low, element("i"), high);
    const head = element("header", {}, element("h3", { text: stage.name }), element("p", { text: what }), scale);
    listenToStage(canvas, i);
    return { canvas, low, high, figure: element("div", { class: "stage" }, head, canvas) };
  });
  byId("stages").replaceChildren(...canvases.map(({ figure }) => figure));
}

function listenToStage(canvas, stage) {
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    return unitAt(layouts[stage], event.clientX - box.left, event.clientY - box.top);
  };
  canvas.addEventListener("pointermove", (event) => {
    if (state.chosen?.kept || event.pointerType === "touch") return;
    const unit = under(event);
    if (unit) choose({ stage, unit, kept: false });
  });
  canvas.addEventListener("pointerleave", () => {
    if (!state.chosen?.kept && document.activeElement !== canvas) choose(null);
  });
  canvas.addEventListener("click", (event) => {
    const unit = under(event);
    if (unit) choose({ stage, unit, kept: true });
  });
  canvas.addEventListener("keydown", (event) => {
    const layout = layouts[stage];
    const here = state.chosen?.stage === stage ? state.chosen.unit : null;
    const first = layout.units ? { index: 0 } : { map: 0, y: 0, x: 0 };
    const unit = neighbour(layout, here || first, event.key);
    if (!unit) return;
    event.preventDefault();
    event.stopPropagation(); // otherwise the drawing would move
    choose({ stage, unit: here ? unit : first, kept: true });
  });
}

function choose(chosen) {
  state.chosen = chosen;
  look();
}

function start() {
  const names = networks.map(({ name }) => name).join(", ");
  const many = networks.length > 1 ? "networks" : "network";
  byId("lead").textContent =
    `Draw, and see what every layer of the ${many} ${names} makes of it. Nothing leaves this page.`;
  const sizes = networks.map(
    ({ name, step, parameters }) => `${name}: ${parameters.toLocaleString("en")} parameters, step ${step.toLocaleString("en")}`,
  );
  byId("about").textContent =
    `${sizes.join("; ")}. Weights as ${content.weights}. Examples: ${content.dataset}, ${content.split}. ` +
    "Written by python -m cnn_jax page.";

  examples.forEach(({ label, image }, i) => {
    const canvas = element("canvas");
    [canvas.width, canvas.height] = [content.width, content.height];
    paintGrid(canvas.getContext("2d"), 0, 0, content.height, content.width, 1, (k) => image[k], greyColour);
    const about = `example ${i + 1}: ${content.classes[label]}`;
    const attributes = { type: "button", title: about, "aria-label": about, "aria-pressed": "false" };
    const button = element("button", attributes, canvas);
    button.addEventListener("click", () => showExample(i));
    byId("examples").append(button);
  });
  networks.forEach(({ name }, n) => {
    const radio = element("input", { type: "radio", name: "network", value: n });
    radio.checked = n === 0;
    radio.addEventListener("change", () => {
      [state.network, state.chosen] = [n, null];
      buildStages();
      look();
    });
    byId("networks").append(element("label", {}, radio, ` ${name}`));
  });
  byId("before").addEventListener("change", (event) => {
    state.before = event.target.checked;
    look();
  });
  listenToButtons();
  listenToPad(() => {
    markExample(null);
    refreshSoon();
  });
  listenToHand();
  listenToMap();
  window.addEventListener("keydown", onKey);
  dark.addEventListener("change", refresh);
  window.addEventListener("resize", () => {
    measureRoom();
    buildStages();
    look();
  });
  measureRoom();
  take(examples[0].image);
  computed = networks.map(({ layers }) => forward(layers, pad.image));
  // A convolutional network has more to show.
  const shown = networks.findIndex(({ layers }) => layers.some(({ type }) => type === "conv"));
  state.network = Math.max(shown, 0);
  byId("networks").querySelectorAll("input")[state.network].checked = true;
  buildStages();
  showExample(0);
}

function markExample(i) {
  [...byId("examples").children].forEach((button, k) => {
    button.setAttribute("aria-pressed", String(k === i));
  });
}

function showExample(i) {
  take(examples[i].image);
  markExample(i);
  refresh();
}

function listenToButtons() {
  const toggle = (id, field, then) =>
    byId(id).addEventListener("click", () => {
      pad[field] = !pad[field];
      byId(id).setAttribute("aria-pressed", String(pad[field]));
      then();
    });
  toggle("erase", "erasing", () => {});
  toggle("numbers", "numbers", () => {
    document.querySelector(".top").classList.toggle("zoomed", padIsZoomed());
    look();
  });
  byId("clear").addEventListener("click", () => {
    take(new Float32Array(content.height * content.width));
    markExample(null);
    refresh();
  });
  byId("centre").addEventListener("click", () => {
    centreDrawing();
    refresh();
  });
  byId("back").addEventListener("click", () => {
    move(-pad.moved[0], -pad.moved[1]);
    refresh();
  });
  for (const button of document.querySelectorAll("[data-move]")) {
    button.addEventListener("click", () => {
      move(...button.dataset.move.split(" ").map(Number));
      refresh();
    });
  }
}

// The window of the kernel follows the pointer over its map, and the arrow keys.
function listenToMap() {
  const canvas = byId("map");
  const columns = () => content.width - hand.size + 1;
  const rows = () => content.height - hand.size + 1;
  const goTo = (y, x) => {
    const within = (value, size) => Math.min(Math.max(value, 0), size - 1);
    stopHand();
    hand.place = within(y, rows()) * columns() + within(x, columns());
    paintHand();
  };
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const y = Math.floor(((event.clientY - box.top) / box.height) * rows());
    goTo(y, Math.floor(((event.clientX - box.left) / box.width) * columns()));
  });
  canvas.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const place = hand.place ?? 0;
    goTo(Math.floor(place / columns()) + step[0], (place % columns()) + step[1]);
  });
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function onKey(event) {
  if (event.key === "Escape") choose(null);
  const inField = ["INPUT", "SELECT"].includes(event.target.tagName);
  if (inField || !(event.key in ARROWS) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  move(...ARROWS[event.key]);
  refresh();
}

start();

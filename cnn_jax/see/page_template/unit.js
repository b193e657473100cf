"use strict";
// The panel that explains one unit: what it sees, its weights, their products, the sum.

// "C3, map 4, row 2, column 7"; rows, columns and maps are counted from 1, as readers count.
function nameUnit(stage, unit, last) {
  if ("index" in unit) {
    const label = last ? ` (“${content.classes[unit.index]}”)` : "";
    return `${stage.name}, unit ${unit.index + 1}${label}`;
  }
  return `${stage.name}, map ${unit.map + 1}, row ${unit.y + 1}, column ${unit.x + 1}`;
}

function sentence(stage, { parts, bias, sum, out }) {
  if (stage.layer === null) return `standardised value ${number(out)}`;
  const terms = parts.reduce((count, part) => count + part.values.length, 0);
  const then = stage.activation ? `; ${WORDS[stage.activation]} of it is ${number(out)}` : "";
  if (stage.layer.type === "pool") {
    const what = stage.layer.how === "max" ? "largest" : "mean";
    return `The ${what} of ${terms} values is ${number(sum)}${then}.`;
  }
  const products = parts.reduce((total, part) => total + part.sum, 0);
  if (stage.layer.type === "distance") {
    return `Minus the sum of ${terms} squared differences is ${number(sum)}.`;
  }
  const sign = bias < 0 ? "−" : "+";
  const added = `${number(products)} ${sign} ${number(Math.abs(bias))} (bias) = ${number(sum)}`;
  return `Sum of ${terms} products: ${added}${then}.`;
}

const PARTS = { conv: ["sees", "kernel"], distance: ["sees", "point"] };

// Three grids, "sees × weights = products", and the part's sum.
function showPart(part, scales, names, width) {
  const cells = part.rows <= 7 && part.columns <= 7;
  const fits = Math.floor((width - 56) / 3 / part.columns);
  const size = Math.max(1, Math.min(cells ? 26 : 6, fits));
  const colours = scales.map((scale) => (v) => signedColour(v / scale));
  const grids = [part.values, part.weights, part.products].map((values, i) => {
    const canvas = element("canvas");
    const context = prepare(canvas, part.columns * size, part.rows * size);
    const grid = [context, 0, 0, part.rows, part.columns, size, (k) => values[k], colours[i]];
    paintGrid(...grid);
    const digits = (v) => number(v, Math.abs(v) >= 9.95 ? 0 : 1);
    // ".7" instead of "0.7", or numbers would touch in small cells.
    const format = size >= 22 ? digits : (v) => digits(v).replace(/0(?=\.)/, "");
    if (size >= 16) paintNumbers(...grid, format);
    return element("figure", {}, element("figcaption", { text: names[i] }), canvas);
  });
  const sign = (text) => element("span", { class: "sign", text });
  return element("div", { class: "part" }, grids[0], sign("×"), grids[1], sign("="), grids[2]);
}

// A small drawing with the unit's field, for when the large one is out of sight.
function showField(field) {
  const { height, width } = content;
  const size = Math.max(1, Math.floor(84 / width));
  const canvas = element("canvas", { role: "img", "aria-label": "the unit's field on the drawing" });
  const context = prepare(canvas, width * size, height * size);
  paintGrid(context, 0, 0, height, width, size, (i) => pad.image[i], greyColour);
  const [top, left, bottom, right] = field || [0, 0, height, width];
  const [w, h] = [(right - left) * size - 2, (bottom - top) * size - 2];
  outline(context, left * size + 1, top * size + 1, w, h);
  return canvas;
}

// Fill the panel, with a hint if no unit is chosen.
function showUnit(layers, values, stages, chosen, field) {
  const panel = document.getElementById("unit");
  if (chosen === null) {
    const hint = "Point at a unit of a layer, or choose one with the keyboard.";
    // A hint that is there already stays, or screen readers would read it out again.
    const isShown = panel.lastElementChild?.textContent === hint;
    if (!isShown) panel.replaceChildren(element("h3", { text: "A unit" }), element("p", { text: hint }));
    return;
  }
  const width = (panel.clientWidth || 400) - 32; // without its padding
  const stage = stages[chosen.stage];
  const explained = explainUnit(layers, values, stage, chosen.unit);
  const title = nameUnit(stage, chosen.unit, chosen.stage === stages.length - 1);
  const text = sentence(stage, explained);
  const words = element(
    "div",
    {},
    element("h3", { text: title + (chosen.kept ? " · kept" : "") }),
    element("p", { class: "line", text }),
  );
  panel.replaceChildren(element("div", { class: "about" }, words, showField(field)));
  if (stage.layer === null) return;
  // One scale for all parts, so that the maps with large products stand out.
  const scales = ["values", "weights", "products"].map((what) =>
    largest(explained.parts.flatMap((part) => part[what])),
  );
  const [sees, weights] = PARTS[stage.layer.type] || ["sees", "weights"];
  for (const part of explained.parts) {
    const names = [`${sees} ${part.title}`, weights, `products, Σ ${number(part.sum)}`];
    panel.append(showPart(part, scales, names, width));
  }
}

"use strict";
// Explain a unit: its field, and the products that it adds up. Pure functions of the layers and
// values of forward.js.

const WORDS = { relu: "ReLU", tanh: "tanh", scaled_tanh: "1.7159 tanh(⅔ x)", sigmoid: "sigmoid" };

// The layers as the page shows them, each with the activation that follows it. `from`, `sum` and
// `out` are indices of values: the layer's input, its output, and the activation's output.
function stagesOf(layers) {
  const input = layers.findIndex((layer) => layer.type === "standardise") + 1;
  const stages = [{ name: "input", layer: null, from: 0, sum: input, out: input, activation: null }];
  layers.forEach((layer, k) => {
    if (k < input || layer.type === "flatten") return;
    if (layer.type === "activation") {
      const last = stages[stages.length - 1];
      last.activation = layer.function;
      last.out = k + 1;
    } else {
      stages.push({ name: layer.name, layer, from: k, sum: k + 1, out: k + 1, activation: null });
    }
  });
  return stages;
}

function describeStage({ layer, activation }, { shape }) {
  const size = shape.length === 3 ? `${shape[2]} × ${shape[0]} × ${shape[1]}` : `${shape[0]} units`;
  const then = activation ? `, ${WORDS[activation]}` : "";
  if (layer === null) return `the image, standardised · ${shape[0]} × ${shape[1]}`;
  const what = {
    conv: () => `${layer.kernel.shape[0]} × ${layer.kernel.shape[1]} convolution`,
    pool: () => `${layer.window} × ${layer.window} ${layer.how === "max" ? "maximum" : "mean"}`,
    subsample: () => "2 × 2 sum, one coefficient per map",
    dense: () => "fully connected",
    distance: () => "minus squared distance to a point",
  };
  return `${what[layer.type]()}${then} · ${size}`;
}

// A field is [top, left, bottom, right], the last two excluded, or null for all of the input.
// `clip` keeps it inside the input.
function clip([top, left, bottom, right], [height, width]) {
  return [Math.max(top, 0), Math.max(left, 0), Math.min(bottom, height), Math.min(right, width)];
}

function used(matrix, from, to) {
  const columns = matrix.shape[1];
  const seen = [];
  for (let i = 0; i < columns; i++) {
    for (let r = from; r < to; r++) if (matrix.data[r * columns + i] !== 0) seen.push(i);
  }
  return seen.length ? [Math.min(...seen), Math.max(...seen) + 1] : [0, 0];
}

// The field in a layer's input from which a field in its output is computed.
function fieldBefore(layer, field, inputShape) {
  if (field === null || inputShape.length !== 3) return null;
  const [top, left, bottom, right] = field;
  switch (layer.type) {
    case "conv": {
      const { stride, kernel } = layer;
      const [[above], [before]] = layer.padding;
      const from = [top * stride[0] - above, left * stride[1] - before];
      const to = [(bottom - 1) * stride[0] - above, (right - 1) * stride[1] - before];
      return clip([...from, to[0] + kernel.shape[0], to[1] + kernel.shape[1]], inputShape);
    }
    case "pool":
    case "subsample": {
      const { window, stride } = layer.type === "pool" ? layer : { window: 2, stride: 2 };
      const last = [(bottom - 1) * stride + window, (right - 1) * stride + window];
      return [top * stride, left * stride, ...last];
    }
    case "place": {
      const [[t, b], [l, r]] = [used(layer.rows, top, bottom), used(layer.columns, left, right)];
      return [t, l, b, r];
    }
    case "activation":
    case "standardise":
      return field;
    default:
      return null; // a dense layer sees everything
  }
}

// The field that a unit of values[at] sees in each value before it. `unit` is {y, x, map} or
// {index}.
function fieldsOf(layers, values, at, unit) {
  const fields = [];
  fields[at] = "index" in unit ? null : [unit.y, unit.x, unit.y + 1, unit.x + 1];
  for (let k = at - 1; k >= 0; k--) {
    fields[k] = fieldBefore(layers[k], fields[k + 1], values[k].shape);
  }
  return fields;
}

// A part of a unit's sum: {title, rows, columns, values, weights, products, sum}, arrays row by row.
function part(title, rows, columns, values, weights, product = (v, w) => v * w) {
  const products = values.map((value, i) => product(value, weights[i]));
  const sum = products.reduce((a, b) => a + b, 0);
  return { title, rows, columns, values, weights, products, sum };
}

function convParts({ kernel, stride, padding }, { shape, data }, { y, x, map }) {
  const [rows, columns, channels, maps] = kernel.shape;
  const [height, width] = shape;
  return Array.from({ length: channels }, (_, c) => {
    const values = [];
    const weights = [];
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        const row = y * stride[0] - padding[0][0] + i;
        const column = x * stride[1] - padding[1][0] + j;
        const inside = row >= 0 && row < height && column >= 0 && column < width;
        values.push(inside ? data[(row * width + column) * channels + c] : 0);
        weights.push(kernel.data[((i * columns + j) * channels + c) * maps + map]);
      }
    }
    return part(channels > 1 ? `map ${c + 1}` : "", rows, columns, values, weights);
  });
}

function poolParts(layer, { shape, data }, { y, x, map }) {
  const { window, stride } = layer.type === "pool" ? layer : { window: 2, stride: 2 };
  const values = [];
  for (let i = 0; i < window; i++) {
    for (let j = 0; j < window; j++) {
      values.push(data[((y * stride + i) * shape[1] + x * stride + j) * shape[2] + map]);
    }
  }
  const most = values.indexOf(Math.max(...values));
  const weight = {
    pool: (_, i) => (layer.how === "max" ? Number(i === most) : 1 / window ** 2),
    subsample: () => layer.coefficient.data[map],
  }[layer.type];
  return [part(`map ${map + 1}`, window, window, values, values.map(weight))];
}

// The inputs of a dense unit, one part per map if they were maps before they were flattened.
function denseParts(inputs, mapShape, weight, product) {
  const [rows, columns, channels] = mapShape;
  return Array.from({ length: channels }, (_, c) => {
    const all = Array.from({ length: rows * columns }, (_, i) => i * channels + c);
    const places = all.filter((i) => i < inputs.length); // the last row may be incomplete
    const values = places.map((i) => inputs[i]);
    const title = channels > 1 ? `map ${c + 1}` : "";
    return part(title, rows, columns, values, places.map(weight), product);
  });
}

// The shape in which a vector of n is drawn: about three times as wide as high.
function vectorShape(n) {
  const columns = n <= 20 ? n : 10 * Math.max(1, Math.round(Math.sqrt(3 * n) / 10));
  return [Math.ceil(n / columns), columns, 1];
}

// {parts, bias, sum, out}: all products of a unit, its bias, their sum, and its activation.
function explainUnit(layers, values, stage, unit) {
  const { layer, from } = stage;
  const at = "index" in unit ? unit.index : unitPlace(values[stage.sum].shape, unit);
  const totals = { sum: values[stage.sum].data[at], out: values[stage.out].data[at], bias: 0 };
  if (layer === null) return { ...totals, parts: [] };
  const input = values[from];
  if (layer.type === "conv") {
    const bias = layer.bias.data[unit.map];
    return { ...totals, bias, parts: convParts(layer, input, unit) };
  }
  if (layer.type === "pool" || layer.type === "subsample") {
    const bias = layer.type === "subsample" ? layer.bias.data[unit.map] : 0;
    return { ...totals, bias, parts: poolParts(layer, input, unit) };
  }
  const flattened = from > 0 && layers[from - 1].type === "flatten";
  const mapShape = flattened ? values[from - 1].shape : vectorShape(input.shape[0]);
  if (layer.type === "dense") {
    const units = layer.kernel.shape[1];
    const weight = (i) => layer.kernel.data[i * units + at];
    return { ...totals, bias: layer.bias.data[at], parts: denseParts(input.data, mapShape, weight) };
  }
  const weight = (i) => layer.points.data[at * input.shape[0] + i];
  const square = (v, w) => -((v - w) ** 2);
  return { ...totals, parts: denseParts(input.data, mapShape, weight, square) };
}

function unitPlace(shape, { y, x, map }) {
  return (y * shape[1] + x) * shape[2] + map;
}

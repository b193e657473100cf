"use strict";
// Draw all layers of a network as maps, one canvas per layer, and find the unit under the pointer.

const GAP = 6;

// The layout of a value's maps or units, in CSS pixels, in a column `width` wide.
function arrange(shape, width) {
  if (shape.length === 3) {
    const [rows, columns, maps] = shape;
    const size = Math.max(1, Math.min(14, Math.floor(84 / columns)));
    const [tileWidth, tileHeight] = [columns * size, rows * size];
    const across = Math.max(1, Math.min(maps, Math.floor((width + GAP) / (tileWidth + GAP))));
    const down = Math.ceil(maps / across);
    const total = [across * (tileWidth + GAP) - GAP, down * (tileHeight + GAP) - GAP];
    return { size, rows, columns, maps, tileWidth, tileHeight, across, total };
  }
  const [units] = shape;
  const size = units <= 20 ? Math.min(40, Math.floor(width / units)) : 14;
  const fits = Math.floor(width / size);
  const columns = Math.min(units, fits > 10 ? 10 * Math.floor(fits / 10) : fits);
  const rows = Math.ceil(units / columns);
  return { size, rows, columns, maps: 1, across: 1, units, total: [columns * size, rows * size] };
}

// The layout of the last layer, with the classes' names under its units if they are short.
function withLabels(layout, names) {
  const fits = layout.rows === 1 && layout.size >= 26 && names.every((name) => name.length <= 3);
  if (!layout.units || !fits) return layout;
  const [width, height] = layout.total;
  return { ...layout, labels: names, total: [width, height + 18] };
}

function tileCorner(layout, map) {
  const { across, tileWidth, tileHeight } = layout;
  const [row, column] = [Math.floor(map / across), map % across];
  return [column * (tileWidth + GAP), row * (tileHeight + GAP)];
}

// The unit at (x, y) of a layer's canvas, or null between the maps.
function unitAt(layout, x, y) {
  const { size, rows, columns, maps, tileWidth, tileHeight, across } = layout;
  if (layout.units) {
    const [row, column] = [Math.floor(y / size), Math.floor(x / size)];
    const index = row * columns + column;
    return row < rows && column < columns && index >= 0 && index < layout.units ? { index } : null;
  }
  const [column, row] = [Math.floor(x / (tileWidth + GAP)), Math.floor(y / (tileHeight + GAP))];
  const [left, top] = [x - column * (tileWidth + GAP), y - row * (tileHeight + GAP)];
  const map = row * across + column;
  if (left >= tileWidth || top >= tileHeight || column >= across || map >= maps) return null;
  const unit = { map, y: Math.floor(top / size), x: Math.floor(left / size) };
  return unit.y >= 0 && unit.y < rows && unit.x >= 0 && unit.x < columns ? unit : null;
}

// The unit to which a key moves; null for all other keys.
function neighbour(layout, unit, key) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  if (layout.units) {
    if (!step) return null;
    const index = unit.index + step[0] * layout.columns + step[1];
    return index >= 0 && index < layout.units ? { index } : unit;
  }
  const { rows, columns, maps } = layout;
  if (key === "PageUp") return { ...unit, map: (unit.map + maps - 1) % maps };
  if (key === "PageDown") return { ...unit, map: (unit.map + 1) % maps };
  if (!step) return null;
  const within = (value, size) => Math.min(Math.max(value, 0), size - 1);
  return { ...unit, y: within(unit.y + step[0], rows), x: within(unit.x + step[1], columns) };
}

// Paint one layer's maps on one symmetric scale, and return its end. `selected` is the chosen unit of
// this layer, `field` what a unit of a later layer sees of it, `only` the one map that the later unit
// sees, `line` the colour of frames.
function paintStage(canvas, value, layout, { selected, field, only, line }) {
  const { shape, data } = value;
  const { size, rows, columns } = layout;
  const context = prepare(canvas, ...layout.total);
  const scale = largest(data);
  const colour = (v) => signedColour(v / scale);
  if (layout.units) {
    paintGrid(context, 0, 0, rows, columns, size, (i) => data[i], colour);
    if (size >= 26) {
      paintNumbers(context, 0, 0, rows, columns, size, (i) => data[i], colour, (v) => number(v, 1));
    }
    if (layout.units === rows * columns) frame(context, 0, 0, columns * size, rows * size, line);
    if (layout.labels) {
      context.fillStyle = css("--ink");
      context.font = "12px system-ui, sans-serif";
      layout.labels.forEach((name, i) => context.fillText(name, (i + 0.5) * size, size + 11));
    }
    if (selected) {
      const [row, column] = [Math.floor(selected.index / columns), selected.index % columns];
      outline(context, column * size + 1, row * size + 1, size - 2, size - 2);
    }
    return scale;
  }
  for (let map = 0; map < shape[2]; map++) {
    const [left, top] = tileCorner(layout, map);
    paintGrid(context, left, top, rows, columns, size, (i) => data[i * shape[2] + map], colour);
    frame(context, left, top, columns * size, rows * size, line);
    if (field && (only === null || only === map)) {
      const [t, l, b, r] = field;
      outline(context, left + l * size + 1, top + t * size + 1, (r - l) * size - 2, (b - t) * size - 2);
    }
    if (selected && selected.map === map) {
      outline(context, left + selected.x * size - 1, top + selected.y * size - 1, size + 2, size + 2);
    }
  }
  return scale;
}

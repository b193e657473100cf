"use strict";
// The networks, and their forward pass. It is the only one: the page and its test share it.
//
// A value is {shape, data}: maps [height, width, channels] or a vector [n], row by row, channels
// last, float32. Sums are taken in float64: arrays of float32 would round after every product.

const content = JSON.parse(document.getElementById("content").textContent);
const networks = content.networks.map((network) => ({
  ...network,
  layers: network.layers.map(decodeLayer),
}));
const examples = decodeExamples(content);

function decodeLayer(layer) {
  const decoded = {};
  for (const [name, value] of Object.entries(layer)) {
    const isArray = value !== null && typeof value === "object" && "base64" in value;
    decoded[name] = isArray ? { shape: value.shape, data: decodeArray(value) } : value;
  }
  return decoded;
}

function decodeBytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// A DataView, since typed arrays read in the machine's byte order and the page is little endian.
function decodeArray({ type, base64, scale }) {
  const view = new DataView(decodeBytes(base64).buffer);
  if (type === "float32") {
    return Float32Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
  }
  const units = decodeArray(scale); // one for each index of the last axis
  return Float32Array.from(
    { length: view.byteLength / 2 },
    (_, i) => view.getInt16(2 * i, true) * units[i % units.length],
  );
}

function decodeExamples({ images, labels, height, width }) {
  const pixels = decodeBytes(images);
  const size = height * width;
  return labels.map((label, i) => ({
    label,
    image: Float32Array.from(pixels.subarray(i * size, (i + 1) * size), (p) => p / 255),
  }));
}

function blank(shape) {
  return { shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) };
}

const ACTIVATIONS = {
  relu: (x) => Math.max(x, 0),
  tanh: Math.tanh,
  scaled_tanh: (x) => 1.7159 * Math.tanh((x * 2) / 3),
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
};

// The output value of each type of layer for an input value.
const RUN = {
  // rows @ image @ columns.T: a resize, a padding or a crop.
  place(layer, { shape: [height, width, channels], data }) {
    const [newHeight] = layer.rows.shape;
    const [newWidth] = layer.columns.shape;
    const out = blank([newHeight, newWidth, channels]);
    for (let y = 0; y < newHeight; y++) {
      for (let i = 0; i < height; i++) {
        const row = layer.rows.data[y * height + i];
        if (row === 0) continue;
        for (let x = 0; x < newWidth; x++) {
          for (let j = 0; j < width; j++) {
            const factor = row * layer.columns.data[x * width + j];
            if (factor === 0) continue;
            for (let c = 0; c < channels; c++) {
              out.data[(y * newWidth + x) * channels + c] += factor * data[(i * width + j) * channels + c];
            }
          }
        }
      }
    }
    return out;
  },

  standardise({ mean, std }, { shape, data }) {
    const channels = mean.data.length;
    return {
      shape,
      data: data.map((x, i) => (x - mean.data[i % channels]) / std.data[i % channels]),
    };
  },

  conv({ kernel, bias, stride, padding }, { shape: [height, width, channels], data }) {
    const [rows, columns, , maps] = kernel.shape;
    const [[top, bottom], [left, right]] = padding;
    const newHeight = Math.floor((height + top + bottom - rows) / stride[0]) + 1;
    const newWidth = Math.floor((width + left + right - columns) / stride[1]) + 1;
    const out = blank([newHeight, newWidth, maps]);
    const sums = new Float64Array(maps);
    for (let y = 0; y < newHeight; y++) {
      for (let x = 0; x < newWidth; x++) {
        sums.set(bias.data);
        for (let i = 0; i < rows; i++) {
          const row = y * stride[0] - top + i;
          if (row < 0 || row >= height) continue; // zeros outside
          for (let j = 0; j < columns; j++) {
            const column = x * stride[1] - left + j;
            if (column < 0 || column >= width) continue;
            for (let c = 0; c < channels; c++) {
              const value = data[(row * width + column) * channels + c];
              if (value === 0) continue;
              const start = ((i * columns + j) * channels + c) * maps;
              for (let d = 0; d < maps; d++) sums[d] += value * kernel.data[start + d];
            }
          }
        }
        out.data.set(sums, (y * newWidth + x) * maps);
      }
    }
    return out;
  },

  pool({ how, window, stride }, { shape: [height, width, channels], data }) {
    const newHeight = Math.floor((height - window) / stride) + 1;
    const newWidth = Math.floor((width - window) / stride) + 1;
    const out = blank([newHeight, newWidth, channels]);
    for (let y = 0; y < newHeight; y++) {
      for (let x = 0; x < newWidth; x++) {
        for (let c = 0; c < channels; c++) {
          let sum = 0;
          let most = -Infinity;
          for (let i = 0; i < window; i++) {
            for (let j = 0; j < window; j++) {
              const value = data[((y * stride + i) * width + x * stride + j) * channels + c];
              sum += value;
              most = Math.max(most, value);
            }
          }
          out.data[(y * newWidth + x) * channels + c] = how === "max" ? most : sum / window ** 2;
        }
      }
    }
    return out;
  },

  subsample({ coefficient, bias }, value) {
    const out = RUN.pool({ how: "mean", window: 2, stride: 2 }, value);
    const channels = out.shape[2];
    out.data = out.data.map(
      (mean, i) => 4 * mean * coefficient.data[i % channels] + bias.data[i % channels],
    );
    return out;
  },

  activation: (layer, { shape, data }) => ({ shape, data: data.map(ACTIVATIONS[layer.function]) }),

  flatten: (layer, { data }) => ({ shape: [data.length], data }),

  dense({ kernel, bias }, { data }) {
    const [inputs, units] = kernel.shape;
    const sums = Float64Array.from(bias.data);
    for (let i = 0; i < inputs; i++) {
      const value = data[i];
      if (value === 0) continue;
      const start = i * units;
      for (let j = 0; j < units; j++) sums[j] += value * kernel.data[start + j];
    }
    return { shape: [units], data: Float32Array.from(sums) };
  },

  distance({ points }, { data }) {
    const [units, inputs] = points.shape;
    const sums = new Float64Array(units);
    for (let j = 0; j < units; j++) {
      for (let i = 0; i < inputs; i++) sums[j] -= (data[i] - points.data[j * inputs + i]) ** 2;
    }
    return { shape: [units], data: Float32Array.from(sums) };
  },
};

// All values of a network, beginning with the image (Float32Array, 0 .. 1): layer k takes values[k]
// to values[k + 1].
function forward(layers, image) {
  const values = [{ shape: [content.height, content.width, 1], data: image }];
  for (const layer of layers) values.push(RUN[layer.type](layer, values[values.length - 1]));
  return values;
}

// The softmax of the last value.
function probabilities(values) {
  const logits = values[values.length - 1].data;
  const most = Math.max(...logits);
  const powers = Array.from(logits, (x) => Math.exp(x - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / sum);
}

"use strict";
// The networks of the models, in plain loops over typed arrays.
//
// A model's weights are an object {"encoder.mu.weight": Float32Array, ...}, under PyTorch's names. Images are arrays of
// channels x height x width; `linear` and the functions of single numbers also take several vectors, one after another.

// y = W x + b, for each vector of x. Four rows at a time: each number of x is read once for four products.
function linear(w, name, x) {
  const weight = w[`${name}.weight`];
  const bias = w[`${name}.bias`];
  const outputs = bias.length;
  const inputs = weight.length / outputs;
  const y = new Float32Array((x.length / inputs) * outputs);
  for (let row = 0; row < outputs; row += 4) {
    const p = row * inputs, q = p + inputs, r = q + inputs, s = r + inputs;
    const rest = outputs - row; // a row that is not there counts as NaN, and is not written
    for (let start = 0, to = row; start < x.length; start += inputs, to += outputs) {
      let a = 0, b = 0, c = 0, d = 0;
      for (let i = 0; i < inputs; i++) {
        const value = x[start + i];
        a += weight[p + i] * value;
        b += weight[q + i] * value;
        c += weight[r + i] * value;
        d += weight[s + i] * value;
      }
      y[to] = a + bias[row];
      if (rest > 1) y[to + 1] = b + bias[row + 1];
      if (rest > 2) y[to + 2] = c + bias[row + 2];
      if (rest > 3) y[to + 3] = d + bias[row + 3];
    }
  }
  return y;
}

// Each channel is the sum of 3x3 convolutions of all channels, with zeros around the image; or of 1x1 convolutions.
function convolve(w, name, x, height, width) {
  const weight = w[`${name}.weight`];
  const bias = w[`${name}.bias`];
  const size = height * width;
  const channels = x.length / size;
  if (weight.length === bias.length * channels) return convolvePoints(weight, bias, x, size);
  const padded = pad(x, channels, height, width);
  const y = new Float32Array(bias.length * size);
  for (let out = 0; out < bias.length; out++) {
    y.fill(bias[out], out * size, (out + 1) * size);
    for (let channel = 0; channel < channels; channel++) {
      const k = 9 * (out * channels + channel);
      convolvePlane(weight, k, padded, channel * (height + 2) * (width + 2), y, out * size, height, width);
    }
  }
  return y;
}

// Adds one channel's convolution to one plane of y. The window slides: of nine pixels only three are new.
function convolvePlane(weight, k, x, from, y, to, height, width) {
  const a = weight[k], b = weight[k + 1], c = weight[k + 2];
  const d = weight[k + 3], e = weight[k + 4], f = weight[k + 5];
  const g = weight[k + 6], h = weight[k + 7], i = weight[k + 8];
  for (let row = 0; row < height; row++) {
    const p = from + row * (width + 2), q = p + width + 2, r = q + width + 2;
    let x0 = x[p], x1 = x[p + 1], x3 = x[q], x4 = x[q + 1], x6 = x[r], x7 = x[r + 1];
    for (let column = 2; column < width + 2; column++, to++) {
      const x2 = x[p + column], x5 = x[q + column], x8 = x[r + column];
      y[to] += a * x0 + b * x1 + c * x2 + d * x3 + e * x4 + f * x5 + g * x6 + h * x7 + i * x8;
      x0 = x1, x1 = x2, x3 = x4, x4 = x5, x6 = x7, x7 = x8;
    }
  }
}

function convolvePoints(weight, bias, x, size) {
  const channels = x.length / size;
  const y = new Float32Array(bias.length * size);
  for (let out = 0; out < bias.length; out++) {
    y.fill(bias[out], out * size, (out + 1) * size);
    for (let channel = 0; channel < channels; channel++) {
      const factor = weight[out * channels + channel];
      for (let i = 0; i < size; i++) y[out * size + i] += factor * x[channel * size + i];
    }
  }
  return y;
}

function pad(x, channels, height, width) {
  const wide = width + 2;
  const padded = new Float32Array(channels * (height + 2) * wide);
  for (let row = 0; row < channels * height; row++) {
    const top = 2 * Math.floor(row / height) + 1; // rows of zeros above it
    padded.set(x.subarray(row * width, (row + 1) * width), (row + top) * wide + 1);
  }
  return padded;
}

// One number for each 2x2 pixels, of which p is the index of the first.
function halve(x, width, value) {
  const half = width / 2;
  return Float32Array.from({ length: x.length / 4 }, (_, i) => value(2 * Math.floor(i / half) * width + 2 * (i % half)));
}
const maxPool = (x, width) => halve(x, width, (p) => Math.max(x[p], x[p + 1], x[p + width], x[p + width + 1]));
const subsample = (x, width) => halve(x, width, (p) => x[p]); // of a convolution of stride 2

// Each pixel becomes 2x2 equal ones.
function upsample(x, width) {
  const wide = 2 * width;
  return Float32Array.from({ length: 4 * x.length }, (_, i) => {
    const row = Math.floor(i / wide);
    return x[(row >> 1) * width + ((i % wide) >> 1)];
  });
}

// Four channels become the 2x2 pixels of one.
function pixelShuffle(x, height, width) {
  const y = new Float32Array(x.length);
  const size = height * width;
  for (let i = 0; i < x.length; i++) {
    const channel = Math.floor(i / size);
    const corner = channel % 4;
    const row = 2 * Math.floor((i % size) / width) + (corner >> 1);
    const column = 2 * (i % width) + (corner & 1);
    y[(Math.floor(channel / 4) * 2 * height + row) * 2 * width + column] = x[i];
  }
  return y;
}

// Mean 0 and variance 1 over runs of `count` numbers; then each of `channels` is scaled and shifted.
function normalise(w, name, x, count, size) {
  const weight = w[`${name}.weight`];
  const bias = w[`${name}.bias`];
  const y = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += count) {
    let mean = 0;
    for (let i = start; i < start + count; i++) mean += x[i] / count;
    let variance = 0;
    for (let i = start; i < start + count; i++) variance += (x[i] - mean) ** 2 / count;
    const factor = 1 / Math.sqrt(variance + 1e-5);
    for (let i = start; i < start + count; i++) {
      const channel = Math.floor(i / size) % weight.length;
      y[i] = (x[i] - mean) * factor * weight[channel] + bias[channel];
    }
  }
  return y;
}
const layerNorm = (w, name, x) => normalise(w, name, x, w[`${name}.weight`].length, 1);
const groupNorm = (w, name, x, size) => normalise(w, name, x, (size * w[`${name}.weight`].length) / 8, size);

const add = (x, y) => x.map((value, i) => value + y[i]);
const relu = (x) => x.map((value) => Math.max(value, 0));
const leakyRelu = (x) => x.map((value) => (value < 0 ? 0.2 * value : value));
const silu = (x) => x.map((value) => value / (1 + Math.exp(-value)));
const sigmoid = (x) => x.map((value) => 1 / (1 + Math.exp(-value)));
const gelu = (x) => x.map((value) => 0.5 * value * (1 + erf(value * Math.SQRT1_2)));
const range = (count) => [...Array(count).keys()];
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function concat(...arrays) {
  const joined = new Float32Array(arrays.reduce((length, array) => length + array.length, 0));
  let start = 0;
  for (const array of arrays) {
    joined.set(array, start);
    start += array.length;
  }
  return joined;
}

// The error function, to 1.5e-7 (Abramowitz & Stegun 1964, 7.1.26).
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

// x plus self-attention over its positions, in four heads (Vaswani et al. 2017).
function attention(w, name, x, height, width) {
  const size = height * width;
  const channels = x.length / size;
  const depth = channels / 4;
  const qkv = convolve(w, `${name}.query_key_value`, groupNorm(w, `${name}.norm`, x, size), height, width);
  const mixed = new Float32Array(x.length);
  for (let head = 0; head < 4; head++) {
    const [q, k, v] = [0, 1, 2].map((part) => qkv.subarray((part * channels + head * depth) * size));
    for (let i = 0; i < size; i++) {
      const scores = new Float32Array(size);
      for (let c = 0; c < depth; c++) for (let j = 0; j < size; j++) scores[j] += q[c * size + i] * k[c * size + j];
      const largest = Math.max(...scores);
      const weights = scores.map((score) => Math.exp((score - largest) / Math.sqrt(depth)));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      for (let c = 0; c < depth; c++) {
        let sum = 0;
        for (let j = 0; j < size; j++) sum += weights[j] * v[c * size + j];
        mixed[(head * depth + c) * size + i] = sum / total;
      }
    }
  }
  return add(x, convolve(w, `${name}.out`, mixed, height, width));
}

"use strict";
// The models, from the layers of networks.js: MNIST's, the flowers' and the diffusion model.

// ---------------------------------------------------------------- MNIST (model.py)

const LABEL_SCALE = 5;

// Hidden.forward: a Linear layer, then residual blocks.
const hidden = (w, name, x) => afterFirst(w, name, linear(w, `${name}.first`, x));

function afterFirst(w, name, h) {
  for (let block = 0; `${name}.blocks.${block}.0.weight` in w; block++) {
    const inside = `${name}.blocks.${block}`;
    h = add(h, linear(w, `${inside}.2`, gelu(layerNorm(w, `${inside}.0`, h))));
  }
  return gelu(layerNorm(w, `${name}.last.0`, h));
}

// Vectors of `length` numbers, each with its label behind it as ten numbers; without labels they stay as they are.
function withLabels(x, length, labels) {
  if (!labels) return x;
  const both = new Float32Array((length + 10) * labels.length);
  labels.forEach((label, i) => {
    both.set(x.subarray(i * length, (i + 1) * length), i * (length + 10));
    both[i * (length + 10) + length + label] = LABEL_SCALE;
  });
  return both;
}

// Images -> {mu, sigma}; the AE has no sigma.
function encodeDigits(w, images, labels) {
  return toCodes(w, hidden(w, "encoder.hidden", withLabels(images, 784, labels)));
}

// One image with each of the ten labels: the first layer multiplies the pixels only once.
function encodeWithAllLabels(w, image) {
  const weight = w["encoder.hidden.first.weight"];
  const pixels = linear(w, "encoder.hidden.first", concat(image, new Float32Array(10)));
  const first = range(10).map((label) => pixels.map((h, row) => h + LABEL_SCALE * weight[794 * row + 784 + label]));
  return toCodes(w, afterFirst(w, "encoder.hidden", concat(...first)));
}

function toCodes(w, h) {
  const mu = linear(w, "encoder.mu", h);
  if (!("encoder.log_sigma.weight" in w)) return { mu };
  return { mu, sigma: linear(w, "encoder.log_sigma", h).map((value) => Math.exp(clamp(value, -10, 10))) };
}

// Latent vectors of `dims` numbers -> pixels.
function decodeDigits(w, zs, dims, labels) {
  const logits = linear(w, "decoder.decoder.1", hidden(w, "decoder.decoder.0", withLabels(zs, dims, labels)));
  return sigmoid(logits.map((value) => clamp(value, -15, 15)));
}

// KL(N(mu, sigma^2) || N(0, 1)) of each latent, in nats.
const klOfLatents = ({ mu, sigma }) => mu.map((m, i) => 0.5 * (m * m + sigma[i] ** 2 - 1) - Math.log(sigma[i]));
const sum = (x) => x.reduce((total, value) => total + value, 0);

// -log p(x|z) in nats, of an image and its reconstruction.
function crossEntropy(image, reconstruction) {
  return -sum(image.map((x, i) => x * Math.log(reconstruction[i]) + (1 - x) * Math.log(1 - reconstruction[i])));
}
const squaredError = (x, y) => sum(x.map((value, i) => (value - y[i]) ** 2)) / x.length;

// The label with the lowest bound.
function readDigit(w, image, dims) {
  const labels = range(10);
  const codes = encodeWithAllLabels(w, image);
  const decoded = decodeDigits(w, codes.mu, dims, labels);
  const kl = klOfLatents(codes);
  const bounds = labels.map((label) => {
    const reconstruction = decoded.subarray(label * 784, (label + 1) * 784);
    return crossEntropy(image, reconstruction) + sum(kl.subarray(label * dims, (label + 1) * dims));
  });
  return bounds.indexOf(Math.min(...bounds));
}

// ---------------------------------------------------------------- flowers (Autoencoder.py, generators/gan.py)

function encodeFlower(w, image, height, width) {
  let x = relu(maxPool(convolve(w, "encoder.0", image, height, width), width));
  x = relu(maxPool(convolve(w, "encoder.3", x, height / 2, width / 2), width / 2));
  x = relu(convolve(w, "encoder.6", x, height / 4, width / 4));
  return linear(w, "encoder.9", x);
}

function decodeFlower(w, z, height, width) {
  let x = relu(linear(w, "decoder.0", z));
  x = upsample(relu(convolve(w, "decoder.3", x, height / 4, width / 4)), width / 4);
  x = upsample(relu(convolve(w, "decoder.6", x, height / 2, width / 2)), width / 2);
  return sigmoid(convolve(w, "decoder.9", x, height, width));
}

function generateFlower(w, z, height, width) {
  const residual = (name, x, h, k) => {
    let y = x;
    for (const layer of [0, 3]) {
      y = leakyRelu(groupNorm(w, `generator.${name}.layers.${layer}`, y, h * k));
      y = convolve(w, `generator.${name}.layers.${layer + 2}`, y, h, k);
    }
    return add(x, y);
  };
  let x = residual(2, linear(w, "generator.0", z), height / 4, width / 4);
  x = convolve(w, "generator.4", upsample(x, width / 4), height / 2, width / 2);
  x = residual(5, x, height / 2, width / 2);
  x = leakyRelu(groupNorm(w, "generator.6", x, (height * width) / 4));
  return sigmoid(pixelShuffle(convolve(w, "generator.8", x, height / 2, width / 2), height / 2, width / 2));
}

// ---------------------------------------------------------------- diffusion (generators/unet.py, diffusion.py)

const TIMESTEPS = 1000;

function timestepEmbedding(t, dims) {
  const half = dims / 2;
  const angles = Float32Array.from({ length: half }, (_, i) => (t / TIMESTEPS) * 10 ** ((3 * i) / (half - 1)));
  return concat(angles.map(Math.sin), angles.map(Math.cos));
}

// Embedding.forward
function embed(w, name, t, label) {
  const emb = w[`${name}.timestep_mlp.0.bias`].length;
  const h = silu(linear(w, `${name}.timestep_mlp.0`, timestepEmbedding(t, emb / 4)));
  const labels = w[`${name}.label_embedding.weight`];
  return silu(add(linear(w, `${name}.timestep_mlp.2`, h), labels.subarray(label * emb, (label + 1) * emb)));
}

// Block.forward: x plus two convolutions of it, scaled and shifted between them by the embedding.
function block(w, name, x, emb, height, width) {
  const size = height * width;
  const scaleShift = linear(w, `${name}.scale_shift`, emb);
  const outputs = scaleShift.length / 2;
  let h = convolve(w, `${name}.conv1`, silu(groupNorm(w, `${name}.norm1`, x, size)), height, width);
  h = groupNorm(w, `${name}.norm2`, h, size).map((value, i) => {
    const channel = Math.floor(i / size);
    return value * (1 + scaleShift[channel]) + scaleShift[outputs + channel];
  });
  h = convolve(w, `${name}.conv2`, silu(h), height, width);
  return add(`${name}.skip.weight` in w ? convolve(w, `${name}.skip`, x, height, width) : x, h);
}

function lastLayer(w, name, x, height, width) {
  return convolve(w, `${name}.2`, silu(groupNorm(w, `${name}.0`, x, height * width)), height, width);
}

function localNet(w, name, x, t, label, height, width) {
  const emb = embed(w, `${name}.embedding`, t, label);
  let h = convolve(w, `${name}.conv_in`, x, height, width);
  for (let i = 0; `${name}.blocks.${i}.norm1.weight` in w; i++) h = block(w, `${name}.blocks.${i}`, h, emb, height, width);
  return lastLayer(w, `${name}.out`, h, height, width);
}

function unet(w, name, x, t, label, height, width) {
  const emb = embed(w, `${name}.embedding`, t, label);
  const skips = [];
  const low = [height / 2, width / 2];
  const down = (part, h, size) => {
    for (const i of [0, 1]) skips.push((h = block(w, `${name}.${part}.${i}`, h, emb, ...size)));
    return h;
  };
  const up = (part, h, size) => {
    for (const i of [0, 1]) h = block(w, `${name}.${part}.${i}`, concat(h, skips.pop()), emb, ...size);
    return h;
  };
  let h = down("down1", convolve(w, `${name}.conv_in`, x, height, width), [height, width]);
  h = down("down2", subsample(convolve(w, `${name}.downsample`, h, height, width), width), low);
  h = attention(w, `${name}.attention`, block(w, `${name}.mid1`, h, emb, ...low), ...low);
  h = up("up2", block(w, `${name}.mid2`, h, emb, ...low), low);
  h = up("up1", convolve(w, `${name}.upsample`, upsample(h, width / 2), height, width), [height, width]);
  return lastLayer(w, `${name}.out`, h, height, width);
}

// Haar's transform: [twice the means of 2x2 pixels, their details], and its inverse.
function haar(x, height, width) {
  const half = new Float32Array(x.length / 4);
  const details = new Float32Array(3 * half.length);
  for (let i = 0; i < half.length; i++) {
    const p = 2 * Math.floor(i / (width / 2)) * width + 2 * (i % (width / 2));
    const [a, b, c, d] = [x[p], x[p + 1], x[p + width], x[p + width + 1]];
    half[i] = (a + b + c + d) / 2;
    details[i] = (a - b + c - d) / 2;
    details[half.length + i] = (a + b - c - d) / 2;
    details[2 * half.length + i] = (a - b - c + d) / 2;
  }
  return [half, details];
}

function inverseHaar(x, details, height, width) {
  const size = height * width;
  const corners = new Float32Array(4 * x.length);
  for (let i = 0; i < x.length; i++) {
    const [h, v, d] = [details[i], details[x.length + i], details[2 * x.length + i]];
    const first = 4 * Math.floor(i / size) * size + (i % size); // the first of four channels, which pixelShuffle mixes
    corners[first] = (x[i] + h + v + d) / 2;
    corners[first + size] = (x[i] - h + v - d) / 2;
    corners[first + 2 * size] = (x[i] + h - v - d) / 2;
    corners[first + 3 * size] = (x[i] - h - v + d) / 2;
  }
  return pixelShuffle(corners, height, width);
}

// Stage.denoise: yields the prediction of x0 of each step, from noise x with `channels` of its own and a condition.
function* denoiseStage(w, stage, x, condition, label, steps, height, width) {
  const std = w[`stages.${stage}.std`];
  const size = height * width;
  const scaled = (part, first, power) => part.map((value, i) => value * std[first + Math.floor(i / size)] ** power);
  const channels = x.length / size;
  const given = condition ? scaled(condition, channels, -1) : new Float32Array(0);
  const predict = condition ? localNet : unet;
  const schedule = range(steps + 1).map((step) => {
    const even = 1 - step / steps;
    const t = TIMESTEPS * (even - Math.sin(2 * Math.PI * even) / (4 * Math.PI));
    const angle = ((Math.PI / 2) * (t / TIMESTEPS + 0.008)) / 1.008;
    const [alpha, sigma] = [Math.cos(angle), Math.sin(angle)];
    return { t, alpha, sigma, axis: Math.asinh(alpha / sigma) };
  });
  let previous = null;
  for (let step = 0; step < steps; step++) {
    const [now, next] = [schedule[step], schedule[step + 1]];
    const v = predict(w, `stages.${stage}.network`, concat(x, given), now.t, label, height, width);
    const x0 = x.map((value, i) => now.alpha * value - now.sigma * v[i]);
    yield scaled(x0, 0, 1);
    const ratio = step > 0 ? (next.axis - now.axis) / (now.axis - schedule[step - 1].axis) : 0;
    const middle = step > 0 ? x0.map((value, i) => value + (ratio / 2) * (value - previous[i])) : x0;
    x = x.map((value, i) => (next.sigma / now.sigma) * (value - now.alpha * middle[i]) + next.alpha * middle[i]);
    previous = x0;
  }
}

// Diffusion.denoise: yields the image predicted in each step, from noise (3, height, width) and a label.
function* denoise(w, noise, label, height, width, steps = 25) {
  const parts = [];
  let x = noise;
  let [h, k] = [height, width];
  for (let stages = countStages(w); stages > 1; stages--) {
    const [half, details] = haar(x, h, k);
    [h, k] = [h / 2, k / 2];
    parts.unshift([details, h, k]);
    x = half;
  }
  parts.unshift([x, h, k]);
  let image = null;
  for (const [stage, [part, rows, columns]] of parts.entries()) {
    let current = image;
    for (const x0 of denoiseStage(w, stage, part, image, label, steps, rows, columns)) {
      current = image ? inverseHaar(image, x0, rows, columns) : x0;
      yield enlarge(current, image ? 2 * rows : rows, height, width).map((value) => clamp(value / 2 + 0.5, 0, 1));
    }
    image = current;
  }
}
const countStages = (w) => Object.keys(w).filter((name) => /^stages\.\d+\.std$/.test(name)).length;

// A coarse image in full size: details that are not sampled yet are 0.
function enlarge(x, rows, height, width) {
  for (; rows < height; rows *= 2) x = inverseHaar(x, new Float32Array(3 * x.length), rows, (rows * width) / height);
  return x;
}

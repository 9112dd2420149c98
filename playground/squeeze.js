"use strict";
// Station 1: a drawn digit, or a test digit, through AE, VAE and CVAE.

const MODELS = ["AE", "VAE", "CVAE"];
const SAMPLES = 6; // of q(z|x)
const bow = (y, width, start, end) =>
  range(15).map((k) => start + (k / 14) * (end - start)).map((t) => [0.46 + width * Math.sin(t), y - 0.19 * Math.cos(t)]);
const THREE = [...bow(0.31, 0.19, -1, 2.9), ...bow(0.69, 0.23, 0.2, 4.2)];

const dimsOf = (name) => facts.made_from[`MNIST_${name}`].dims;
const networks = {}; // {name: weights}, once they are unpacked
const labelsFor = (name, label, count = 1) => (name === "CVAE" ? Array(count).fill(label) : undefined);
const decodeBy = (name, zs, label) => {
  const dims = dimsOf(name);
  return decodeDigits(networks[name], zs, dims, labelsFor(name, label, zs.length / dims));
};

// What all stations know of the drawing. codes: {name: {mu, sigma}}, z: {name: what is decoded, mu until it is changed}.
const drawing = { strokes: [THREE], image: null, read: 3, isRead: false, label: 3, codes: {}, z: {} };

// ---------------------------------------------------------------- from strokes to an image like MNIST's

const BOX = 20; // pixels that a digit of MNIST fills of its 28 (LeCun et al. 1998, section III.A)
const PEN = 2.4; // pixels, the width of a line in it
const EDGE = 1.2; // pixels from ink to paper

// Strokes of any size, drawn again so that they fill the box with lines of MNIST's width, their centre of mass in the
// middle: 28x28 pixels.
function inkStrokes(strokes) {
  const points = strokes.flat();
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const side = Math.max(Math.max(...xs) - left, Math.max(...ys) - top, 0.01);
  const scale = (BOX - PEN) / side;
  const scaled = strokes.map((stroke) => stroke.map(([x, y]) => [(x - left) * scale, (y - top) * scale]));
  let shift = [14 - ((Math.max(...xs) - left) * scale) / 2, 14 - ((Math.max(...ys) - top) * scale) / 2];
  let image = inkLines(scaled, shift);
  for (let turn = 0; turn < 2; turn++) {
    const ink = sum(image);
    const mass = [0, 1].map((axis) => sum(image.map((value, i) => value * ((axis ? Math.floor(i / 28) : i % 28) + 0.5))));
    shift = shift.map((value, axis) => value + 14 - mass[axis] / ink);
    image = inkLines(scaled, shift);
  }
  return image;
}

// How much ink each pixel has: all of it near a line, none far away.
function inkLines(strokes, [dx, dy]) {
  const squares = new Float32Array(784).fill(1e9); // of the distance to the nearest line
  for (const stroke of strokes) {
    for (let k = 0; k < Math.max(stroke.length - 1, 1); k++) {
      const [x, y] = stroke[k];
      const [endX, endY] = stroke[k + 1] ?? stroke[k];
      const [u, v] = [endX - x, endY - y];
      const length = u * u + v * v || 1;
      for (let i = 0; i < 784; i++) {
        const [px, py] = [(i % 28) + 0.5 - dx - x, Math.floor(i / 28) + 0.5 - dy - y];
        const t = clamp((px * u + py * v) / length, 0, 1);
        const square = (px - t * u) ** 2 + (py - t * v) ** 2;
        if (square < squares[i]) squares[i] = square;
      }
    }
  }
  return squares.map((square) => clamp((PEN / 2 - Math.sqrt(square)) / EDGE + 0.5, 0, 1));
}

// ---------------------------------------------------------------- answers

let cloudSeed = 1;

// The ten labels take most of the time: while one draws, the digit is read again only so often.
const READING = 400; // milliseconds
let readAt = 0;

function answerDrawing(image) {
  drawing.read = readDigit(networks.CVAE, image, dimsOf("CVAE"));
  readAt = performance.now();
  encodeDrawing(image);
  drawing.isRead = true;
}

// Answers with the label that was read last.
function encodeDrawing(image) {
  const wish = $("#label").value;
  drawing.label = wish === "read" ? drawing.read : Number(wish);
  drawing.image = image;
  drawing.isRead = false;
  for (const name of MODELS) {
    drawing.codes[name] = encodeDigits(networks[name], image, labelsFor(name, drawing.label));
    drawing.z[name] = drawing.codes[name].mu;
  }
  for (const station of [squeeze, latent, ordered]) changed(station);
}

// When the pen rests.
function finishAnswer() {
  if (drawing.isRead) ["VAE", "CVAE"].forEach(showBound);
  else answerDrawing(drawing.image);
}

const cards = {}; // {name: {element, bars}}

function showModel(name) {
  const { element } = cards[name];
  const z = drawing.z[name];
  const decoded = decodeBy(name, z, drawing.label);
  cards[name].bars.show(z, drawing.codes[name]);
  const canvas = $(".decoded", element);
  paint(canvas, decoded);
  canvas.setAttribute("aria-label", say(`drawn again by the ${name}`, `${name} 重建的数字`));
  const error = squaredError(decoded, drawing.image).toFixed(4);
  show($(".error", element), say(`error ${error}`, `误差 ${error}`));
  return decoded;
}

function showBound(name) {
  const { element } = cards[name];
  const code = drawing.codes[name];
  const zs = sampleCodes(code, SAMPLES, cloudSeed);
  const decoded = decodeBy(name, zs, drawing.label);
  paintDigits($(".cloud", element), decoded, (i) => say(`sample ${i + 1} of the ${name}`, `${name} 的样本 ${i + 1}`));
  const losses = range(SAMPLES).map((i) => crossEntropy(drawing.image, decoded.subarray(784 * i, 784 * (i + 1))));
  showNats($(".nats", element), sum(losses) / SAMPLES, sum(klOfLatents(code)));
}

const NATS = 5; // to a hundredth of the width of a bar

// Reconstruction + KL = bound, as one bar of two parts.
function showNats(element, recon, kl) {
  const [first, second] = $$("i", element);
  first.style.width = `${recon / NATS}%`;
  second.style.width = `${kl / NATS}%`;
  const [a, b] = [recon, kl].map((nats) => Math.round(nats));
  show($("span", element), say(`${a} + ${b} = ${a + b} nats`, `${a} + ${b} = ${a + b} 奈特`)); // a sum that one can check
}

let pause = 0;
const squeeze = addStation("squeeze", () => {
  if (!drawing.image) return;
  MODELS.forEach(showModel);
  clearTimeout(pause);
  pause = setTimeout(finishAnswer, 60);
  paint($("#seen"), drawing.image);
  show($("#label option"), say(`as read: ${drawing.read}`, `读作 ${drawing.read}`));
  show($("#read"), say(`The CVAE reads a ${drawing.read}.`, `CVAE 读作 ${drawing.read}。`));
  paintPad();
});

// ---------------------------------------------------------------- the pad

const board = $("#pad");
const pen = { place: [0.5, 0.2], isDown: false };
let frame = 0;

function paintPad() {
  const context = board.getContext("2d");
  const side = board.width;
  context.fillStyle = "black";
  context.fillRect(0, 0, side, side);
  Object.assign(context, { lineWidth: side / 14, lineCap: "round", lineJoin: "round", strokeStyle: "white" });
  for (const stroke of drawing.strokes) {
    context.beginPath();
    for (const [x, y] of [stroke[0], ...stroke]) context.lineTo(x * side, y * side);
    context.stroke();
  }
  if (!drawing.strokes.length) {
    const small = document.createElement("canvas");
    paint(small, drawing.image);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, side, side);
  }
  if (document.activeElement !== board) return;
  context.strokeStyle = pen.isDown ? "#ffb000" : "#888";
  context.lineWidth = 2;
  context.beginPath();
  context.arc(pen.place[0] * side, pen.place[1] * side, 9, 0, 7);
  context.stroke();
}

// One answer for each picture that the screen shows, however many points the pointer has.
function strokesChanged() {
  paintPad();
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    if (!drawing.strokes.length) return;
    const answer = performance.now() - readAt < READING ? encodeDrawing : answerDrawing;
    answer(inkStrokes(drawing.strokes));
  });
}

function setUpPad() {
  let isFresh = true; // the first stroke takes the place of what stands there
  const begin = (place) => {
    if (isFresh) drawing.strokes = [];
    isFresh = false;
    drawing.strokes.push([place]);
    strokesChanged();
  };
  const extend = (place) => {
    drawing.strokes.at(-1).push(place);
    strokesChanged();
  };
  board.addEventListener("pointerdown", (event) => {
    board.setPointerCapture(event.pointerId);
    begin(placeOf(event, board));
  });
  board.addEventListener("pointermove", (event) => {
    if (board.hasPointerCapture(event.pointerId)) extend(placeOf(event, board));
  });
  board.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (!arrow && event.key !== " ") return;
    event.preventDefault();
    if (arrow) pen.place = pen.place.map((value, axis) => clamp(value + arrow[axis] / 28, 0.03, 0.97));
    else pen.isDown = !pen.isDown;
    if (event.key === " " && pen.isDown) begin(pen.place);
    else if (pen.isDown) extend(pen.place);
    else paintPad();
  });
  for (const name of ["focus", "blur"]) board.addEventListener(name, paintPad);
  $("#clear").addEventListener("click", () => {
    isFresh = false;
    drawing.strokes = [];
    drawing.image = new Float32Array(784);
    paintPad();
  });
  return () => (isFresh = true);
}

function setUpTestDigits(digits, renew) {
  let first = 0;
  const take = (i) => {
    drawing.strokes = [];
    renew();
    answerDrawing(picture(digits.images, i, 784));
  };
  const list = $("#test-digits");
  const offer = () => {
    range(10).forEach((digit) => {
      const i = 3 * digit + first; // three of each class stand side by side
      const button = list.children[digit] ?? list.appendChild(document.createElement("button"));
      button.type = "button";
      button.onclick = () => take(i);
      button.setAttribute("aria-label", `${digit}`);
      const canvas = $("canvas", button) ?? button.appendChild(document.createElement("canvas"));
      paint(canvas, picture(digits.images, i, 784));
    });
  };
  $("#other-digits").addEventListener("click", () => {
    first = (first + 1) % 3;
    offer();
  });
  offer();
}

async function setUpSqueeze() {
  const limits = { AE: Math.ceil(facts.MNIST_AE.range), VAE: 4, CVAE: 4 };
  for (const name of MODELS) {
    networks[name] = await load(`MNIST_${name}`);
    const element = $(`.model.${name}`);
    const moved = (i, value) => {
      drawing.z[name] = drawing.z[name].with(i, value);
      showModel(name);
    };
    cards[name] = { element, bars: new Bars($(".bars", element), limits[name], dimsOf(name), moved) };
    show($(".limit", element), `±${limits[name]}`);
  }
  for (const digit of range(10)) $("#label").append(new Option(digit, digit));
  $("#label").addEventListener("change", () => answerDrawing(drawing.image));
  $("#sample").addEventListener("click", () => {
    cloudSeed++;
    for (const name of ["VAE", "CVAE"]) drawing.z[name] = sampleCodes(drawing.codes[name], 1, cloudSeed);
    changed(squeeze);
  });
  $("#means").addEventListener("click", () => {
    for (const name of MODELS) drawing.z[name] = drawing.codes[name].mu;
    changed(squeeze);
  });
  const renew = setUpPad();
  setUpTestDigits(await load("digits"), renew);
  answerDrawing(inkStrokes(drawing.strokes));
}

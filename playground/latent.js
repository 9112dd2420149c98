"use strict";
// Station 3: the latent spaces as planes, and the VAE with two latents as a map.

const COLOURS = ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f", "#d37295", "#79706e", "#b6992d", "#2f8f8b"];
const STEPS = 9; // digits of a walk
const MAP = 20; // digits of the map, in each direction

// A canvas on which the pointer, or the arrow keys, move a cross; with the button down, or Shift, they walk.
// show(place): decodes; walk(from, to): decodes what lies between. Places are from 0 to 1.
class Plane {
  constructor(canvas, paintBelow, show, walk) {
    Object.assign(this, { canvas, paintBelow, show, walk, cross: [0.5, 0.5], start: null });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.start = placeOf(event, canvas);
      this.go(this.start);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) this.start = null;
      this.go(placeOf(event, canvas));
    });
    canvas.addEventListener("keydown", (event) => {
      const arrow = ARROWS[event.key];
      if (!arrow) return;
      event.preventDefault();
      this.start = event.shiftKey ? (this.start ?? this.cross) : null;
      this.go(this.cross.map((value, axis) => value + arrow[axis] / 40));
    });
  }
  go(place) {
    this.cross = place.map((value) => clamp(value, 0, 1));
    this.paint();
    this.show(this.cross);
    if (this.start) this.walk(this.start, this.cross);
  }
  paint() {
    const context = this.canvas.getContext("2d");
    const side = this.canvas.width;
    context.clearRect(0, 0, side, side);
    this.paintBelow(context, side);
    Object.assign(context, { strokeStyle: this.canvas.dataset.ink ?? inkColour(), lineWidth: side / 200 });
    context.beginPath();
    if (this.start) context.moveTo(...this.start.map((value) => value * side));
    context.lineTo(...this.cross.map((value) => value * side));
    context.stroke();
    context.beginPath();
    context.arc(this.cross[0] * side, this.cross[1] * side, side / 50, 0, 7);
    context.stroke();
  }
}
const inkColour = () => getComputedStyle(document.body).color;

// The plane of a model among AE, VAE and CVAE: from a place on the canvas to x and y, and to z.
function makePlane(name, digits) {
  const element = $(`#latent .plane.${name}`);
  const points = digits[`MNIST_${name} points`];
  const mean = digits[`MNIST_${name} mean`];
  const axes = [0, 1].map((axis) => digits[`MNIST_${name} axes`].subarray(axis * mean.length, (axis + 1) * mean.length));
  const origin = axes.map((axis) => -sum(axis.map((value, i) => value * mean[i]))); // z = 0, the prior's mean
  const distances = points.map(Math.abs).sort();
  const most = distances[Math.floor(0.998 * distances.length)]; // a few dots lie outside the plane
  const radius = Math.max(most, 2.3 + Math.max(...origin.map(Math.abs)));
  const toPlane = ([u, v]) => [(2 * u - 1) * radius, (1 - 2 * v) * radius];
  const toPlace = ([x, y]) => [(x / radius + 1) / 2, (1 - y / radius) / 2];
  const toCode = (place) => {
    const [x, y] = toPlane(place);
    return mean.map((value, i) => value + x * axes[0][i] + y * axes[1][i]);
  };
  const project = (z) => axes.map((axis) => sum(axis.map((value, i) => value * (z[i] - mean[i]))));
  const paintBelow = (context, side) => {
    for (let i = 0; i < points.length / 2; i++) {
      const [u, v] = toPlace(points.subarray(2 * i, 2 * i + 2));
      context.fillStyle = COLOURS[digits["point labels"][i]];
      context.fillRect(u * side - side / 240, v * side - side / 240, side / 120, side / 120);
    }
    Object.assign(context, { strokeStyle: inkColour(), lineWidth: side / 130 });
    context.setLineDash([side / 40, side / 60]);
    context.beginPath();
    context.arc(...toPlace(origin).map((value) => value * side), side / radius, 0, 7); // at the distance 2
    context.stroke();
    context.setLineDash([]);
    if (!drawing.image) return;
    const [u, v] = toPlace(project(drawing.codes[name].mu));
    Object.assign(context, { fillStyle: inkColour(), strokeStyle: getComputedStyle(element).backgroundColor });
    context.beginPath();
    context.arc(u * side, v * side, side / 45, 0, 7);
    context.fill();
  };
  const decode = (place) => paint($(".here", element), decodeBy(name, toCode(place), drawing.label));
  const walk = (from, to) => {
    const zs = range(STEPS).map((k) => toCode(from.map((value, axis) => value + (k / (STEPS - 1)) * (to[axis] - value))));
    showWalk(name, decodeBy(name, concat(...zs), drawing.label));
  };
  return new Plane($(".points", element), paintBelow, decode, walk);
}

function showWalk(name, digits) {
  paintDigits($("#walk"), digits, (i) => say(`step ${i + 1} of ${STEPS}`, `第 ${i + 1} 步，共 ${STEPS} 步`));
  show($("#walk-of"), say(`A walk in the latent space of the ${name}:`, `在 ${name} 的隐空间中插值：`));
}

// The quantile of N(0, 1), by bisection of the error function.
function quantile(p) {
  let [low, high] = [-4, 4];
  for (let turn = 0; turn < 40; turn++) {
    const middle = (low + high) / 2;
    if (0.5 * (1 + erf(middle * Math.SQRT1_2)) < p) low = middle;
    else high = middle;
  }
  return low;
}

// The VAE with two latents: each place of the map is a z, as far from the middle as its quantile of N(0, 1).
function makeMap(weights) {
  const element = $("#latent .plane.map");
  const toCode = ([u, v]) => [u, 1 - v].map((share) => quantile(0.02 + 0.96 * share));
  const decode = (places) => decodeDigits(weights, Float32Array.from(places.flatMap(toCode)), 2);
  const map = new OffscreenCanvas(MAP * 28, MAP * 28);
  for (const row of range(MAP)) {
    const digits = decode(range(MAP).map((column) => [(column + 0.5) / MAP, (row + 0.5) / MAP]));
    const small = document.createElement("canvas");
    range(MAP).forEach((column) => {
      paint(small, digits.subarray(784 * column, 784 * (column + 1)));
      map.getContext("2d").drawImage(small, 28 * column, 28 * row);
    });
  }
  const show_ = (place) => {
    paint($(".here", element), decode([place]));
    show($(".place", element), `z = (${toCode(place).map((value) => (Math.round(100 * value) / 100 || 0).toFixed(2)).join(", ")})`);
  };
  const walk = (from, to) => {
    const places = range(STEPS).map((k) => from.map((value, axis) => value + (k / (STEPS - 1)) * (to[axis] - value)));
    showWalk(say("VAE with two latents", "两个隐变量的 VAE"), decode(places));
  };
  return new Plane($(".points", element), (context, side) => context.drawImage(map, 0, 0, side, side), show_, walk);
}

for (const [digit, colour] of COLOURS.entries()) {
  const key = $(".classes").appendChild(document.createElement("span"));
  key.append(document.createElement("i"), `${digit}`);
  key.firstChild.style.background = colour;
}

const planes = [];
const latent = addStation("latent", async () => {
  if (!drawing.image) return;
  if (!planes.length) {
    const digits = await load("digits");
    const small = await load("betas");
    if (planes.length) return;
    planes.push(...MODELS.map((name) => makePlane(name, digits)), makeMap(partOf(small, facts.small.length - 1)));
    planes[1].walk([0.25, 0.4], [0.75, 0.6]);
  }
  for (const plane of planes) {
    plane.paint();
    plane.show(plane.cross);
  }
});

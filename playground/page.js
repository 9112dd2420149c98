"use strict";
// What the stations share: the data, random numbers, languages, questions, pictures, planes and bars.

const $ = (selector, parent = document) => parent.querySelector(selector);
const $$ = (selector, parent = document) => [...parent.querySelectorAll(selector)];
const facts = JSON.parse($("#facts").textContent);

// ---------------------------------------------------------------- data

// A bundle of arrays, {name: array}, unpacked when it is first asked for.
const bundles = {};
function load(name) {
  bundles[name] ??= inflate($(`#data-${name}`).textContent).then((bytes) => unpack(bytes, facts.bundles[name]));
  return bundles[name];
}

async function inflate(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// The reverse of weights.py's `pack`.
function unpack(buffer, description) {
  let start = 0;
  const take = (Kind, count) => {
    const end = start + count * Kind.BYTES_PER_ELEMENT;
    const array = new Kind(buffer.slice(start, end));
    start = end;
    return array;
  };
  const arrays = {};
  for (const [name, shape, kind] of description) {
    const count = shape.reduce((product, side) => product * side, 1);
    if (kind === "rows") {
      const scales = take(Float32Array, shape[0]);
      const array = (arrays[name] = Float32Array.from(take(Int8Array, count)));
      scales.forEach((scale, row) => multiply(array.subarray((row * count) / shape[0], ((row + 1) * count) / shape[0]), scale));
    } else arrays[name] = take(kind === "u1" ? Uint8Array : Float32Array, count);
  }
  return arrays;
}

function multiply(array, factor) {
  for (let i = 0; i < array.length; i++) array[i] *= factor;
}

// Picture number i of a bundle of bytes, as numbers from 0 to 1.
const picture = (bytes, i, size) => Float32Array.from(bytes.subarray(i * size, (i + 1) * size), (value) => value / 255);

// ---------------------------------------------------------------- random numbers

// A function that returns numbers from 0 to 1, the same ones for the same seed (mulberry32).
function uniforms(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// Numbers from N(0, 1) (Box & Muller 1958).
function normals(count, seed) {
  const uniform = uniforms(seed);
  return Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return radius * Math.cos(2 * Math.PI * uniform());
  });
}

// z = mu + sigma * epsilon: `count` samples of q(z|x), one after another.
function sampleCodes({ mu, sigma }, count, seed) {
  return normals(count * mu.length, seed).map((e, i) => mu[i % mu.length] + sigma[i % mu.length] * e);
}

// ---------------------------------------------------------------- languages

let language = "en";
const say = (english, chinese) => (language === "zh" ? chinese : english);

// Changes what `element` shows; live regions are read out only when it is something new.
function show(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setLanguage(name) {
  language = name;
  document.documentElement.lang = name === "zh" ? "zh-CN" : "en";
  document.title = say("What is a VAE for?", "VAE 有什么用？");
  for (const element of $$("[data-label]")) {
    const [english, chinese] = element.dataset.label.split("|");
    element.setAttribute("aria-label", say(english, chinese));
  }
  for (const link of $$(".languages a")) link.setAttribute("aria-current", String(link.hash === `#${name}`));
  listModels();
  stations.forEach(changed);
}

function followAddress() {
  const name = location.hash.slice(1);
  if (name === "zh" || name === "en") setLanguage(name);
}

// ---------------------------------------------------------------- stations

// A station: {element, update()}. It is updated only while it can be seen, or when it comes into view.
const stations = [];
function addStation(id, update) {
  const station = { element: $(`#${id}`), update, isSeen: false, isStale: true };
  stations.push(station);
  return station;
}
function changed(station) {
  station.isStale = true;
  if (!station.isSeen) return;
  station.isStale = false;
  station.update();
}
function watchStations() {
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        const station = stations.find(({ element }) => element === target);
        station.isSeen = isIntersecting;
        if (station.isStale) changed(station);
      }
    },
    { rootMargin: "50px" },
  );
  for (const { element } of stations) observer.observe(element);
}

// A question's answers are buttons; behind each stands the reply to it, as a template.
function watchQuestions() {
  for (const question of $$(".question")) {
    const reply = $(".reply", question);
    for (const button of $$("button", question)) {
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        for (const other of $$("button", question)) other.setAttribute("aria-pressed", String(other === button));
        reply.replaceChildren(button.nextElementSibling.content.cloneNode(true));
        reply.classList.toggle("right", "right" in button.dataset);
        const station = question.closest(".station");
        station.classList.add("answered");
        $(".seen", station).open = true;
      });
    }
  }
}

// A click on a station's name scrolls there, and leaves the language in the address.
function watchLinks() {
  for (const link of $$(".stations a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      $(link.hash).scrollIntoView();
      $(`${link.hash} button`).focus({ preventScroll: true });
    });
  }
}

function listModels() {
  const rows = Object.entries(facts.made_from).map(([name, { seed, epoch, loss, data, fingerprint, is_own: isOwn }]) => {
    const owner = { true: say("your own", "你自己的"), false: say("the repository's", "项目自带的") }[isOwn] ?? "";
    const title = name === "betas" ? say("small VAEs", "小 VAE") : name.replace("_", " ");
    const cells = [title, owner, data ?? "MNIST", seed, epoch ?? "", loss ?? "", fingerprint];
    const row = document.createElement("tr");
    cells.forEach((text) => row.insertCell().append(text));
    return row;
  });
  $("#made-from tbody").replaceChildren(...rows);
}

// ---------------------------------------------------------------- pictures

// A canvas with an image of one or three channels, enlarged by the style sheet without smoothing.
function paint(canvas, image, height = 28, width = 28) {
  const size = height * width;
  const grey = image.length === size;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pixels = new ImageData(width, height);
  for (let i = 0; i < size; i++) {
    for (const channel of [0, 1, 2]) pixels.data[4 * i + channel] = 255 * image[grey ? i : channel * size + i] + 0.5;
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// So many canvases in an element, with alternative texts.
function canvases(element, count, label) {
  while (element.children.length > count) element.lastChild.remove();
  while (element.children.length < count) element.append(document.createElement("canvas"));
  const list = [...element.children];
  list.forEach((canvas, i) => {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label(i));
  });
  return list;
}

// Paints digits, one after another in an array, into an element.
function paintDigits(element, digits, label) {
  canvases(element, digits.length / 784, label).forEach((canvas, i) => paint(canvas, digits.subarray(784 * i, 784 * (i + 1))));
}

// The place of a pointer on an element: [x, y], from 0 to 1.
function placeOf(event, element) {
  const box = element.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// The image of numbers with their sign: blue below 0, red above.
function paintCode(canvas, z) {
  const shades = [0, 1, 2].map((channel) =>
    z.map((value) => {
      const strength = Math.min(Math.abs(value) / 2.5, 1);
      const colour = value < 0 ? [0.16, 0.38, 0.66] : [0.75, 0.33, 0.13];
      return 1 - strength * (1 - colour[channel]);
    }),
  );
  const rows = z.length % 5 === 0 ? z.length / 5 : 1;
  paint(canvas, concat(...shades), rows, z.length / rows);
}

// ---------------------------------------------------------------- bars

// The numbers of a code as bars, each a slider: a point, where there is sigma a bar from mu - sigma to mu + sigma, and
// behind it N(0, 1). `moved(i, value)` is called when one is dragged, or moved with the arrow keys.
class Bars {
  constructor(element, limit, count, moved) {
    this.element = element;
    this.limit = limit;
    this.moved = moved;
    this.focused = 0;
    element.style.setProperty("--deviation", `${50 / limit}%`); // of N(0, 1), on this axis
    this.bars = range(count).map((i) => {
      const bar = document.createElement("div");
      bar.className = "bar";
      bar.append(document.createElement("i"), document.createElement("b"));
      const attributes = { role: "slider", tabindex: i ? -1 : 0, "aria-valuemin": -limit, "aria-valuemax": limit };
      for (const [name, value] of Object.entries(attributes)) bar.setAttribute(name, value);
      return bar;
    });
    element.replaceChildren(...this.bars);
    element.addEventListener("pointerdown", (event) => {
      this.drag(event, Math.floor(placeOf(event, element)[1] * count));
      element.setPointerCapture(event.pointerId);
    });
    element.addEventListener("pointermove", (event) => event.buttons && this.drag(event, this.focused));
    element.addEventListener("keydown", (event) => this.press(event));
  }
  drag(event, i) {
    this.focus(clamp(i, 0, this.bars.length - 1));
    this.move((2 * placeOf(event, this.element)[0] - 1) * this.limit);
  }
  press(event) {
    const [dx, dy] = ARROWS[event.key] ?? [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    if (dy) this.focus(clamp(this.focused + dy, 0, this.bars.length - 1));
    else this.move(this.z[this.focused] + (dx * this.limit) / 20);
  }
  focus(i) {
    this.bars[this.focused].tabIndex = -1;
    this.focused = i;
    this.bars[i].tabIndex = 0;
    this.bars[i].focus({ preventScroll: true });
  }
  move(value) {
    this.moved(this.focused, clamp(value, -this.limit, this.limit));
  }
  show(z, { mu, sigma }) {
    this.z = z;
    const percent = (value) => clamp(50 + (50 * value) / this.limit, 0, 100);
    this.bars.forEach((bar, i) => {
      const [interval, point] = bar.children;
      if (sigma) {
        const low = percent(mu[i] - sigma[i]);
        interval.style.left = `${low}%`;
        interval.style.width = `${percent(mu[i] + sigma[i]) - low}%`;
      }
      point.style.left = `${percent(z[i])}%`;
      const spread = sigma ? `, mu ${mu[i].toFixed(1)}, sigma ${sigma[i].toFixed(2)}` : "";
      bar.setAttribute("aria-label", `z${i + 1}`);
      bar.setAttribute("aria-valuenow", z[i].toFixed(2));
      bar.setAttribute("aria-valuetext", z[i].toFixed(2) + spread);
    });
  }
}

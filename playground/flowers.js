"use strict";
// Station 6: photographs through AE and VAE, new flowers, and the diffusion model in a worker.

const [HEIGHT, WIDTH] = facts.image_size.VAE;
const BETWEEN = 6; // images of a walk from one photograph to the other
const NEW = 8; // new flowers in each row
const photographs = { offered: [], ends: [], slot: 0 };
let flowerSeed = 1;

function paintFlowers(element, images, label) {
  canvases(element, images.length, label).forEach((canvas, i) => paint(canvas, images[i], HEIGHT, WIDTH));
}

// ---------------------------------------------------------------- photographs

const flowers = addStation("flowers", async () => {
  if (!photographs.ends.length) {
    const { images } = await load("photographs");
    photographs.offered = range(images.length / (3 * HEIGHT * WIDTH)).map((i) => picture(images, i, 3 * HEIGHT * WIDTH));
    photographs.ends = [photographs.offered[0], photographs.offered.at(-2)];
    offerPhotographs();
  }
  paintFlowers($("#ends"), photographs.ends, (i) => say(`photograph ${"AB"[i]}`, `照片 ${"AB"[i]}`));
  for (const name of ["AE", "VAE"]) {
    const w = await load(name);
    const codes = photographs.ends.map((image) => encodeFlower(w, image, HEIGHT, WIDTH));
    const images = range(BETWEEN + 2).map((k) => {
      const share = k / (BETWEEN + 1);
      return decodeFlower(w, codes[0].map((value, i) => value + share * (codes[1][i] - value)), HEIGHT, WIDTH);
    });
    const label = (i) => say(`${name}, step ${i + 1} from A to B`, `${name}，从 A 到 B 的第 ${i + 1} 步`);
    paintFlowers($(`#flowers .row.${name} .images`), images, label);
    const errors = [0, 1].map((end) => squaredError(images[end * (BETWEEN + 1)], photographs.ends[end]).toFixed(4));
    show($(`#flowers .row.${name} .error`), say(`error ${errors.join(", ")}`, `误差 ${errors.join("，")}`));
  }
  await showNew();
  showStep();
  load("DDPM"); // for the first step to be seen within a second
});

function offerPhotographs() {
  photographs.offered.forEach((image, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.setAttribute("aria-label", say(`photograph ${i + 1}`, `照片 ${i + 1}`));
    paint(button.appendChild(document.createElement("canvas")), image, HEIGHT, WIDTH);
    button.addEventListener("click", () => usePhotograph(image));
    $("#offered").append(button);
  });
}

function usePhotograph(image) {
  photographs.ends[photographs.slot] = image;
  changed(flowers);
}

// A file of any size, squeezed to the models' size as the photographs of the training were.
async function readPhotograph(file) {
  const notice = $("#notice");
  try {
    const bitmap = await createImageBitmap(file, { resizeWidth: WIDTH, resizeHeight: HEIGHT, resizeQuality: "high" });
    const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });
    const context = canvas.getContext("2d");
    context.fillStyle = "white"; // behind what is transparent
    context.fillRect(0, 0, WIDTH, HEIGHT);
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, WIDTH, HEIGHT);
    const size = HEIGHT * WIDTH;
    usePhotograph(Float32Array.from({ length: 3 * size }, (_, i) => data[4 * (i % size) + Math.floor(i / size)] / 255));
    show(notice, say("Your photograph stays on this machine.", "照片不会离开这台机器。"));
  } catch {
    show(notice, say("The browser cannot read this file as a picture.", "浏览器无法把这个文件读作图片。"));
  }
}

function setUpPhotographs() {
  for (const input of $$("#slots input")) input.addEventListener("change", () => (photographs.slot = Number(input.value)));
  $("#file").addEventListener("change", ({ target }) => target.files.length && readPhotograph(target.files[0]));
  const zone = $("#drop");
  zone.addEventListener("dragover", (event) => event.preventDefault());
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) readPhotograph(event.dataTransfer.files[0]);
  });
}

// ---------------------------------------------------------------- new flowers

// A sample of the mixture: one of its Gaussians, by its weight, then mean + factor * epsilon.
function sampleMixture(mixtures, name, seed) {
  const [weights, means, factors] = ["weights", "means", "factors"].map((part) => mixtures[`${name} ${part}`]);
  const dims = facts.made_from[name].dims;
  let share = uniforms(seed)();
  let component = 0;
  while (component < weights.length - 1 && share > weights[component]) share -= weights[component++];
  const noise = normals(dims, seed);
  const start = component * dims;
  return means.slice(start, start + dims).map((mean, row) => {
    const from = (start + row) * dims;
    return mean + sum(factors.subarray(from, from + dims).map((factor, i) => factor * noise[i]));
  });
}

async function showNew() {
  const mixtures = await load("mixtures");
  const seeds = range(NEW).map((i) => 100 * flowerSeed + i);
  const normal = (name) => seeds.map((seed) => normals(facts.made_from[name].dims, seed));
  const fitted = (name) => seeds.map((seed) => sampleMixture(mixtures, name, seed));
  const rows = {
    "ae-normal": ["AE", normal("AE"), decodeFlower],
    "ae-fitted": ["AE", fitted("AE"), decodeFlower],
    "vae-normal": ["VAE", normal("VAE"), decodeFlower],
    "vae-fitted": ["VAE", fitted("VAE"), decodeFlower],
    "gan-normal": ["GAN", normal("GAN"), generateFlower],
  };
  for (const [row, [name, zs, decode]] of Object.entries(rows)) {
    const w = await load(name);
    const label = (i) => say(`new flower ${i + 1} of the ${name}`, `${name} 的新花 ${i + 1}`);
    paintFlowers($(`#new-${row}`), zs.map((z) => decode(w, z, HEIGHT, WIDTH)), label);
  }
}

// ---------------------------------------------------------------- the diffusion model

const diffusion = { worker: null, images: [], step: 0, seed: 0, size: facts.image_size.DDPM };
const STEPS_OF_ALL = 25 * facts.bundles.DDPM.filter(([name]) => name.endsWith(".std")).length;

// What the worker runs, after networks.js and models.js.
function work() {
  onmessage = ({ data: { weights, noise, label, height, width } }) => {
    for (const image of denoise(weights, noise, label, height, width)) postMessage(image);
  };
}

const noiseOf = (seed) => normals(3 * diffusion.size[0] * diffusion.size[1], 5000 + seed);

async function startDiffusion() {
  stopDiffusion();
  const [height, width] = diffusion.size;
  const label = Number($("#species").value);
  diffusion.seed++;
  const noise = noiseOf(diffusion.seed);
  const texts = [$("#script-networks").textContent, $("#script-models").textContent, `${work}; work();`];
  const address = URL.createObjectURL(new Blob(texts, { type: "text/javascript" }));
  const worker = new Worker(address);
  URL.revokeObjectURL(address);
  Object.assign(diffusion, { worker, images: [], step: 0 });
  worker.onmessage = ({ data }) => {
    const isLast = diffusion.step === diffusion.images.length; // the scrubber follows, unless it was moved back
    diffusion.images.push(data);
    if (isLast) diffusion.step = diffusion.images.length;
    if (diffusion.images.length === STEPS_OF_ALL) stopDiffusion();
    showStep();
  };
  showStep();
  worker.postMessage({ weights: await load("DDPM"), noise, label, height, width });
}

function stopDiffusion() {
  diffusion.worker?.terminate();
  diffusion.worker = null;
  showStep();
}

function showStep() {
  const { images, step, worker, size } = diffusion;
  const scrubber = $("#scrubber");
  scrubber.max = Math.max(images.length, 1);
  scrubber.disabled = images.length === 0;
  scrubber.value = step;
  const canvas = $("#denoised");
  canvas.setAttribute("aria-label", say("what the DDPM predicts in this step", "DDPM 在这一步的预测"));
  if (step) paint(canvas, images[step - 1], ...size);
  else paint(canvas, noiseOf(diffusion.seed).map((value) => clamp(value / 2 + 0.5, 0, 1)), ...size);
  const text = say(`step ${step} of ${STEPS_OF_ALL}`, `第 ${step} 步，共 ${STEPS_OF_ALL} 步`);
  scrubber.setAttribute("aria-valuetext", text);
  show($("#step"), text);
  show($("#start"), worker ? say("Stop", "停止") : say("Sample a flower", "采样一朵花"));
  show($("#finished"), images.length === STEPS_OF_ALL ? say("Finished.", "已完成。") : "");
}

function setUpFlowers() {
  setUpPhotographs();
  $("#flowers-again").addEventListener("click", () => {
    flowerSeed++;
    showNew();
  });
  facts.species.forEach((name, i) => $("#species").append(new Option(name, i)));
  $("#start").addEventListener("click", () => (diffusion.worker ? stopDiffusion() : startDiffusion()));
  $("#scrubber").addEventListener("input", ({ target }) => {
    diffusion.step = Number(target.value);
    showStep();
  });
}

// ---------------------------------------------------------------- the page

setUpOrder();
setUpWeight();
setUpFlowers();
watchQuestions();
watchLinks();
setLanguage(navigator.language.startsWith("zh") ? "zh" : "en");
followAddress();
addEventListener("hashchange", followAddress);
watchStations();
setUpSqueeze().then(
  () => document.body.classList.add("ready"),
  () => ($("#too-old").hidden = false),
);

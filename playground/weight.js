"use strict";
// Station 5: the weight of the KL, by small VAEs that were trained with different ones.

const ACTIVE = 0.1; // nats: a latent with less carries nothing
const betas = facts.small.filter((vae) => vae.latents > 2);
let samplesSeed = 1;

// The weights of one of the small VAEs, under the names of a model alone.
function partOf(weights, number) {
  const own = Object.entries(weights).filter(([name]) => name.startsWith(`${number}.`));
  return Object.fromEntries(own.map(([name, array]) => [name.slice(String(number).length + 1), array]));
}

const weight = addStation("weight", async () => {
  const number = Number($("#beta").value);
  const weights = partOf(await load("betas"), number);
  const { beta, latents, recon, kl_of_latents: kl } = betas[number];
  const digits = await load("digits");
  const images = range(10).map((i) => picture(digits.small, i, 784));
  const zs = sampleCodes(weights, 1, samplesSeed); // of the ten test digits, side by side
  const label = (english, chinese) => (i) => say(`${english} ${i + 1}`, `${chinese} ${i + 1}`);
  paintDigits($("#originals"), concat(...images), label("test digit", "测试数字"));
  paintDigits($("#copies"), decodeDigits(weights, zs, latents), label("reconstruction", "重建"));
  const random = normals(20 * latents, 300 + samplesSeed);
  paintDigits($("#news"), decodeDigits(weights, random, latents), label("sample", "样本"));
  const active = kl.filter((nats) => nats > ACTIVE).length;
  const [a, b, c] = [recon, sum(kl), recon + sum(kl)].map((nats) => nats.toFixed(1));
  $("#beta").setAttribute("aria-valuetext", `β = ${beta}`);
  show($("#beta-value"), `β = ${beta}`);
  const text = say(
    `reconstruction ${a} + KL ${b} = bound ${c} nats; ${active} of ${latents} latents carry more than ${ACTIVE} nats`,
    `重建 ${a} + KL ${b} = 界 ${c} 奈特；${latents} 个隐变量中有 ${active} 个超过 ${ACTIVE} 奈特`,
  );
  show($("#beta-bound"), text);
  $$("#bounds .nats").forEach((row, i) => {
    showNats(row, betas[i].recon, sum(betas[i].kl_of_latents));
    row.classList.toggle("current", i === number);
  });
});

function setUpWeight() {
  const list = $("#bounds");
  for (const { beta } of betas) {
    const row = list.appendChild($("#nats").content.firstElementChild.cloneNode(true));
    row.prepend(Object.assign(document.createElement("b"), { textContent: `β ${beta}` }));
  }
  $("#beta").max = betas.length - 1;
  $("#beta").addEventListener("input", () => changed(weight));
  $("#samples-again").addEventListener("click", () => {
    samplesSeed++;
    changed(weight);
  });
}

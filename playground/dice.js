"use strict";
// Station 2: ten latent vectors from N(0, I), the same for the three decoders.

const ROLLED = 10;
const ROWS = ["VAE", "AE", "CVAE"]; // the rows A, B and C
let roll = 1; // the seed

const dice = addStation("dice", () => {
  if (!networks.CVAE) return;
  const dims = Math.max(...MODELS.map(dimsOf));
  const zs = range(ROLLED).map((i) => normals(dims, 1000 * roll + i));
  canvases($("#rolled"), ROLLED, (i) => say(`the random vector z${i + 1}`, `随机向量 z${i + 1}`)).forEach((canvas, i) =>
    paintCode(canvas, zs[i]),
  );
  for (const name of ROWS) {
    const inputs = concat(...zs.map((z) => z.subarray(0, dimsOf(name))));
    const labels = name === "CVAE" ? range(ROLLED) : undefined;
    const decoded = decodeDigits(networks[name], inputs, dimsOf(name), labels);
    const row = say("row ", "第 ") + "ABC"[ROWS.indexOf(name)] + say("", " 行");
    paintDigits($(`#dice .row.${name} .digits`), decoded, (i) => `${row}, ${i + 1}`);
  }
  show($("#roll-number"), say(`roll ${roll}`, `第 ${roll} 次`));
});

$("#roll").addEventListener("click", () => {
  roll++;
  changed(dice);
});

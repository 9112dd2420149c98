"use strict";
// Station 4: digits to order.

const LONGEST = 12; // digits
const SLIDERS = 6;
const order = { z: null, hand: 0 }; // hand: 0 is that of the drawing, others are seeds

const ordered = addStation("order", () => {
  if (!drawing.image) return;
  order.z ??= handOf(0);
  const typed = $("#number").value.normalize("NFKC");
  const digits = [...typed].filter((letter) => /[0-9]/.test(letter)).slice(0, LONGEST).map(Number);
  const others = [...typed].some((letter) => !/[0-9\s]/.test(letter)) || typed.replace(/\s/g, "").length > LONGEST;
  const zs = concat(...digits.map(() => order.z));
  const decoded = digits.length ? decodeDigits(networks.CVAE, zs, order.z.length, digits) : zs;
  paintDigits($("#written"), decoded, (i) => `${digits[i]}`);
  const wish = say(`Type 1 to ${LONGEST} digits.`, `请输入 1 到 ${LONGEST} 个数字。`);
  const number = digits.join("");
  const said = say(`${number}, in ${handName()}.`, `${number}，${handName()}。`);
  show($("#written-as"), digits.length && !others ? said : `${digits.length ? said : ""} ${wish}`.trim());
  $$("#sliders input").forEach((input) => (input.value = order.z[input.dataset.dim]));
});

function handName() {
  if (order.hand === 0) return say("the hand of your drawing", "你的笔迹");
  return say(`hand ${order.hand} from N(0, I)`, `来自 N(0, I) 的第 ${order.hand} 种笔迹`);
}

const handOf = (hand) => (hand ? normals(dimsOf("CVAE"), 7000 + hand) : drawing.codes.CVAE.mu);

function setUpOrder() {
  const kl = facts.MNIST_CVAE.kl_of_latents;
  const dims = range(kl.length).sort((a, b) => kl[b] - kl[a]);
  for (const dim of dims.slice(0, SLIDERS)) {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "range", min: -3, max: 3, step: 0.05 });
    input.dataset.dim = dim;
    input.addEventListener("input", () => {
      order.z = order.z.with(dim, Number(input.value));
      changed(ordered);
    });
    label.append(`z${dim + 1}: ${kl[dim].toFixed(1)} nats`, input);
    $("#sliders").append(label);
  }
  $("#number").addEventListener("input", () => changed(ordered));
  const take = (hand) => {
    Object.assign(order, { hand, z: handOf(hand) });
    changed(ordered);
  };
  let last = 0;
  $("#my-hand").addEventListener("click", () => take(0));
  $("#other-hand").addEventListener("click", () => take(++last));
}

// The page's two canvases, one to draw on and one to click on, and its buttons that save pictures.
window.playground = (() => {
  const COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];
  const place = (canvas, event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
  };
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const clamp = (value, most) => Math.min(Math.max(value, 0), most);

  // A canvas to draw on: props.value is its PNG, changedTo() is called when it changed.
  function drawing(element, props, changedTo) {
    const canvas = element.querySelector("canvas"), context = canvas.getContext("2d");
    const small = document.createElement("canvas"); // fine enough for 28 pixels
    small.width = small.height = canvas.width / 2;
    let last = null, pen = [canvas.width / 2, canvas.height / 4], down = false, due = 0;
    const send = () => {
      due = 0;
      small.getContext("2d").drawImage(canvas, 0, 0, small.width, small.height);
      props.value = small.toDataURL("image/png");
      changedTo();
    };
    const changed = () => (due = due || setTimeout(send, 60)); // milliseconds: a few answers while one draws
    const clear = () => {
      context.fillStyle = "black";
      context.fillRect(0, 0, canvas.width, canvas.height);
    };
    const line = (from, to) => {
      Object.assign(context, { lineWidth: 22, lineCap: "round", strokeStyle: "white" });
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...to);
      context.stroke();
      changed();
    };
    const cursor = () => {
      const style = element.querySelector(".pen").style;
      style.left = `${(100 * pen[0]) / canvas.width}%`;
      style.top = `${(100 * pen[1]) / canvas.height}%`;
      element.querySelector(".pen").classList.toggle("down", down);
    };
    clear();
    cursor();
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      last = place(canvas, event);
      line(last, last);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      const here = place(canvas, event);
      line(last, here);
      last = here;
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (last = null));
    canvas.addEventListener("keydown", (event) => {
      const step = ARROWS[event.key];
      if (!step && event.key !== " ") return;
      event.preventDefault();
      const from = pen;
      if (step) pen = [clamp(pen[0] + 10 * step[0], canvas.width), clamp(pen[1] + 10 * step[1], canvas.height)];
      else down = !down;
      if (down) line(from, pen);
      cursor();
    });
    element.querySelector("button").addEventListener("click", () => {
      clear();
      changed();
    });
  }

  // A canvas with points to click on, and to drag between: props.value is [[x, y, digit], ...] as JSON; the events "decode" and "interpolate" have places in the
  // points' coordinates.
  function plane(element, props, trigger, watch) {
    const canvas = element.querySelector("canvas"), context = canvas.getContext("2d");
    let start = null, cross = [canvas.width / 2, canvas.height / 2], view = null, marks = [];
    const toPlane = ([x, y]) => [view.left + (x / canvas.width) * view.side, view.top - (y / canvas.height) * view.side];
    const paint = () => {
      context.fillStyle = "white";
      context.fillRect(0, 0, canvas.width, canvas.height);
      if (!props.value) return;
      const points = JSON.parse(props.value), scale = canvas.width;
      const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
      const [low, high, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      const side = 1.06 * Math.max(high - low, top - bottom);
      view = { side, left: (low + high - side) / 2, top: (bottom + top + side) / 2 };
      for (const [x, y, digit] of points) {
        context.fillStyle = COLOURS[digit];
        context.fillRect(((x - view.left) / side) * scale - 2, ((view.top - y) / side) * scale - 2, 4, 4);
      }
      context.strokeStyle = "black";
      context.lineWidth = 3;
      context.beginPath();
      marks.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.stroke();
      for (const [x, y] of [...marks, cross]) {
        context.beginPath();
        context.arc(x, y, 9, 0, 7);
        context.stroke();
      }
    };
    const finish = (from, to) => {
      const far = Math.hypot(to[0] - from[0], to[1] - from[1]) > 15;
      marks = far ? [from, to] : [];
      cross = to;
      paint();
      if (view && far) trigger("interpolate", { places: [toPlane(from), toPlane(to)] });
      else if (view) trigger("decode", { place: toPlane(to) });
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      start = place(canvas, event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!start) return;
      marks = [start, place(canvas, event)];
      paint();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (start) finish(start, place(canvas, event));
      start = null;
    });
    canvas.addEventListener("pointercancel", () => (start = null));
    canvas.addEventListener("keydown", (event) => {
      const step = ARROWS[event.key];
      if (!step && event.key !== " " && event.key !== "Enter") return;
      event.preventDefault();
      if (step) cross = [clamp(cross[0] + 12 * step[0], canvas.width), clamp(cross[1] + 12 * step[1], canvas.height)];
      else if (event.key === " ") marks = [cross];
      else return finish(marks.length === 1 ? marks[0] : cross, cross);
      paint();
    });
    const entries = COLOURS.map((colour, digit) => `<span><i style="background: ${colour}"></i>${digit}</span>`);
    element.querySelector(".legend").innerHTML = entries.join("");
    watch("value", () => {
      marks = [];
      paint();
    });
    paint();
  }

  // Buttons with pictures to choose from: the event "choose" has the number of one.
  function choice(element, trigger) {
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-number]");
      if (button) trigger("choose", { number: Number(button.dataset.number) });
    });
  }

  // The pictures of a group as one PNG, side by side as on the page, each pixel several pixels wide.
  function save(button) {
    const grid = button.parentElement.querySelector(".grid"), images = [...grid.querySelectorAll("img")];
    const columns = Math.min(images.length, grid.dataset.columns), [{ naturalWidth: w, naturalHeight: h }] = images;
    const scale = Math.max(1, Math.round(112 / w)), gap = 4, canvas = document.createElement("canvas");
    canvas.width = columns * (scale * w + gap) - gap;
    canvas.height = Math.ceil(images.length / columns) * (scale * h + gap) - gap;
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    images.forEach((image, i) => {
      const x = (i % columns) * (scale * w + gap), y = Math.floor(i / columns) * (scale * h + gap);
      context.drawImage(image, x, y, scale * w, scale * h);
    });
    const link = document.createElement("a");
    link.download = `${button.dataset.name}.png`;
    link.href = canvas.toDataURL("image/png");
    link.click();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button.save");
    if (button) save(button);
  });
  return { drawing, plane, choice };
})();

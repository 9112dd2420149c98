"""The tabs about digits. Each takes Gradio as `gr`, which playground.py alone imports."""

import json

from evaluation.playground.digit_answers import CVAE, LONGEST, Digits
from evaluation.playground.pictures import answering, lead, missing

GUESS = "guess"
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
QUICK = {"queue": False, "show_progress": "hidden", "trigger_mode": "always_last"}  # for what follows the pointer
BOARD = """<div class="board">
<canvas width="280" height="280" tabindex="0" role="img" aria-label="Draw a digit here, with the pointer; or with the
arrow keys, where space lowers and lifts the pen"></canvas>
<div class="pen"></div>
<button type="button" class="small">Clear</button></div>"""
PLANE = """<div class="board">
<canvas width="640" height="640" tabindex="0" role="img" aria-label="Test digits as points. Click on a place to decode
it, drag to walk; or move the ring with the arrow keys, and press Enter to decode, or space where a walk starts and
Enter where it ends"></canvas></div>"""


def draw_tab(gr, digits: Digits) -> None:
    """Draw a digit, and the autoencoders answer."""
    lead(
        gr,
        "Draw a digit into the black square, with the mouse or a finger. Three autoencoders, which learnt from"
        " MNIST's handwritten digits, squeeze it to 20 numbers each and draw it again from these.",
    )
    if not digits.kinds:
        gr.HTML(digits.absent())
        return

    @answering
    def answer(drawing, label):
        return digits.answer(drawing, None if label == GUESS else int(label))

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            script = 'playground.drawing(element, props, () => trigger("stroke"))'
            board = gr.HTML("", html_template=BOARD, js_on_load=script, elem_id="board")
            choices, text = [GUESS, *map(str, range(10))], "The CVAE is told which digit it is"
            label = gr.Radio(choices, value=GUESS, label=text, elem_id="label", interactive=CVAE in digits.models)
        with gr.Column(scale=5, min_width=300):
            answers = gr.HTML(digits.answer("", None), elem_id="answers")
    board.stroke(answer, [board, label], answers, api_name="answer", **QUICK)
    label.change(answer, [board, label], answers, **QUICK)


def order_tab(gr, digits: Digits) -> None:
    """Type a number, get it written."""
    lead(
        gr,
        "Type a number. The CVAE, an autoencoder that is told the digits, writes it in a random hand: 20 numbers,"
        " called latents, that say how to write and not what. The sliders change the six of them that matter most.",
    )
    if CVAE not in digits.models:
        gr.HTML(missing(CVAE, digits.root))
        return
    write = answering(lambda text, number, *values: digits.write(text, number, values))
    number = gr.State(0)
    with gr.Row():
        text = gr.Textbox(
            "2026", label=f"Number, up to {LONGEST} digits", max_length=LONGEST, elem_id="number", scale=2
        )
        again = gr.Button("Another hand", elem_id="another", min_width=160)
    written = gr.HTML(digits.write("2026", 0, digits.values(0)), elem_id="written")
    sliders = []
    with gr.Row():
        for (dim, kl), value in zip(digits.latents(), digits.values(0), strict=True):
            name = f"Latent {dim}: {kl:.1f} nats"
            sliders.append(gr.Slider(-3, 3, value=value, step=0.01, label=name, min_width=320))
    gr.HTML('<p class="hint">Nats say how much a latent carries: its KL divergence, the mean over test digits.</p>')
    for control in (text, *sliders):
        control.input(write, [text, number, *sliders], written, **QUICK)

    def another(text, number):
        values = digits.values(number + 1)
        return number + 1, write(text, number + 1, *values), *values

    again.click(another, [text, number], [number, written, *sliders], queue=False, show_progress="hidden")


def latent_tab(gr, digits: Digits) -> None:
    """Click on the latent space, or drag."""
    lead(
        gr,
        "Each point is a handwritten digit, where the model's encoder puts it among 20 dimensions, seen from the side"
        " that shows most. Click anywhere: the decoder draws that place. Drag from one digit to another: it walks.",
    )
    if not digits.kinds:
        gr.HTML(digits.absent())
        return
    first = "VAE" if "VAE" in digits.kinds else digits.kinds[0]
    kind = gr.Radio(digits.kinds, value=first, label="Model")
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            script = 'playground.plane(element, props, trigger, watch); // "pick" and "walk"'
            plane = gr.HTML(points(digits, first), html_template=PLANE, js_on_load=script, elem_id="plane")
            gr.HTML(f"{legend()}<p class='hint'>{len(digits.test()[1])} {digits.test()[2]}</p>")
        with gr.Column(scale=1, min_width=300):
            shown = gr.HTML(digits.pick(first, (0.0, 0.0)), elem_id="place")

    def pick(kind, event: gr.EventData):
        return digits.pick(kind, event.place)

    def walk(kind, event: gr.EventData):
        return digits.walk(kind, event.places)

    plane.pick(pick, kind, shown, **QUICK)
    plane.walk(walk, kind, shown, **QUICK)
    kind.change(lambda kind: (points(digits, kind), digits.pick(kind, (0.0, 0.0))), kind, [plane, shown], **QUICK)


def points(digits: Digits, kind: str) -> str:
    """What the canvas shows of a plane, as JSON."""
    plane = digits.plane(kind)
    rows = zip(*plane.points.T.tolist(), plane.labels.tolist(), strict=True)
    return json.dumps({"points": [(round(x, 3), round(y, 3), digit) for x, y, digit in rows], "colours": COLOURS})


def legend() -> str:
    """The colours of the ten digits."""
    entries = (f'<span><i style="background: {colour}"></i>{digit}</span>' for digit, colour in enumerate(COLOURS))
    return f'<p class="legend">{"".join(entries)}</p>'

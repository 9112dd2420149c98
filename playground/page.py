"""The page as Gradio's Blocks: five tabs, whose answers stand in digits.py and flowers.py."""

import json
from pathlib import Path

import gradio as gr

from beyond.priors import SAMPLERS
from common import PROJECT, UserError
from common.flags import MAX_INT
from playground import digits, flowers
from playground.digits import CVAE, Digits
from playground.flowers import CONTROLS, ORDINALS, Flowers, Request, read_photograph
from playground.pictures import choices, missing, sentence

FOLDER = Path(__file__).parent
MAX_UPLOAD = "30mb"
GUESS = "guess"
ANY_SPECIES = "all species"
CENTRE = (0.0, 0.0)  # of the plane
QUIET = {"show_progress": "hidden"}
QUICK = {"queue": False, "trigger_mode": "always_last", **QUIET}  # for answers that follow the pointer
INTRODUCTIONS = {
    "Draw a digit": """Draw a digit into the black square, with the mouse or a finger. Three autoencoders, which learnt
        from MNIST's handwritten digits, compress it to 20 numbers each and draw it again from these.""",
    "Digits to order": """Type a number. The CVAE, an autoencoder that gets the label of each digit, writes it in a
        random style: 20 numbers, called latents. The sliders change the six that matter most.""",
    "The latent space": """Each point is a test digit among 20 dimensions, seen from the side that shows most. Click
        anywhere to decode that place; drag from one digit to another to interpolate.""",
    "Flowers": """Choose two flowers, or use your own photographs. Three autoencoders compress each to 64 numbers and
        draw it again from these; below, two of them interpolate between the first and the second.""",
    "New flowers": """These models invent flowers that nobody has photographed, from random numbers. The DDPM does it
        step by step, each time removing some noise.""",
}
BOARD = """<div class="board">
<canvas width="280" height="280" tabindex="0" role="img" aria-label="Draw a digit here, with the pointer; or with the
arrow keys, where space lowers and lifts the pen"></canvas>
<div class="pen"></div>
<button type="button" class="small">Clear</button></div>"""
PLANE = """<div class="board">
<canvas width="640" height="640" tabindex="0" role="img" aria-label="Test digits as points. Click on a place to decode
it, drag to interpolate; or move the ring with the arrow keys, and press Enter to decode, or space where an
interpolation starts and Enter where it ends"></canvas><p class="legend"></p></div>"""


def build_page(models: dict, output_root: Path) -> gr.Blocks:
    """The page; models: {name in the registry: (model, checkpoint)}, those that are there."""
    digit_answers = Digits(models, output_root)
    flower_answers = Flowers(models, output_root)
    tabs = {  # what fills a tab, where one of its models is there
        "Draw a digit": (digits.AUTOENCODERS, draw_tab, digit_answers),
        "Digits to order": ([CVAE], order_tab, digit_answers),
        "The latent space": (digits.AUTOENCODERS, latent_tab, digit_answers),
        "Flowers": (flowers.AUTOENCODERS, photograph_tab, flower_answers),
        "New flowers": (CONTROLS, sample_tab, flower_answers),
    }
    with gr.Blocks(title="Playground", analytics_enabled=False) as blocks:
        gr.HTML("<h1>Playground</h1>")
        with gr.Tabs():
            for title, (names, fill, answers) in tabs.items():
                with gr.Tab(title) as tab:
                    text = f'<p class="lead">{INTRODUCTIONS[title]}</p>'
                    gr.HTML(text + missing(names, models, output_root))
                    if models.keys() & names:
                        fill(answers, tab)
    return blocks


def launch(blocks: gr.Blocks, host: str, port: int) -> None:
    """Answer on an address from now on. Raises UserError where that is impossible."""
    private = dict.fromkeys(("share", "run_history", "ssr_mode", "mcp_server", "enable_monitoring", "pwa"), False)
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=(FOLDER / "page.css").read_text(encoding="utf-8"),
            head=f"<script>{script}</script>",
            footer_links=[],
            blocked_paths=[str(PROJECT)],
            max_file_size=MAX_UPLOAD,
            prevent_thread_lock=True,
            quiet=True,
            **private,
        )
    except OSError:
        raise UserError(f"cannot listen on {host}, port {port}: try another --port, or another --host") from None


def draw_tab(answers: Digits, tab: gr.Tab) -> None:
    """Draw a digit, and the autoencoders answer."""

    def answer(drawing, label):
        return answers.answer(drawing, None if label == GUESS else int(label))

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            script = 'playground.drawing(element, props, () => trigger("stroke"))'
            board = gr.HTML("", html_template=BOARD, js_on_load=script, elem_id="board")
            labels = [GUESS, *map(str, range(10))]
            label = gr.Radio(labels, value=GUESS, label="Label for the CVAE", interactive=CVAE in answers.names)
        with gr.Column(scale=5, min_width=300):
            html = gr.HTML(answers.answer("", None), elem_id="answers")
    board.stroke(answer, [board, label], html, api_name="answer", **QUICK)
    label.change(answer, [board, label], html, **QUICK)


def order_tab(answers: Digits, tab: gr.Tab) -> None:
    """Type a number, and the CVAE writes it."""

    def write(text, style, *values):
        return answers.write(text, style, values)

    def change_style(text, style):
        values = answers.slider_values(style + 1)
        return style + 1, answers.write(text, style + 1, values), *values

    style = gr.State(0)
    with gr.Row():
        label = f"Number, up to {digits.LONGEST} digits"
        text = gr.Textbox("2026", label=label, max_length=digits.LONGEST, elem_id="number", scale=2)
        another = gr.Button("Another style", elem_id="another", min_width=160)
    values = answers.slider_values(0)
    html = gr.HTML(answers.write("2026", 0, values), elem_id="written")
    sliders = []
    with gr.Row():
        for (dim, kl), value in zip(answers.sliders, values, strict=True):
            label = f"Latent {dim}: {kl:.1f} nats"
            sliders.append(gr.Slider(-3, 3, value=value, step=0.01, label=label, min_width=320))
    gr.HTML('<p class="hint">Nats: the KL divergence of a latent, the mean over test digits.</p>')
    for control in (text, *sliders):
        control.input(write, [text, style, *sliders], html, **QUICK)
    another.click(change_style, [text, style], [style, html, *sliders], queue=False, **QUIET)


def latent_tab(answers: Digits, tab: gr.Tab) -> None:
    """Click on the latent space, or drag."""

    def decode(name, event: gr.EventData):
        return answers.decode(name, event.place)

    def interpolate(name, event: gr.EventData):
        return answers.interpolate(name, event.places)

    def choose(name):
        return points(answers, name), answers.decode(name, CENTRE)

    names = [(name.removeprefix("MNIST_"), name) for name in answers.names]
    name = gr.Radio(names, value=answers.names[0], label="Model")
    with gr.Row():
        with gr.Column(min_width=300):
            script = 'playground.plane(element, props, trigger, watch); // "decode" and "interpolate"'
            json_points = points(answers, name.value)
            plane = gr.HTML(json_points, html_template=PLANE, js_on_load=script, elem_id="plane")
            gr.HTML(f'<p class="hint">{digits.POINTS} {answers.test_digits[2]}</p>')
        with gr.Column(min_width=300):
            html = gr.HTML(answers.decode(name.value, CENTRE), elem_id="place")
    plane.decode(decode, name, html, **QUICK)
    plane.interpolate(interpolate, name, html, **QUICK)
    name.change(choose, name, [plane, html], **QUICK)


def points(answers: Digits, name: str) -> str:
    """The points of a plane, (x, y, digit), as the canvas reads them: JSON."""
    plane = answers.planes[name]
    return json.dumps(
        [(*point, digit) for point, digit in zip(plane.points.tolist(), plane.labels.tolist(), strict=True)]
    )


def photograph_tab(answers: Flowers, tab: gr.Tab) -> None:
    """Photographs, redrawn by the autoencoders; those to choose from are read when the tab is opened."""

    def start(photographs):
        images, source = answers.offered
        photographs = photographs or images[:2]
        return photographs, choices(images) + f'<p class="hint">{source}</p>', answers.answer(photographs)

    def replace(photographs, which, image):
        first, second = photographs
        photographs = [image, second] if which == ORDINALS[0] else [first, image]
        return photographs, "", answers.answer(photographs)

    def choose(photographs, which, event: gr.EventData):
        return replace(photographs, which, answers.offered[0][event.number])

    def take(photographs, which, path):
        try:
            return replace(photographs, which, read_photograph(path))
        except UserError as error:
            return photographs, sentence(str(error)), gr.skip()

    photographs = gr.State([])
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            which = gr.Radio(list(ORDINALS), value=ORDINALS[0], label="Replace the")
            script = 'playground.choice(element, trigger); // "choose"'
            offered = gr.HTML("", js_on_load=script, elem_id="offered")
            upload = gr.UploadButton("Upload a photograph", size="md", file_types=["image"])
            notice = gr.HTML("", elem_id="notice")
        with gr.Column(scale=5, min_width=300):
            html = gr.HTML("", elem_id="redrawn")
    outputs = [photographs, notice, html]
    tab.select(start, photographs, [photographs, offered, html])
    offered.choose(choose, [photographs, which], outputs, **QUIET)
    upload.upload(take, [photographs, which, upload], outputs, **QUIET)


def sample_tab(answers: Flowers, tab: gr.Tab) -> None:
    """New flowers."""

    def reset_controls(name):
        return [gr.update(visible=flag in CONTROLS[name], value=control.value) for flag, control in controls.items()]

    def sample(model, label, sampler, temperature, guidance, seed):
        label = None if label == ANY_SPECIES else label
        try:
            yield from answers.sample(Request(model, label, sampler, temperature, guidance, seed or 0))
        except UserError as error:
            yield sentence(str(error))

    with gr.Row():
        names = answers.generators
        model = gr.Radio(names, value=names[-1], label="Model", elem_id="model", min_width=260)
        controls = sample_controls(answers, names[-1])
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_INT, min_width=100)
    with gr.Row():
        start = gr.Button("Sample", variant="primary", elem_id="sample", min_width=140)
        stop = gr.Button("Stop", elem_id="stop", min_width=140)
    html = gr.HTML("", elem_id="new")
    flags = list(controls.values())
    model.change(reset_controls, model, flags, queue=False, **QUIET)
    inputs = [model, *flags, seed]
    sampling = start.click(sample, inputs, html, concurrency_limit=2, api_name="sample", **QUIET)
    stop.click(None, cancels=[sampling])


def sample_controls(answers: Flowers, name: str) -> dict:
    """{field of a request: its control}; those that count for the model of that name are visible."""
    species = [ANY_SPECIES, *answers.species]
    samplers = [(text, sampler) for sampler, text in SAMPLERS.items()]
    controls = {
        "label": gr.Dropdown(species, value=ANY_SPECIES, label="Species", min_width=160),
        "sampler": gr.Radio(samplers, value="normal", label="Latents from", min_width=260),
        "temperature": gr.Slider(0.1, 2, value=1, step=0.1, label="Temperature", info="How far from the mean"),
        "guidance": gr.Slider(1, 5, value=1, step=0.1, label="Guidance", info="How true to the species"),
    }
    for flag, control in controls.items():
        control.visible = flag in CONTROLS[name]
    return controls

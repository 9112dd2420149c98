"""The tabs about flowers. Each takes Gradio as `gr`, which playground.py alone imports."""

from evaluation.models import RECONSTRUCTS, SAMPLES
from evaluation.playground.flower_answers import ORDINALS, Flowers, Request
from evaluation.playground.flowers import read_photograph
from evaluation.playground.pictures import lead, offer, sentence
from training import UserError
from training.flags import MAX_INT, SAMPLERS

ANY_SPECIES = "all species"


def photograph_tab(gr, flowers: Flowers, tab) -> None:
    """Photographs, and what the autoencoders make of them; tab: the tab, which reads those to pick from when opened."""
    lead(
        gr,
        "Pick two flowers, or use your own photographs. Three autoencoders squeeze each to 64 numbers and draw it again"
        " from these; below, two of them walk from the first to the second.",
    )
    note_absent(gr, flowers, RECONSTRUCTS)
    if not flowers.there(RECONSTRUCTS):
        return
    which, offered, upload, camera, notice, shown = photograph_controls(gr)
    photographs = gr.State([])

    def start(photographs):
        images, what = flowers.offered()
        photographs = photographs or images[:2]
        return photographs, offer(images, what), flowers.answer(photographs)

    def replace(photographs, which, image):
        photographs = [image if name == which else old for name, old in zip(ORDINALS, photographs, strict=True)]
        return photographs, "", flowers.answer(photographs)

    def choose(photographs, which, event: gr.EventData):
        return replace(photographs, which, flowers.offered()[0][event.number])

    def take(photographs, which, path):
        try:
            return replace(photographs, which, read_photograph(path)) if path else (photographs, "", gr.skip())
        except UserError as error:
            return photographs, sentence(str(error)), gr.skip()

    outputs = [photographs, notice, shown]
    tab.select(start, photographs, [photographs, offered, shown])
    offered.choose(choose, [photographs, which], outputs, show_progress="hidden")
    upload.upload(take, [photographs, which, upload], outputs, show_progress="hidden")
    camera.change(take, [photographs, which, camera], outputs, show_progress="hidden")


def photograph_controls(gr):
    """(which photograph to replace, those to pick from, the upload, the camera, what is wrong with one, the answer)."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            which = gr.Radio(list(ORDINALS), value=ORDINALS[0], label="Replace the", elem_id="which")
            script = 'playground.choice(element, trigger); // "choose"'
            offered = gr.HTML("", js_on_load=script, elem_id="offered")
            upload = gr.UploadButton("Upload a photograph", size="md", file_types=["image"], elem_id="upload")
            notice = gr.HTML("", elem_id="notice")
            with gr.Accordion("Take a photograph", open=False):
                camera = gr.Image(sources=["webcam"], type="filepath", label="Camera", buttons=[])
        with gr.Column(scale=5, min_width=300):
            shown = gr.HTML("", elem_id="redrawn")
    return which, offered, upload, camera, notice, shown


def note_absent(gr, flowers: Flowers, role: str) -> None:
    """Notes on the models with a role that are not there."""
    if notes := flowers.absent(role):
        gr.HTML(notes)


def sample_tab(gr, flowers: Flowers) -> None:
    """New flowers."""
    lead(
        gr,
        "These models invent flowers that nobody has photographed, from random numbers. The DDPM does it step by step,"
        " each time removing some noise.",
    )
    note_absent(gr, flowers, SAMPLES)
    names = flowers.there(SAMPLES)
    if not names:
        return
    controls, buttons = sample_controls(gr, flowers, names)
    shown = gr.HTML("", elem_id="new")

    def sample(model, species, sampler, temperature, guidance, seed):
        label = None if species == ANY_SPECIES else species
        try:
            yield from flowers.sample(
                Request(model, label, sampler, float(temperature), float(guidance), int(seed or 0))
            )
        except UserError as error:
            yield sentence(str(error))

    running = buttons[0].click(sample, controls, shown, concurrency_limit=2, show_progress="hidden", api_name="sample")
    buttons[1].click(None, cancels=[running])


def sample_controls(gr, flowers: Flowers, names: list[str]):
    """(the controls: model, species, sampler, temperature, guidance, seed; the buttons that start and stop)."""
    last, uses = names[-1], flowers.flags_of(names[-1])
    with gr.Row():
        model = gr.Radio(names, value=last, label="Model", elem_id="model", min_width=260)
        species = [ANY_SPECIES, *flowers.species(last)]
        label = gr.Dropdown(species, value=ANY_SPECIES, label="Species", visible="label" in uses, min_width=160)
        named = [(text, name) for name, text in SAMPLERS.items()]
        sampler = gr.Radio(named, value="normal", label="Latents from", visible="sampler" in uses, min_width=260)
        factor = {"minimum": 0.1, "maximum": 2, "value": 1, "step": 0.1, "min_width": 200}
        temperature = gr.Slider(
            label="Temperature", info="How far from the mean", visible="temperature" in uses, **factor
        )
        factor |= {"minimum": 1, "maximum": 5}
        guidance = gr.Slider(label="Guidance", info="How true to the species", visible="guidance" in uses, **factor)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_INT, min_width=100, elem_id="seed")
    with gr.Row():
        start = gr.Button("Sample", variant="primary", elem_id="sample", min_width=140)
        stop = gr.Button("Stop", elem_id="stop", min_width=140)

    def show(name):
        uses, choices = flowers.flags_of(name), [ANY_SPECIES, *flowers.species(name)]
        shown = [gr.update(visible=flag in uses) for flag in ("sampler", "temperature", "guidance")]
        return gr.update(visible="label" in uses, choices=choices, value=ANY_SPECIES), *shown

    model.change(show, model, [label, sampler, temperature, guidance], queue=False, show_progress="hidden")
    return [model, label, sampler, temperature, guidance, seed], (start, stop)

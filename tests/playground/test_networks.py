"""The page's networks compute what PyTorch computes from the same rounded weights, and read what is drawn."""

import numpy as np
import pytest
import torch
from playground_shapes import SHAPES, VARIANTS

from beyond.priors import sample_latents
from common import PROJECT
from model import build_model
from playground.weights import dequantise
from trained.loading import load_model
from trained.sampling import decode, encode, normal_latents

pytestmark = pytest.mark.xdist_group("playground")


def rounded(name):
    """A committed model with the weights of the page."""
    model, _ = load_model(name, PROJECT)
    model.load_state_dict(dequantise(model.state_dict()))
    return model


def build_small(vae):
    """The decoder of one of the small VAEs."""
    weights = {}
    for name, (rows, *scales) in vae["decoder"].items():
        weights[name] = rows * scales[0][:, None] if scales else rows
    decoder = build_model("VAE", hidden_size=256, latent_size=vae["latents"]).decoder
    decoder.load_state_dict(weights)
    return decoder


def assert_same(found, expected):
    """What the page computed, a flat list, is a tensor, to 1e-4."""
    assert np.abs(np.array(found) - expected.detach().flatten().numpy()).max() < 1e-4


def compute(page, script, **inputs):
    """What a script computes in the page, {name: list}; inputs: tensors, which are Float32Arrays there."""
    arrays = {name: tensor.flatten().tolist() for name, tensor in inputs.items()}
    return page.evaluate(
        """async ([script, arrays]) => {
            for (const name in arrays) arrays[name] = Float32Array.from(arrays[name]);
            const run = new Function(...Object.keys(arrays), `return (async () => { ${script} })()`);
            const found = await run(...Object.values(arrays));
            return Object.fromEntries(Object.entries(found).map(([name, array]) => [name, [...array]]));
        }""",
        [script, arrays],
    )


@pytest.mark.parametrize("name", ["AE", "VAE", "CVAE"])
def test_codes_reconstructions_and_samples_of_digits(name, page):
    model = rounded(f"MNIST_{name}")
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)).round(decimals=2)
    labels = torch.tensor([3, 7])
    condition = (labels,) if name == "CVAE" else ()
    zs = normal_latents(20, 2, seed=0)
    script = f"""
        const w = await load("MNIST_{name}");
        const labels = {"[3, 7]" if name == "CVAE" else "undefined"};
        const code = encodeDigits(w, images, labels);
        const recon = decodeDigits(w, code.mu, 20, labels);
        return {{ mu: code.mu, sigma: code.sigma ?? [], recon, samples: decodeDigits(w, zs, 20, labels) }};"""
    found = compute(page, script, images=images, zs=zs)
    assert_same(found["mu"], encode(model, images, *condition))
    assert_same(found["recon"], model.reconstruct(images, *condition))
    assert_same(found["samples"], decode(model, zs, *condition))
    if name != "AE":
        assert_same(found["sigma"], model.encoder(images, *condition)[1])


@pytest.mark.parametrize("name", ["AE", "VAE"])
def test_codes_reconstructions_and_samples_of_flowers(name, page):
    model = rounded(name)
    images = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    zs = normal_latents(64, 1, seed=0)
    script = f"""
        const w = await load("{name}");
        const code = encodeFlower(w, images, 24, 24);
        return {{ code, recon: decodeFlower(w, code, 24, 24), samples: decodeFlower(w, zs, 24, 24) }};"""
    found = compute(page, script, images=images, zs=zs)
    assert_same(found["code"], encode(model, images))
    assert_same(found["recon"], model.reconstruct(images))
    assert_same(found["samples"], decode(model, zs))


def test_samples_of_the_gan(page):
    zs = normal_latents(64, 1, seed=0)
    found = compute(page, 'return { image: generateFlower(await load("GAN"), zs, 24, 24) };', zs=zs)
    assert_same(found["image"], decode(rounded("GAN"), zs))


def test_the_diffusion_model_step_by_step_and_to_the_end(page):
    noise = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    script = """
        const images = [...denoise(await load("DDPM"), noise, 1, 48, 48, 2)];
        return Object.fromEntries(images.map((image, i) => [i, image]));"""
    found = compute(page, script, noise=noise)
    expected = [image for _, image in rounded("DDPM").denoise(noise, torch.tensor([1]), steps=2)]
    assert len(found) == len(expected) == 6
    for step, image in enumerate(expected):
        assert_same(found[str(step)], image)


def test_the_small_vaes(page, facts):
    file = torch.load(PROJECT / "models" / "BestModel_betas.pth", weights_only=True)
    zs = normal_latents(20, 2, seed=0)
    script = """
        const w = await load("betas");
        return Object.fromEntries(facts.small.map(({ latents }, i) =>
            [i, decodeDigits(partOf(w, i), zs.subarray(0, 2 * latents), latents)]));"""
    found = compute(page, script, zs=zs)
    assert [vae["beta"] for vae in facts["small"]] == [0.01, 0.2, 1, 5, 40, 1]
    for number, vae in enumerate(file["small"]):
        model = build_small(vae)
        latents = vae["latents"]
        assert_same(found[str(number)], model(zs.flatten()[: 2 * latents].view(2, latents)))


def test_the_mixtures_are_sampled_as_they_were_fitted(page):
    script = """
        const mixtures = await load("mixtures");
        const zs = range(500).map((seed) => sampleMixture(mixtures, "AE", seed));
        return { zs: concat(...zs), weights: mixtures["AE weights"], means: mixtures["AE means"],
            factors: mixtures["AE factors"] };"""
    found = {name: torch.tensor(values) for name, values in compute(page, script).items()}
    means = found["means"].view(-1, 64)
    normal = torch.distributions.MultivariateNormal(means, scale_tril=found["factors"].view(-1, 64, 64))
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(found["weights"]), normal)
    zs = found["zs"].view(-1, 64)
    expected = sample_latents(mixture, 500, seed=0)
    assert torch.allclose(zs.mean(dim=0), expected.mean(dim=0), atol=0.5)
    assert mixture.log_prob(zs).mean() == pytest.approx(mixture.log_prob(expected).mean(), abs=2)


def test_random_numbers_are_normal_and_the_same_for_the_same_seed(page):
    found = compute(page, "return { a: normals(9999, 1), b: normals(9999, 1), c: normals(9999, 2) };")
    a, b, c = (np.array(found[name]) for name in "abc")
    assert np.array_equal(a, b)
    assert abs(np.corrcoef(a, c)[0, 1]) < 0.05
    assert (a.mean(), a.std()) == pytest.approx((0, 1), abs=0.05)
    assert (np.abs(a) < 2).mean() == pytest.approx(0.954, abs=0.01)


@pytest.mark.parametrize("variant", VARIANTS)
def test_thirteen_of_fourteen_drawn_shapes_are_read(variant, page):
    shapes = [[[list(point) for point in VARIANTS[variant](stroke)] for stroke in strokes] for _, strokes in SHAPES]
    script = """(shapes) => shapes.map((strokes) => readDigit(networks.CVAE, inkStrokes(strokes), 20))"""
    read = page.evaluate(script, shapes)
    assert sum(label == digit for label, (digit, _) in zip(read, SHAPES, strict=True)) >= 13


@pytest.mark.parametrize("variant", ["plain", "tiny", "huge"])
def test_drawings_of_any_size_become_images_like_those_of_mnist(variant, page):
    strokes = [[list(point) for point in VARIANTS[variant](stroke)] for stroke in SHAPES[3][1]]
    image = np.array(page.evaluate("(strokes) => [...inkStrokes(strokes)]", strokes)).reshape(28, 28)
    rows, columns = np.nonzero(image > 0.1)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(20, abs=2)
    centre = [(image.sum(axis=axis) * (np.arange(28) + 0.5)).sum() / image.sum() for axis in (0, 1)]
    assert centre == pytest.approx([14, 14], abs=0.1)

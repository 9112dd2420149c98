"""The diffusion model, the GAN and the classifier, against closed forms and brute force."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss, softplus

from evaluation.sampling import noise_and_labels
from generators.classifier import Classifier
from generators.diffusion import TIMESTEPS, Diffusion, schedule, timestep_embedding
from generators.gan import FD_SIGMA, GAN, PENALTY, augment, energy_distance


@pytest.fixture
def ddpm():
    return Diffusion(class_prior=[0.5, 0.5, 0.0], img_height=8, img_width=12, width=8)


@pytest.fixture
def gan():
    model = GAN(encoding_dim=5, img_height=8, img_width=12, width=8)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model


def teach(ddpm, means, std):
    """Let the U-Net answer with the best v for images of values from N(mean of the label, std^2), in closed form."""

    def forward(x, t, labels):
        mean, (alpha, sigma) = torch.tensor(means)[labels][:, None, None, None], schedule(t)
        x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        return alpha * (x - alpha * x0) / sigma - sigma * x0

    ddpm.unet.forward = forward


def sample(ddpm, label, count=200, **options):
    """Samples of one label, with values from -1 to 1."""
    return 2 * ddpm.sample(torch.randn(count, 3, 8, 12), torch.full((count,), label), **options) - 1


def test_labels_are_sampled_from_a_class_prior_that_is_a_distribution(ddpm):
    counts = torch.bincount(noise_and_labels(ddpm, 1000, seed=0)[1], minlength=3)
    assert counts.tolist() == [pytest.approx(500, abs=99), pytest.approx(500, abs=99), 0]
    assert noise_and_labels(ddpm, 4, 0, label=2)[1].tolist() == [2] * 4
    for prior in ([], [0.5, 0.6], [1.5, -0.5]):
        with pytest.raises(ValueError, match="probabilities"):
            Diffusion(prior)


def test_the_schedule_is_the_cosine_of_nichol_and_dhariwal():
    t = torch.arange(TIMESTEPS + 1)
    angle = (t.double() / TIMESTEPS + 0.008) / 1.008 * math.pi / 2
    for part, expected in zip(schedule(t), (angle.cos(), angle.sin()), strict=True):
        torch.testing.assert_close(part.flatten().double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("steps", "precision"), [(25, 0.01), (100, 0.003)])
def test_the_sampler_samples_the_distribution_that_the_network_knows(ddpm, steps, precision):
    teach(ddpm, [0.2, -0.2, 0.0, 0.0], std=0.25)
    for label, mean in ((0, 0.2), (1, -0.2)):
        pixels = sample(ddpm, label, steps=steps)
        assert abs(pixels.mean() - mean) < 0.004
        assert abs(pixels.std() - 0.25) < precision


def test_no_noise_is_left_in_samples_and_guidance_extrapolates_from_the_null_label(ddpm):
    teach(ddpm, [0.2, -0.4, 0.0, 0.0], std=0.0)
    torch.testing.assert_close(sample(ddpm, 0, count=10), torch.full((10, 3, 8, 12), 0.2), atol=2e-4, rtol=0)
    teach(ddpm, [0.2, -0.2, 0.0, 0.1], std=0.05)
    assert abs(sample(ddpm, 0, guidance=2.0).mean() - (0.1 + 2 * (0.2 - 0.1))) < 0.02  # of linear v


def test_the_sampler_is_of_second_order(ddpm):
    """Twice as many steps leave a quarter of the error; that of DDIM would be half of it."""
    teach(ddpm, [0.2, 0.0], std=0.25)
    noise, label = 0.5 * torch.randn(20, 3, 8, 12).double().clamp(-2, 2), torch.zeros(20, dtype=torch.long)
    exact = 0.2 + 0.25 * noise  # the flow of the probability keeps quantiles
    errors = [(2 * ddpm.sample(noise, label, steps=steps) - 1 - exact).abs().mean() for steps in (20, 40)]
    assert errors[1] < errors[0] / 3


def test_denoising_ends_with_the_sample(ddpm):
    teach(ddpm, [0.2, 0.0], std=0.25)
    noise, labels = torch.randn(4, 3, 8, 12), torch.zeros(4, dtype=torch.long)
    states, predictions = zip(*ddpm.denoise(noise, labels, steps=10), strict=True)
    assert len(predictions) == 10
    torch.testing.assert_close(states[0], noise / 2 + 0.5)
    assert torch.equal(predictions[-1], ddpm.sample(noise, labels, steps=10))
    torch.testing.assert_close(predictions[0], torch.full_like(noise, 0.6), atol=1e-3, rtol=0)  # the mean: 0.2
    assert predictions[0].std() < predictions[5].std() < predictions[9].std()


def test_v_gives_back_image_and_noise_at_evenly_spaced_timesteps(ddpm):
    ddpm.unet.forward = lambda *inputs: inputs
    images, labels = torch.rand(1000, 3, 8, 12), torch.randint(3, (1000,))
    (x, t, given), v = ddpm(images, labels)
    alpha, sigma = schedule(t)
    torch.testing.assert_close(alpha * x - sigma * v, 2 * images - 1, atol=1e-5, rtol=0)
    noise = sigma * x + alpha * v
    assert max(abs(noise.mean()), abs(noise.std() - 1)) < 0.02
    assert sorted(t.tolist()) == list(range(1, TIMESTEPS + 1))
    assert set(given[given != labels].tolist()) == {3}
    assert 50 < (given != labels).sum() < 150  # a tenth


def test_an_untrained_network_predicts_zero_and_every_weight_learns(ddpm):
    images, labels = torch.rand(16, 3, 8, 12), torch.randint(3, (16,))
    prediction, v = ddpm(images, labels)
    assert torch.equal(prediction, torch.zeros_like(images))
    assert v.shape == images.shape
    assert ddpm.measure((prediction, v), images)[1] == {"loss": mse_loss(prediction, v).item()}
    optimizer = torch.optim.Adam(ddpm.parameters(), 1e-2)
    before = {name: weight.clone() for name, weight in ddpm.named_parameters()}
    for _ in range(4):  # what starts at zero holds back the gradients of what is before it
        optimizer.zero_grad()
        ddpm.measure(ddpm(images, labels), images)[0].backward()
        optimizer.step()
    assert [name for name, weight in ddpm.named_parameters() if torch.equal(weight, before[name])] == []


def test_timestep_and_label_matter(ddpm):
    for weight in ddpm.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    x, t, label = torch.randn(1, 3, 8, 12), torch.tensor([100]), torch.tensor([0])
    v = ddpm.unet(x, t, label)
    assert not torch.allclose(v, ddpm.unet(x, t + 500, label))
    assert not torch.allclose(v, ddpm.unet(x, t, label + 1))
    embeddings = timestep_embedding(torch.arange(1, TIMESTEPS + 1), 56)
    assert torch.pdist(embeddings).min() > 0.01  # all timesteps differ


def test_each_player_of_the_gan_learns_from_its_own_loss_alone(gan):
    photographs = torch.rand(6, 3, 8, 12)
    outputs = gan(photographs)
    total, log = gan.measure(outputs, photographs)
    real, fake = outputs["real_logits"], outputs["fake_logits"]
    generator, critic = softplus(real - outputs["generator_logits"]).mean(), softplus(fake - real).mean()
    squares = (real - outputs["perturbed_real"]).square() + (fake - outputs["perturbed_fake"]).square()
    losses = {"loss": energy_distance(outputs["images"], photographs), "critic": critic, "generator": generator}
    assert log == pytest.approx({name: loss.item() for name, loss in losses.items()})
    penalised = critic + PENALTY / 2 * squares.mean() / FD_SIGMA**2
    for player, loss in ((gan.generator, generator), (gan.critic, penalised)):
        found, expected = (torch.autograd.grad(of, [*player.parameters()], retain_graph=True) for of in (total, loss))
        torch.testing.assert_close(found, expected)
    assert all(weight.requires_grad for weight in gan.parameters())


def test_the_penalty_is_the_squared_gradient(gan):
    gan.critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 12, 1))
    torch.nn.init.normal_(gan.critic[1].weight)
    photographs = torch.rand(500, 3, 8, 12)
    outputs = gan(photographs)
    unperturbed = {"perturbed_real": outputs["real_logits"], "perturbed_fake": outputs["fake_logits"]}
    penalty = gan.measure(outputs, photographs)[0] - gan.measure({**outputs, **unperturbed}, photographs)[0]
    squared_gradient = gan.critic[1].weight.square().sum().item()
    assert penalty.item() == pytest.approx(PENALTY / 2 * 2 * squared_gradient, rel=0.2)


def test_augmentation_keeps_shapes_and_gradients_and_changes_each_image_its_own_way():
    images = (torch.rand(1, 3, 24, 16) - 0.5).repeat(50, 1, 1, 1).requires_grad_()
    changed = augment(images)
    assert changed.shape == images.shape
    assert torch.pdist(changed.detach().flatten(1)).min() > 0
    changed.sum().backward()
    assert (images.grad != 0).all()  # what is cut out still counts in the image's mean, for the contrast
    fractions = (augment(torch.ones(500, 3, 24, 24)) == 0).float().mean(dim=(1, 2, 3))  # grey: cutout and border
    assert fractions.min() > 0.05
    assert 0.1 < fractions.mean() < 0.4


def test_the_energy_distance_against_brute_force():
    x, y = torch.randn(5, 3, 2, 2), 2 + torch.randn(5, 3, 2, 2)
    pairs = itertools.product(x, y), itertools.permutations(x, 2), itertools.permutations(y, 2)
    between, *within = (torch.stack([(a - b).norm() for a, b in some]).mean() for some in pairs)
    torch.testing.assert_close(energy_distance(x, y), 2 * between - sum(within), atol=1e-5, rtol=1e-5)
    assert energy_distance(x[:1], y[:1]).isfinite()  # the last batch may hold a single image


def test_the_classifier_learns_and_logs_cross_entropy_and_accuracy():
    model, images, labels = Classifier(3, 8, 12), torch.rand(32, 3, 8, 12), torch.arange(32) % 3
    logits, _ = outputs = model(images, labels)
    assert (logits.shape, model.features(images).shape) == ((32, 3), (32, 128))
    loss, log = model.measure(outputs, images)
    right = sum(logits[i].argmax() == labels[i] for i in range(32)).item()
    assert log == pytest.approx({"loss": cross_entropy(logits, labels).item(), "accuracy": right / 32})
    loss.backward()
    for name, param in model.named_parameters():
        assert (param.grad != 0).float().mean() > 0.99, name

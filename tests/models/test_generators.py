"""The diffusion model, the GAN and the classifier, against closed forms and brute force."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch.nn.functional import avg_pool2d, cross_entropy, mse_loss, softplus

from generators.classifier import Classifier
from generators.diffusion import Diffusion, schedule
from generators.gan import FD_SIGMA, GAN, PENALTY, augment, energy_distance
from generators.unet import TIMESTEPS
from generators.wavelets import Standardise, haar, inverse_haar
from trained.sampling import noise_and_labels


@pytest.fixture
def ddpm():
    return Diffusion(class_prior=[0.5, 0.5, 0.0], img_height=8, img_width=12, width=8)


@pytest.fixture
def cascade():
    """48x96 pixels: from 12x24, in three stages."""
    return Diffusion(class_prior=[0.5, 0.5, 0.0], img_height=48, img_width=96, width=8)


@pytest.fixture
def gan():
    model = GAN(encoding_dim=5, img_height=8, img_width=12, width=8)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model


def teach(ddpm, means, std):
    """Let the networks answer with the best v for images of independent values from N(mean of the label, std^2), in
    closed form."""

    def forward(channels, scale, x, t, labels):
        x = x[:, :channels]
        mean = scale * torch.tensor(means)[labels][:, None, None, None]
        alpha, sigma = schedule(t)
        x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        return alpha * (x - alpha * x0) / sigma - sigma * x0

    for level, stage in enumerate(ddpm.stages):  # a pixel of the coarsest image is 2^n times the mean of its pixels
        scale = 0 if level else 2 ** (len(ddpm.stages) - 1)
        stage.network.forward = partial(forward, stage.channels, scale)


def sample(ddpm, label, count=200, **options):
    """Samples of one label, with values from -1 to 1."""
    return 2 * ddpm.sample(torch.randn(count, *ddpm.image_shape), torch.full((count,), label), **options) - 1


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


def test_the_haar_transform_is_orthonormal_and_has_an_inverse():
    images = torch.rand(5, 3, 8, 12)
    coarse, details = haar(images)
    torch.testing.assert_close(coarse, 2 * avg_pool2d(images, 2))
    torch.testing.assert_close(details[:, :3], (images[..., 0::2] - images[..., 1::2]).unfold(2, 2, 2).sum(-1) / 2)
    torch.testing.assert_close(inverse_haar(coarse, details), images)
    numbers = torch.cat([coarse, details], dim=1)
    torch.testing.assert_close(numbers.square().sum(dim=(1, 2, 3)), images.square().sum(dim=(1, 2, 3)))


def test_details_of_every_scale_are_standardised():
    images = torch.rand(400, 3, 12, 20)
    images[..., ::2] *= 0.1
    images += torch.linspace(0, 1, 20)
    standardise = Standardise(12, 20)
    torch.testing.assert_close(standardise(images), images)
    standardise.fit(images)
    coarse, fine = haar(standardise(images))
    coarsest, middle = haar(coarse)  # 3x5, which is not halved
    for part in (fine, middle, coarsest):
        torch.testing.assert_close(part.std(dim=(0, 2, 3)), torch.ones(part.shape[1]), atol=1e-4, rtol=0)
    standardise.fit(torch.zeros(2, 3, 12, 20))
    assert standardise(images).isfinite().all()


def test_images_are_halved_while_they_are_large_enough_and_even():
    for size, coarsest, stages in (((20, 24), (20, 24), 1), ((36, 44), (18, 22), 2), ((64, 64), (16, 16), 3)):
        with torch.device("meta"):
            parts = Diffusion([1.0], *size).decompose(torch.empty(1, 3, *size))
        assert (parts[0][0].shape[2:], len(parts)) == (coarsest, stages)


@pytest.mark.parametrize("name", ["ddpm", "cascade"])
def test_the_sampler_samples_the_distribution_that_the_networks_know(name, request):
    ddpm = request.getfixturevalue(name)
    teach(ddpm, [0.2, -0.2, 0.0, 0.0], std=0.25)
    for label, mean in ((0, 0.2), (1, -0.2)):
        pixels = sample(ddpm, label, count=20_000 // math.prod(ddpm.image_shape[1:]))
        assert abs(pixels.mean() - mean) < 0.004
        assert abs(pixels.std() - 0.25) < 0.01


def test_no_noise_is_left_in_samples_and_guidance_extrapolates_from_the_null_label(ddpm):
    teach(ddpm, [0.2, -0.4, 0.0, 0.0], std=0.0)
    torch.testing.assert_close(sample(ddpm, 0, count=10), torch.full((10, 3, 8, 12), 0.2), atol=2e-4, rtol=0)
    teach(ddpm, [0.2, -0.2, 0.0, 0.1], std=0.05)
    assert abs(sample(ddpm, 0, guidance=2.0).mean() - (0.1 + 2 * (0.2 - 0.1))) < 0.02  # of linear v


def test_the_sampler_is_of_second_order(ddpm):
    """Twice as many steps leave a quarter of the error; that of DDIM would be half of it."""
    teach(ddpm, [0.2, 0.0], std=0.25)
    noise = 0.5 * torch.randn(20, 3, 8, 12).double().clamp(-2, 2)
    label = torch.zeros(20, dtype=torch.long)
    exact = 0.2 + 0.25 * noise  # the flow of the probability keeps quantiles
    errors = [(2 * ddpm.sample(noise, label, steps=steps) - 1 - exact).abs().mean() for steps in (20, 40)]
    assert errors[1] < errors[0] / 3


def test_a_stage_standardises_its_samples_and_its_condition(cascade):
    """The networks know a standard deviation of 1; samples have that of the images."""
    images = 0.5 + 0.05 * torch.randn(200, 3, 48, 96)
    cascade.standardise(images)
    teach(cascade, [0.0, 0.0], std=1.0)
    assert abs(sample(cascade, 0, count=20).std() - 0.1) < 0.005
    seen = []
    for stage in cascade.stages:
        stage.network.forward = lambda x, t, labels: seen.append(x) or x[:, : 9 if x.shape[1] > 3 else 3]
    cascade(images, torch.zeros(200, dtype=torch.long))
    assert [x.shape[1:] for x in seen] == [(3, 12, 24), (12, 12, 24), (12, 24, 48)]
    for x in seen:
        assert abs(x.std(dim=(0, 2, 3)) - 1).max() < 0.05


def test_the_image_grows_from_stage_to_stage(cascade):
    teach(cascade, [0.2, 0.0], std=0.25)
    noise = torch.randn(2, 3, 48, 96)
    predictions = [image for _, image in cascade.denoise(noise, torch.zeros(2, dtype=torch.long), steps=5)]
    assert len(predictions) == 15
    for step, square in ((4, 4), (9, 2), (14, 1)):  # side length in pixels of the squares that are alike so far
        corners = predictions[step][..., ::square, ::square]
        squares = corners.repeat_interleave(square, 2).repeat_interleave(square, 3)
        torch.testing.assert_close(predictions[step], squares)
        torch.testing.assert_close(avg_pool2d(predictions[-1], square), avg_pool2d(predictions[step], square))


def test_v_gives_back_image_and_noise_at_evenly_spaced_timesteps(ddpm):
    ddpm.stages[0].network.forward = lambda *inputs: inputs
    images = torch.rand(1000, 3, 8, 12)
    labels = torch.randint(3, (1000,))
    [((x, t, seen_labels), v)] = ddpm(images, labels)
    alpha, sigma = schedule(t)
    torch.testing.assert_close(alpha * x - sigma * v, 2 * images - 1, atol=1e-5, rtol=0)
    noise = sigma * x + alpha * v
    assert max(abs(noise.mean()), abs(noise.std() - 1)) < 0.02
    assert sorted(t.tolist()) == list(range(1, TIMESTEPS + 1))
    dropped = seen_labels != labels
    assert set(seen_labels[dropped].tolist()) == {3}
    assert 50 < dropped.sum() < 150  # a tenth


def test_untrained_networks_predict_zero_and_every_weight_learns(cascade):
    images = torch.rand(16, 3, 48, 96)
    labels = torch.randint(3, (16,))
    outputs = cascade(images, labels)
    for prediction, v in outputs:
        assert torch.equal(prediction, torch.zeros_like(v))
    losses = [mse_loss(prediction, v).item() for prediction, v in outputs]
    assert cascade.loss(outputs, images)[1] == {"loss": pytest.approx(sum(losses) / 3)}
    optimizer = torch.optim.Adam(cascade.parameters(), 1e-2)
    before = {name: weight.clone() for name, weight in cascade.named_parameters()}
    for _ in range(4):  # layers that start at zero hold back the gradients of those before them
        optimizer.zero_grad()
        cascade.loss(cascade(images, labels), images)[0].backward()
        optimizer.step()
    assert [name for name, weight in cascade.named_parameters() if torch.equal(weight, before[name])] == []


def test_timestep_and_label_matter(ddpm):
    for weight in ddpm.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    x = torch.randn(1, 3, 8, 12)
    t = torch.tensor([100])
    label = torch.tensor([0])
    unet = ddpm.stages[0].network
    v = unet(x, t, label)
    assert not torch.allclose(v, unet(x, t + 500, label))
    assert not torch.allclose(v, unet(x, t, label + 1))


def test_each_player_of_the_gan_learns_from_its_own_loss_alone(gan):
    photographs = torch.rand(6, 3, 8, 12)
    outputs = gan(photographs)
    total, metrics = gan.loss(outputs, photographs)
    real = outputs["real_logits"]
    fake = outputs["fake_logits"]
    generator = softplus(real - outputs["generator_logits"]).mean()
    critic = softplus(fake - real).mean()
    squares = (real - outputs["perturbed_real"]).square() + (fake - outputs["perturbed_fake"]).square()
    losses = {"loss": energy_distance(outputs["images"], photographs), "critic": critic, "generator": generator}
    assert metrics == pytest.approx({name: loss.item() for name, loss in losses.items()})
    penalised = critic + PENALTY / 2 * squares.mean() / FD_SIGMA**2
    for player, loss in ((gan.generator, generator), (gan.critic, penalised)):
        gradients, expected = (
            torch.autograd.grad(scalar, [*player.parameters()], retain_graph=True) for scalar in (total, loss)
        )
        torch.testing.assert_close(gradients, expected)
    assert all(weight.requires_grad for weight in gan.parameters())


def test_the_penalty_is_the_squared_gradient(gan):
    gan.critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 12, 1))
    torch.nn.init.normal_(gan.critic[1].weight)
    photographs = torch.rand(500, 3, 8, 12)
    gan.standardise(photographs)  # the gradient is that of what the critic sees, not of pixels
    outputs = gan(photographs)
    unperturbed = {"perturbed_real": outputs["real_logits"], "perturbed_fake": outputs["fake_logits"]}
    penalty = gan.loss(outputs, photographs)[0] - gan.loss({**outputs, **unperturbed}, photographs)[0]
    squared_gradient = gan.critic[1].weight.square().sum().item()
    assert penalty.item() == pytest.approx(PENALTY / 2 * 2 * squared_gradient, rel=0.2)


def test_augmentation_changes_brightness_saturation_and_contrast_differentiably():
    images = (torch.rand(1, 3, 24, 24).repeat(1000, 1, 1, 1) - 0.5).requires_grad_()
    changed = augment(images)
    changed.sum().backward()
    assert (images.grad != 0).all()  # also of pixels that are moved out, by the image's mean
    changed = changed.detach()
    images = images.detach()
    grey = images.mean(dim=1, keepdim=True)
    assert 0.13 < changed.mean(dim=(1, 2, 3)).std() < 0.16  # uniform from -0.25 to 0.25
    ratios = changed.mean(dim=1).std(dim=(1, 2)) / grey.std(dim=(1, 2, 3))
    assert ratios.min() < 0.8 < 1.2 < ratios.max()
    colours = (changed - changed.mean(dim=1, keepdim=True)).std(dim=(1, 2, 3)) / (images - grey).std(dim=(1, 2, 3))
    assert (colours / ratios).min() < 0.6 < 1.4 < (colours / ratios).max()


def test_augmentation_moves_images_by_up_to_an_eighth_and_mirrors_their_border():
    ramp = torch.arange(24.0).expand(500, 3, 24, 24)
    for lines in (augment(ramp)[:, 0, 0], augment(ramp.mT).mT[:, 0, 0]):  # (500, 24)
        slopes = lines.diff(dim=1).abs() / lines.diff(dim=1).abs().amax(dim=1, keepdim=True)
        flat = slopes < 1e-4  # a mirrored pixel stands twice
        assert ((slopes - 1).abs() < 1e-4).sum() + flat.sum() == slopes.numel()
        assert set(flat.sum(dim=1).tolist()) == {0, 1}
        assert set(flat.int().argmax(dim=1)[flat.any(dim=1)].tolist()) == {0, 1, 2, 20, 21, 22}


def test_the_energy_distance_against_brute_force():
    x = torch.randn(5, 3, 2, 2)
    y = 2 + torch.randn(5, 3, 2, 2)
    pairs = itertools.product(x, y), itertools.permutations(x, 2), itertools.permutations(y, 2)
    between, *within = (torch.stack([(a - b).norm() for a, b in some]).mean() for some in pairs)
    torch.testing.assert_close(energy_distance(x, y), 2 * between - sum(within), atol=1e-5, rtol=1e-5)
    assert energy_distance(x[:1], y[:1]).isfinite()  # the last batch may hold a single image


def test_the_classifier_learns_and_logs_cross_entropy_and_accuracy():
    model = Classifier(3, 8, 12)
    images = torch.rand(32, 3, 8, 12)
    labels = torch.arange(32) % 3
    logits, _ = outputs = model(images, labels)
    assert (logits.shape, model.features(images).shape) == ((32, 3), (32, 128))
    loss, metrics = model.loss(outputs, images)
    right = sum(logits[i].argmax() == labels[i] for i in range(32)).item()
    assert metrics == pytest.approx({"loss": cross_entropy(logits, labels).item(), "accuracy": right / 32})
    loss.backward()
    for name, param in model.named_parameters():
        assert (param.grad != 0).float().mean() > 0.99, name

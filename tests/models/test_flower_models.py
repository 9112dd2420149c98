"""The autoencoders of the flowers, and their losses, against torch.distributions and closed forms."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import mse_loss

import VarAutoencoder as vae
from Autoencoder import AE_ENCODING_DIM, Autoencoder
from generators import variance
from generators.classifier import Classifier
from generators.diffusion import Diffusion
from generators.gan import GAN
from generators.variance import MIN_VARIANCE, LearnedVariance
from generators.wavelets import pyramid
from model import sample as mnist_sample
from VarAutoencoder import VAE_ENCODING_DIM, VAE_loss_function, VarAutoencoder

each_model = pytest.mark.parametrize("model", [Autoencoder, VarAutoencoder])


def posterior(mu, log_var):
    return Normal(mu, (0.5 * log_var).exp())


@each_model
@pytest.mark.parametrize("arguments", [(), (100, 16, 32), (1, 4, 4)])
def test_the_shapes_through_every_layer(model, arguments):
    encoding_dim, height, width = arguments or (AE_ENCODING_DIM, 24, 24)
    model = model(*arguments)
    x = torch.rand(2, 3, height, width)
    shapes = []
    for layer in (*model.encoder, *model.decoder):
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    half = (height // 2, width // 2)
    quarter = (height // 4, width // 4)
    expected = [(32, *half), (64, *quarter), (128, *quarter), (encoding_dim,)]
    expected += [(128, *quarter), (64, *quarter), (32, *half), (3, height, width)]
    remaining = iter(shapes)
    assert all(shape in remaining for shape in expected), shapes  # in this order
    assert model.describe_layers() == " -> ".join("x".join(map(str, shape)) for shape in [expected[-1], *expected])


@pytest.mark.parametrize("build", [Autoencoder, VarAutoencoder, GAN, Classifier, Diffusion])
@pytest.mark.parametrize("size", [(25, 24), (24, 26), (0, 24), (2, 2)])
def test_an_image_size_that_cannot_be_halved_twice_is_refused(build, size):
    with pytest.raises(ValueError, match=f"multiples of 4.* {size[0]}x{size[1]}"):
        build([1.0] if build is Diffusion else 64, *size)


@each_model
def test_images_lie_between_0_and_1_and_gradients_reach_every_weight(model):
    small = model(8, 8, 8)
    for scale in (1, 1e3, 1e6):
        decoded = small.decode(scale * torch.randn(64, 8))
        assert 0 <= decoded.min() <= decoded.max() <= 1
    assert decoded.min() < 0.01 < 0.99 < decoded.max()
    model = model()
    x = torch.rand(32, 3, 24, 24)
    model.loss(model(x), x)[0].backward()
    for name, param in model.named_parameters():
        assert (param.grad != 0).float().mean() > 0.99, name
    with pytest.raises(ValueError, match=r"expected images .*3, 24, 24.*found \(1, 3, 12, 48\)"):
        model(torch.rand(1, 3, 12, 48))  # of as many pixels


@each_model
def test_the_decoder_starts_linear_and_the_encoder_centred_on_mid_grey(model):
    model = model().double()
    z = torch.randn(5, 64, dtype=torch.float64)
    decoder = model.decoder[:-1]  # without the sigmoid
    torch.testing.assert_close(decoder(-3 * z), -3 * decoder(z))
    assert decoder(z).std() > 0.001
    hidden = model.encoder[0](torch.full((1, 3, 24, 24), 0.5).double())[..., 1:-1, 1:-1]  # without the padding
    torch.testing.assert_close(hidden, torch.zeros_like(hidden), atol=1e-6, rtol=0)


def test_the_vae_loss_is_the_negative_elbo_of_the_batch_up_to_a_constant():
    x, y, other = torch.rand(3, 6, 3, 8, 8, dtype=torch.float64)
    mu, log_var = torch.randn(2, 6, 5, dtype=torch.float64)
    kl = kl_divergence(posterior(mu, log_var), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(vae.kl_divergence(mu, log_var), kl, rtol=1e-10, atol=1e-12)
    difference = VAE_loss_function((y, mu, log_var), x) - VAE_loss_function((other, mu, log_var), x)
    log_p, log_p_other = (Normal(recon, 0.5**0.5).log_prob(x).sum() for recon in (y, other))
    torch.testing.assert_close(difference, log_p_other - log_p)
    torch.testing.assert_close(VAE_loss_function((x, mu, log_var), x), kl)


@pytest.mark.parametrize("count", [1, 6])
def test_the_loss_to_minimise_is_per_pixel_and_the_logged_one_in_the_courseworks_unit(count):
    x = torch.rand(count, 3, 8, 8)
    ae = Autoencoder(4, 8, 8)
    loss, metrics = ae.loss(ae(x), x)
    assert loss.item() == metrics["loss"] == pytest.approx(mse_loss(ae(x), x).item())
    model = VarAutoencoder(4, 8, 8)
    outputs = model(x)
    recon = (outputs[0] - x).square().sum().item() / count
    kl = kl_divergence(posterior(*outputs[1:]), Normal(0.0, 1.0)).sum().item() / count
    loss, metrics = model.loss(outputs, x)
    assert loss.item() == pytest.approx((recon + kl) / (3 * 8 * 8))
    assert metrics == pytest.approx({"loss": 16 * (recon + kl), "recon": recon, "kl": kl}, rel=1e-5)


@pytest.mark.parametrize("sample", [vae.reparameterise, lambda mu, log_var: mnist_sample(mu, (0.5 * log_var).exp())])
def test_samples_have_the_mean_and_variance_and_pass_gradients_on(sample):
    mu = torch.tensor([[-1.0, 0.5]]).repeat(100_000, 1).requires_grad_()
    log_var = torch.tensor([[-2.0, 1.0]]).repeat(100_000, 1).requires_grad_()
    z = sample(mu, log_var)
    torch.testing.assert_close(z.mean(dim=0), mu[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(dim=0), log_var[0].exp(), atol=0.05, rtol=0)
    z.sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones_like(mu))
    torch.testing.assert_close(log_var.grad, 0.5 * (z - mu).detach())  # d/dlog_var of exp(log_var / 2) eps


def test_the_vae_samples_in_training_and_in_evaluation_and_reconstructs_without_noise():
    model = VarAutoencoder()
    x = torch.rand(4, 3, 24, 24)
    assert [part.shape for part in model(x)] == [x.shape, *2 * [(4, VAE_ENCODING_DIM)]]
    for mode in (model.train(), model.eval()):
        first = mode(x)
        second = mode(x)
        assert not torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    assert torch.equal(model.encode(x), model(x)[1])
    assert torch.equal(model.reconstruct(x), model.decode(model.encode(x)))
    ae = Autoencoder()
    assert torch.equal(ae.reconstruct(x), ae(x))


def test_log_var_cannot_overflow():
    model = VarAutoencoder(4, 8, 8)
    x = torch.rand(2, 3, 8, 8)
    for bias in (1e30, -1e30):
        torch.nn.init.constant_(model.log_var.bias, bias)
        outputs = model(x)
        assert outputs[2].isfinite().all()
        assert VAE_loss_function(outputs, x).isfinite()


def test_the_learned_variance_is_first_the_most_likely_one_and_the_loss_the_negative_elbo():
    model = LearnedVariance(4, 8, 8)
    x = torch.rand(6, 3, 8, 8)
    for _ in range(3):
        recon, mu, log_var, variances = outputs = model(x)
        error = mse_loss(recon, x)
        torch.testing.assert_close(variances, error.expand(6, 30, 1, 1))
        loss, metrics = model.loss(outputs, x)
        log_p = Normal(recon, error.sqrt()).log_prob(x).sum().item() / 6
        kl = kl_divergence(posterior(mu, log_var), Normal(0.0, 1.0)).sum().item() / 6
        assert metrics == pytest.approx({"loss": kl - log_p, "recon": -log_p, "kl": kl, "error": error.item()})
        assert loss.item() == pytest.approx((kl - log_p) / (3 * 8 * 8))
    assert model.eval()(x)[3].std() > 0  # one for each band, of the training
    model.train().decode = lambda z: x
    assert math.isclose(model(x)[3].mean().item(), MIN_VARIANCE, rel_tol=1e-6)


def test_then_each_band_has_a_variance_of_its_own_which_depends_on_z(monkeypatch):
    monkeypatch.setattr(variance, "SINGLE_BATCHES", 0)
    model = LearnedVariance(4, 8, 24)  # a coarsest image of 1x3
    torch.nn.init.normal_(model.log_factor.weight)
    variances = model(torch.rand(2, 3, 8, 24))[3]
    assert (variances[0] - variances[1]).abs().min() > 0
    dims = 3 * 8 * 24
    pixels = torch.eye(dims).view(dims, 3, 8, 24)
    mixed = torch.einsum("mc,bchw->bmhw", variance.COLOURS, pixels)
    transform = torch.cat([part.flatten(1) for part in pyramid(mixed)], dim=1).T  # of pixels to coefficients
    torch.testing.assert_close(transform @ transform.T, torch.eye(dims), atol=1e-5, rtol=0)
    owners = variance.band_squares(transform.view(dims, 3, 8, 24)).flatten(
        1
    )  # of each coefficient, one place of a band
    torch.testing.assert_close(owners.sum(dim=0), model.counts.flatten(), atol=1e-4, rtol=0)
    errors = torch.randn(2, 3, 8, 24)
    deviations = (variances.flatten(1) @ owners.T).sqrt()
    exact = Normal(0.0, deviations).log_prob(errors.flatten(1) @ transform.T).sum(dim=1)
    torch.testing.assert_close(model.log_likelihood(errors, variances), exact, rtol=1e-4, atol=1e-3)

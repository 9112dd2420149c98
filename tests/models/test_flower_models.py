"""The autoencoders of the flowers, and the VAE's loss, against torch.distributions and closed forms."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence
from torch.nn.functional import mse_loss

import VarAutoencoder as vae
from Autoencoder import AE_ENCODING_DIM, Autoencoder
from generators.classifier import Classifier
from generators.diffusion import Diffusion
from generators.gan import GAN
from model import sample as mnist_sample
from VarAutoencoder import VAE_ENCODING_DIM, VAE_loss_function, VarAutoencoder

each_model = pytest.mark.parametrize("model", [Autoencoder, VarAutoencoder])


def posterior(mu, log_var):
    return Normal(mu, (0.5 * log_var).exp())


@each_model
@pytest.mark.parametrize("arguments", [(), (100, 16, 32), (1, 4, 4)])
def test_the_shapes_through_every_layer(model, arguments):
    model, (encoding_dim, height, width) = model(*arguments), arguments or (AE_ENCODING_DIM, 24, 24)
    x, found = torch.rand(2, 3, height, width), []
    for layer in (*model.encoder, *model.decoder):
        x = layer(x)
        found.append(tuple(x.shape[1:]))
    half, quarter = (height // 2, width // 2), (height // 4, width // 4)
    expected = [(32, *half), (64, *quarter), (128, *quarter), (encoding_dim,)]
    expected += [(128, *quarter), (64, *quarter), (32, *half), (3, height, width)]
    remaining = iter(found)
    assert all(shape in remaining for shape in expected), found  # in this order
    assert model.describe_layers() == " -> ".join("x".join(map(str, shape)) for shape in [expected[-1], *expected])


@pytest.mark.parametrize("build", [Autoencoder, VarAutoencoder, GAN, Classifier, Diffusion])
@pytest.mark.parametrize("size", [(25, 24), (24, 26), (0, 24), (2, 2)])
def test_an_image_size_that_cannot_be_halved_twice_is_refused(build, size):
    with pytest.raises(ValueError, match=f"multiples of 4.* {size[0]}x{size[1]}"):
        build([1.0] if build is Diffusion else 64, *size)


@each_model
def test_images_lie_between_0_and_1_and_gradients_reach_every_weight(model):
    small, model, x = model(8, 8, 8), model(), torch.rand(32, 3, 24, 24)
    decoded = [small.decode(scale * torch.randn(64, 8)) for scale in (1, 1e3, 1e6)]
    assert all(0 <= recon.min() <= recon.max() <= 1 for recon in decoded)
    assert decoded[-1].min() < 0.01 < 0.99 < decoded[-1].max()
    model.measure(model(x), x)[0].backward()
    for name, param in model.named_parameters():
        assert (param.grad != 0).float().mean() > 0.99, name


@each_model
def test_the_decoder_starts_linear_and_the_encoder_centred_on_mid_grey(model):
    model, z = model().double(), torch.randn(5, 64, dtype=torch.float64)
    decoder = model.decoder[:-1]  # without the sigmoid
    torch.testing.assert_close(decoder(-3 * z), -3 * decoder(z))
    assert decoder(z).std() > 0.001
    hidden = model.encoder[0](torch.full((1, 3, 24, 24), 0.5).double())[..., 1:-1, 1:-1]  # without the padding
    torch.testing.assert_close(hidden, torch.zeros_like(hidden), atol=1e-6, rtol=0)


def test_the_vae_loss_is_the_negative_elbo_of_the_batch_up_to_a_constant():
    x, y, other = torch.rand(3, 6, 3, 8, 8, dtype=torch.float64)
    mu, log_var = torch.randn(2, 6, 5, dtype=torch.float64)
    kl = kl_divergence(posterior(mu, log_var), Normal(0.0, 1.0))
    torch.testing.assert_close(vae.kl_divergence(mu, log_var), kl, rtol=1e-10, atol=1e-12)
    found = [VAE_loss_function((recon, mu, log_var), x) for recon in (y, other, x)]
    log_p = [Normal(recon, 0.5**0.5).log_prob(x).sum() for recon in (y, other)]
    torch.testing.assert_close(found[0] - found[1], log_p[1] - log_p[0])
    torch.testing.assert_close(found[2], kl.sum())
    torch.testing.assert_close(VAE_loss_function((x, mu, log_var), x, beta=3), 3 * kl.sum())


@pytest.mark.parametrize("count", [1, 6])
def test_the_loss_to_minimise_is_per_pixel_and_the_logged_one_in_the_courseworks_unit(count):
    x, ae, model = torch.rand(count, 3, 8, 8), Autoencoder(4, 8, 8), VarAutoencoder(4, 8, 8)
    loss, metrics = ae.measure(ae(x), x)
    assert [loss.item(), metrics] == [pytest.approx(mse_loss(ae(x), x).item()), pytest.approx({"loss": loss.item()})]
    outputs = model(x)
    recon = (outputs[0] - x).square().sum().item() / count
    kl = kl_divergence(posterior(*outputs[1:]), Normal(0.0, 1.0)).sum().item() / count
    loss, metrics = model.measure(outputs, x, beta=3.0)
    assert loss.item() == pytest.approx((recon + 3 * kl) / (3 * 8 * 8))
    assert metrics == pytest.approx({"loss": 16 * (recon + 3 * kl), "recon": recon, "kl": kl}, rel=1e-5)


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
    model, ae, x = VarAutoencoder(), Autoencoder(), torch.rand(4, 3, 24, 24)
    assert [model.name, *(part.shape for part in model(x))] == ["VAE", x.shape, *2 * [(4, VAE_ENCODING_DIM)]]
    assert (ae.name, ae(x).shape) == ("AE", x.shape)
    for mode in (model.train(), model.eval()):
        first, second = mode(x), mode(x)
        assert not torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    assert torch.equal(model.reconstruct(x), model.decoder(model.encoder(x)))
    assert torch.equal(model.encode(x)[0], model.encoder(x))
    assert torch.equal(ae.reconstruct(x), ae(x))


def test_log_var_cannot_overflow():
    model, x = VarAutoencoder(4, 8, 8), torch.rand(2, 3, 8, 8)
    for bias in (1e30, -1e30):
        torch.nn.init.constant_(model.log_var.bias, bias)
        outputs = model(x)
        assert outputs[2].isfinite().all()
        assert VAE_loss_function(outputs, x).isfinite()


def test_active_dimensions_and_the_aggregate_posterior_say_how_the_latent_vector_is_used():
    mu = torch.randn(2000, 4) * torch.tensor([1.0, 0.12, 0.08, 0.0]) + 5  # variances 1, 0.0144, 0.0064, 0
    assert vae.active_dimensions(mu) == 2
    (mu, log_var), z = torch.randn(2, 30, 4), torch.linspace(-4, 4, 9)
    mixture = MixtureSameFamily(Categorical(torch.ones(4, 30)), posterior(mu.T, log_var.T))
    torch.testing.assert_close(vae.aggregate_posterior(mu, log_var, z), mixture.log_prob(z[:, None]).exp())


@pytest.mark.parametrize(("share", "count"), [(0.5, 1), (0.6, 2), (0.9, 2), (0.95, 3), (1.0, 3)])
def test_how_many_latents_carry_a_share_of_the_kl(share, count):
    assert vae.dimensions_for(share, torch.tensor([0.5, 4.0, 5.0, 0.0]) / 9.5) == count
    assert vae.dimensions_for(share, torch.zeros(4)) == 1

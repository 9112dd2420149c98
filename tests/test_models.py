"""The models of the flowers in PyTorch, and the VAE's loss."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.utils.data import TensorDataset

import VarAutoencoder as vae
from Autoencoder import AE_ENCODING_DIM, Autoencoder
from VarAutoencoder import VAE_ENCODING_DIM, VAE_loss_function, VarAutoencoder

MODELS = [Autoencoder, VarAutoencoder]


def images(count=4, height=24, width=24, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("height", "width", "encoding_dim"), [(24, 24, 64), (16, 32, 100), (4, 4, 1)])
def test_the_shapes_through_every_layer(model, height, width, encoding_dim):
    model = model(encoding_dim, height, width)
    half, quarter = (height // 2, width // 2), (height // 4, width // 4)
    x, seen = images(2, height, width), []
    for layer in model.encoder:
        x = layer(x)
        seen.append(tuple(x.shape[1:]))
    for shape in ((32, *half), (64, *quarter), (128, *quarter), (encoding_dim,)):
        assert shape in seen
        seen = seen[seen.index(shape) :]
    seen = []
    for layer in model.decoder:
        x = layer(x)
        seen.append(tuple(x.shape[1:]))
    for shape in ((128, *quarter), (64, *quarter), (32, *half), (3, height, width)):
        assert shape in seen
        seen = seen[seen.index(shape) :]


def test_what_a_model_is_called_and_how_long_its_latent_vector_is():
    assert (Autoencoder().name, VarAutoencoder().name) == ("AE", "VAE")
    assert Autoencoder()(images()).shape == (4, 3, 24, 24)
    assert Autoencoder().encoder(images()).shape == (4, AE_ENCODING_DIM)
    assert [tuple(part.shape) for part in VarAutoencoder()(images())] == [(4, 3, 24, 24)] + 2 * [(4, VAE_ENCODING_DIM)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [(25, 24), (24, 26), (0, 24), (2, 2)])
def test_an_image_size_that_two_poolings_cannot_halve_is_refused(model, size):
    with pytest.raises(ValueError, match=f"multiples of 4.* found {size[0]}x{size[1]}"):
        model(64, *size)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(2, 3, 16, 12), (2, 3, 24, 24), (2, 1, 12, 16), (3, 12, 16)])
def test_images_of_another_size_than_the_model_is_for_are_refused(model, shape):
    model = model(8, 12, 16)
    for method in (model, model.reconstruct):
        with pytest.raises(
            ValueError, match=r"expected images \(B, 3, 12, 16\), found \(" + ", ".join(map(str, shape))
        ):
            method(torch.zeros(shape))


@pytest.mark.parametrize("model", MODELS)
def test_the_output_lies_between_0_and_1(model):
    torch.manual_seed(0)
    model = model(8, 8, 8)
    for scale in (1, 1e3, 1e6):
        x = model.decoder(scale * torch.randn(64, 8))
        assert x.min() >= 0
        assert x.max() <= 1
    assert x.min() < 0.01
    assert x.max() > 0.99


@pytest.mark.parametrize("model", MODELS)
def test_gradients_reach_every_weight(model):
    torch.manual_seed(0)
    model, x = model(), images(32)
    outputs = model(x)
    loss = (outputs - x).square().sum() if model.name == "AE" else VAE_loss_function(outputs, x)
    loss.backward()
    for name, param in model.named_parameters():
        assert (param.grad != 0).float().mean() > 0.99, name


@pytest.mark.parametrize("model", MODELS)
def test_the_decoder_starts_linear_so_that_no_relu_loses_anything(model):
    torch.manual_seed(0)
    decoder = model().decoder.double()[:-1]  # without the sigmoid
    z = torch.randn(5, 64, dtype=torch.float64)
    torch.testing.assert_close(decoder(-3 * z), -3 * decoder(z))
    assert decoder(z).std() > 0.001


@pytest.mark.parametrize("model", MODELS)
def test_mid_grey_is_where_the_encoder_starts_from(model):
    grey = torch.full((1, 3, 24, 24), 0.5)
    hidden = model().encoder[0](grey)[..., 1:-1, 1:-1]  # beside the padding
    torch.testing.assert_close(hidden, torch.zeros_like(hidden), atol=1e-6, rtol=0)


def test_kl_against_torch_distributions():
    torch.manual_seed(0)
    mu, log_var = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    expected = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(vae.kl_divergence(mu, log_var), expected, rtol=1e-10, atol=1e-12)
    assert vae.kl_divergence(torch.zeros(3), torch.zeros(3)).sum() == 0


def test_the_vae_loss_is_the_negative_elbo_up_to_a_constant():
    torch.manual_seed(0)
    x, y, other = (torch.rand(6, 3, 8, 8, dtype=torch.float64) for _ in range(3))
    mu, log_var = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)

    def negative_elbo(recon):
        kl = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum()
        return kl - Normal(recon, 0.5**0.5).log_prob(x).sum()

    found = VAE_loss_function((y, mu, log_var), x) - VAE_loss_function((other, mu, log_var), x)
    torch.testing.assert_close(found, negative_elbo(y) - negative_elbo(other))
    kl = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(VAE_loss_function((x, mu, log_var), x), kl)
    torch.testing.assert_close(VAE_loss_function((x, mu, log_var), x, beta=3), 3 * kl)


def test_the_vae_loss_is_a_sum_over_the_batch():
    torch.manual_seed(0)
    model, x = VarAutoencoder().double(), images(6).double()
    outputs = model(x)
    parts = [VAE_loss_function([part[i : i + 1] for part in outputs], x[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(VAE_loss_function(outputs, x), sum(parts))


def test_reparameterised_samples_have_the_mean_and_variance_and_pass_gradients_on():
    torch.manual_seed(0)
    mu = torch.tensor([[-1.0, 0.5]]).repeat(100_000, 1).requires_grad_()
    log_var = torch.tensor([[-2.0, 1.0]]).repeat(100_000, 1).requires_grad_()
    z = vae.reparameterise(mu, log_var)
    torch.testing.assert_close(z.mean(dim=0), mu[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(dim=0), log_var[0].exp(), atol=0.05, rtol=0)
    z.sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones_like(mu))
    torch.testing.assert_close(log_var.grad, 0.5 * (z - mu).detach())  # d/dlog_var of exp(log_var / 2) eps


def test_log_var_cannot_overflow():
    torch.manual_seed(0)
    model = VarAutoencoder(4, 8, 8)
    with torch.no_grad():
        for bias in (1e30, -1e30):
            model.log_var.bias.fill_(bias)
            outputs = model(images(2, 8, 8))
            assert torch.isfinite(VAE_loss_function(outputs, images(2, 8, 8)))
            assert torch.isfinite(outputs[2]).all()


def test_the_vae_samples_in_training_and_in_evaluation_and_reconstructs_without_noise():
    torch.manual_seed(0)
    model, x = VarAutoencoder(), images()
    for mode in (model.train(), model.eval()):
        first, second = mode(x), mode(x)
        assert not torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    assert torch.equal(model.reconstruct(x), model.decoder(model.encode(x)[0]))
    assert torch.equal(model.encode(x)[0], model.encoder(x))
    ae = Autoencoder()
    assert torch.equal(ae.reconstruct(x), ae(x))


def test_a_latent_dimension_is_active_where_the_mean_varies_over_the_images():
    torch.manual_seed(0)
    mu = torch.randn(2000, 4) * torch.tensor([1.0, 0.12, 0.08, 0.0]) + 5  # variances 1, 0.0144, 0.0064, 0
    assert vae.active_dimensions(mu) == 2


def test_encode_all_goes_through_the_whole_data_set():
    torch.manual_seed(0)
    model, x = VarAutoencoder(), images(7)
    mu, log_var = vae.encode_all(model, TensorDataset(x, x), batch_size=4)
    expected = model.encode(x)
    torch.testing.assert_close(mu, expected[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(log_var, expected[1], atol=1e-6, rtol=1e-5)

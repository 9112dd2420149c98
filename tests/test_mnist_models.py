"""The three autoencoders of MNIST and their losses."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy

from main import Losses
from model import (
    MODELS,
    AutoEncoder,
    ConditionalVariationalAutoEncoder,
    Decoder,
    Encoder,
    VariationalAutoEncoder,
    build_model,
    draw_latents,
    interpolate,
    manifold,
    project,
)
from training import UserError


def batch(count=8):
    return torch.rand(count, 1, 28, 28), torch.arange(count) % 10


def outputs_of(name, model, xs, ys):
    return model(xs, ys) if name == "CVAE" else model(xs)


def test_the_courseworks_signatures():
    xs, ys = torch.rand(5, 784), torch.tensor([0, 9, 3, 3, 1])
    z = Encoder(784, 32, 6)(xs)
    assert z.shape == (5, 6)
    mu, sigma = Encoder(784, 32, 6, is_dist=True)(xs)
    assert mu.shape == sigma.shape == (5, 6)
    assert (sigma > 0).all()
    assert Decoder(784, 32, 6)(z).shape == (5, 784)
    assert AutoEncoder(Encoder(784, 32, 6), Decoder(784, 32, 6, "AE"))(xs).shape == (5, 784)
    vae = VariationalAutoEncoder(Encoder(784, 32, 6, is_dist=True), Decoder(784, 32, 6, decode_type="VAE"))
    assert [tuple(part.shape) for part in vae(xs)] == [(5, 784), (5, 6), (5, 6)]
    encoder, decoder = Encoder(784, 32, 6, is_dist=True), Decoder(784, 32, 6, decode_type="CVAE")
    cvae = ConditionalVariationalAutoEncoder(encoder, decoder)
    assert [tuple(part.shape) for part in cvae(xs, ys)] == [(5, 784), (5, 6), (5, 6)]
    assert encoder(xs, ys)[0].shape == (5, 6)
    assert decoder(z, ys=ys).shape == (5, 784)


def test_an_unknown_decode_type_is_not_implemented():
    with pytest.raises(NotImplementedError, match='one of AE, VAE, CVAE, not "GAN"'):
        Decoder(784, 32, 6, decode_type="GAN")


@pytest.mark.parametrize("name", MODELS)
def test_the_reconstructions_have_the_images_shape_and_lie_between_0_and_1(name):
    torch.manual_seed(0)
    xs, ys = batch()
    outputs = outputs_of(name, build_model(name, 64, 3), xs, ys)
    reconstructions = outputs if name == "AE" else outputs[0]
    assert reconstructions.shape == xs.shape
    images = build_model(name, 64, 3).decode(1e6 * torch.randn(8, 3), ys if name == "CVAE" else None)
    assert images.shape == (8, 1, 28, 28)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_weight(name):
    torch.manual_seed(0)
    model, (xs, ys) = build_model(name, 64, 3), batch(64)
    loss, _ = Losses()(outputs_of(name, model, xs, ys), xs)
    loss.backward()
    for key, param in model.named_parameters():
        assert (param.grad != 0).float().mean() > 0.99, key


def test_the_cvae_tells_both_halves_the_label():
    torch.manual_seed(0)
    model, (xs, ys) = build_model("CVAE", 64, 3), batch()
    other = (ys + 1) % 10
    for one, two in zip(model.encoder(xs, ys), model.encoder(xs, other), strict=True):
        assert ((one - two).abs().amax(dim=1) > 1e-4).all()
    zs = torch.randn(8, 3)
    assert ((model.decode(zs, ys) - model.decode(zs, other)).abs().flatten(1).amax(dim=1) > 1e-4).all()


@pytest.mark.parametrize("ys", [[0, 10], [-1, 0], [12, 3]])
def test_a_label_that_is_no_digit_is_refused(ys):
    model, ys = build_model("CVAE", 16, 3), torch.tensor(ys)
    with pytest.raises(ValueError, match=f"expected labels from 0 to 9, found {ys.min()} to {ys.max()}"):
        model(torch.rand(2, 784), ys)
    with pytest.raises(ValueError, match="expected labels from 0 to 9"):
        model.decode(torch.randn(2, 3), ys)


def test_labels_where_none_are_expected_and_none_where_they_are():
    xs, ys = batch()
    with pytest.raises(ValueError, match="the CVAE needs labels"):
        build_model("CVAE", 16, 3).encode(xs)
    with pytest.raises(ValueError, match="labels are for the CVAE"):
        build_model("VAE", 16, 3).decode(torch.randn(8, 3), ys)


@pytest.mark.parametrize(
    ("model", "is_dist", "decode_type", "message"),
    [
        (AutoEncoder, True, "AE", "expected an encoder with is_dist=False, found True"),
        (VariationalAutoEncoder, False, "VAE", "expected an encoder with is_dist=True, found False"),
        (VariationalAutoEncoder, True, "CVAE", 'expected a decoder not of decode_type="CVAE"'),
        (ConditionalVariationalAutoEncoder, True, "VAE", 'expected a decoder of decode_type="CVAE"'),
    ],
)
def test_halves_of_another_model_are_refused(model, is_dist, decode_type, message):
    with pytest.raises(ValueError, match=message):
        model(Encoder(784, 16, 3, is_dist=is_dist), Decoder(784, 16, 3, decode_type=decode_type))


def test_a_cvae_takes_halves_of_any_dtype_and_leaves_trained_label_weights_alone():
    encoder = Encoder(784, 16, 3, is_dist=True).double()
    decoder, (xs, ys) = Decoder(784, 16, 3, decode_type="CVAE").double(), batch()
    model = ConditionalVariationalAutoEncoder(encoder, decoder)
    before = model.encode(xs.double(), ys)
    again = ConditionalVariationalAutoEncoder(encoder, decoder)
    assert torch.equal(again.encode(xs.double(), ys), before)


@pytest.mark.parametrize("name", MODELS)
def test_inputs_of_another_size_are_refused(name):
    model, ys = build_model(name, 16, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"expected \(B, 784\), found \(2, 783\)"):
        outputs_of(name, model, torch.rand(2, 783), ys)
    with pytest.raises(ValueError, match=r"expected \(B, 3\), found \(2, 4\)"):
        model.decode(torch.randn(2, 4), ys if name == "CVAE" else None)


def test_sigma_can_neither_overflow_nor_vanish():
    model = build_model("VAE", 16, 3)
    for bias in (1e30, -1e30):
        torch.nn.init.constant_(model.encoder.sigma.bias, bias)
        outputs = model(torch.rand(2, 784))
        assert torch.isfinite(Losses()(outputs, torch.rand(2, 784))[0])
        assert (outputs[2] > 0).all()


def test_samples_have_the_mean_and_the_standard_deviation_of_the_encoder():
    torch.manual_seed(0)
    model = build_model("VAE", 16, 2)
    seen = []
    model.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    xs = torch.rand(1, 784).repeat(50_000, 1)
    _, mu, sigma = model(xs)
    torch.testing.assert_close(seen[0].mean(dim=0), mu[0], atol=0.02, rtol=0)
    torch.testing.assert_close(seen[0].std(dim=0), sigma[0], atol=0.02, rtol=0)
    torch.testing.assert_close(model.encode(xs[:1]), mu[:1])


def test_autocast_keeps_the_distribution_and_the_pixels_precise():
    model, (xs, ys) = build_model("CVAE", 64, 3), batch()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(xs, ys)
    assert {part.dtype for part in outputs} == {torch.float32}


@pytest.mark.parametrize("seed", range(5))
def test_kl_div_against_torch_distributions(seed):
    torch.manual_seed(seed)
    p, q = ((torch.randn(50, 7).double(), torch.rand(50, 7).double() * 3 + 0.01) for _ in range(2))
    expected = kl_divergence(Normal(*p), Normal(*q)).sum(dim=1)
    torch.testing.assert_close(Losses().kl_div(p, q), expected, rtol=1e-6, atol=1e-6)
    p, q = ([part.float() for part in pair] for pair in (p, q))
    expected = kl_divergence(Normal(*p), Normal(*q)).sum(dim=1)
    torch.testing.assert_close(Losses().kl_div(p, q), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(Losses().kl_div(p, p), torch.zeros(50), rtol=0, atol=1e-5)


def by_hand():
    """One image of two pixels, its reconstruction, and q(z|x) = N((1, 0), diag(4, 1))."""
    xs, reconstructions = torch.tensor([[1.0, 0.25]]), torch.tensor([[0.8, 0.5]])
    kl = 0.5 * (4 + 1 - 1) - math.log(2)  # of the first dimension; the second is N(0, 1)
    return xs, (reconstructions, torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 1.0]])), kl


def test_the_vae_loss_by_hand():
    xs, outputs, kl = by_hand()
    bce = -math.log(0.8) - (0.25 * math.log(0.5) + 0.75 * math.log(0.5))
    loss, metrics = Losses()(outputs, xs)
    assert loss.item() == pytest.approx(bce + kl, abs=1e-6)
    assert metrics == pytest.approx({"loss": bce + kl, "recon": bce, "kl": kl}, abs=1e-6)
    mse = 0.2**2 + 0.25**2
    assert Losses("mse", beta=3)(outputs, xs)[1] == pytest.approx(
        {"loss": mse + 3 * kl, "recon": mse, "kl": kl}, abs=1e-6
    )


def test_another_weight_of_the_kl_is_for_the_minimum_alone():
    xs, outputs, kl = by_hand()
    loss, metrics = Losses("mse", beta=3)(outputs, xs, kl_weight=5)
    assert loss.item() == pytest.approx(metrics["recon"] + 5 * kl, abs=1e-5)
    assert metrics["loss"] == pytest.approx(metrics["recon"] + 3 * kl, abs=1e-5)


def test_the_ae_loss_is_per_pixel_for_squared_errors_and_per_image_in_nats():
    xs, (reconstructions, *_), _ = by_hand()
    assert Losses("mse")(reconstructions, xs)[1] == pytest.approx({"loss": (0.2**2 + 0.25**2) / 2}, abs=1e-6)
    bce = binary_cross_entropy(reconstructions, xs, reduction="sum").item()
    assert Losses("bce")(reconstructions, xs)[1] == pytest.approx({"loss": bce}, abs=1e-6)


def test_the_loss_is_a_mean_over_the_images():
    torch.manual_seed(0)
    xs, outputs = torch.rand(6, 784), (torch.rand(6, 784), torch.randn(6, 3), torch.rand(6, 3) + 0.1)
    singles = [Losses()(tuple(part[i : i + 1] for part in outputs), xs[i : i + 1])[0] for i in range(6)]
    torch.testing.assert_close(Losses()(outputs, xs)[0], sum(singles) / 6)


@pytest.mark.parametrize("recon", ["bce", "mse"])
def test_a_diverged_reconstruction_is_a_loss_that_is_not_finite(recon):
    loss, metrics = Losses(recon)(torch.full((2, 784), math.nan), torch.rand(2, 784))
    assert not loss.isfinite()
    assert not math.isfinite(metrics["loss"])


def test_certain_and_wrong_is_a_finite_loss():
    assert torch.isfinite(Losses().reconstruction(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))).all()


@pytest.mark.parametrize("value", [-0.1, 1.5, 255.0, math.nan])
@pytest.mark.parametrize("recon", ["bce", "mse"])
def test_images_outside_the_unit_interval_are_refused(value, recon):
    xs = torch.rand(2, 784)
    xs[1, 5] = value
    with pytest.raises(UserError, match="expected images with values from 0 to 1, found "):
        Losses(recon)(torch.rand(2, 784), xs)


def test_the_same_latent_vectors_stand_in_every_row_of_the_cvae():
    zs, ys = draw_latents("CVAE", 3, 100, seed=0)
    assert ys.tolist() == [digit for digit in range(10) for _ in range(10)]
    assert all(torch.equal(zs[:10], row) for row in zs.split(10))
    zs, ys = draw_latents("VAE", 3, 1000, seed=1)
    assert ys is None
    assert zs.mean().abs() < 0.1
    assert zs.std() == pytest.approx(1, abs=0.05)
    assert not torch.equal(zs, draw_latents("VAE", 3, 1000, seed=2)[0])


def test_interpolations_go_straight_from_one_to_the_other():
    codes = torch.tensor([[0.0, 0.0], [2.0, 4.0], [1.0, 1.0], [1.0, 1.0]])
    path = interpolate(codes, 3)
    assert path.tolist() == [[0, 0], [1, 2], [2, 4]] + 3 * [[1, 1]]


def test_the_manifold_is_spaced_like_the_normal_distribution():
    grid = manifold(5).view(5, 5, 2)
    assert (grid[0, :, 0].diff() > 0).all()  # to the right
    assert (grid[:, 0, 1].diff() < 0).all()  # and up
    torch.testing.assert_close(grid[2, 2], torch.zeros(2), atol=1e-6, rtol=0)
    shares = Normal(0.0, 1.0).cdf(grid[0, :, 0])
    torch.testing.assert_close(shares.diff(), shares.diff()[:1].expand(4), atol=1e-5, rtol=0)


def test_the_projection_keeps_the_directions_of_most_variance():
    torch.manual_seed(0)
    hidden = torch.randn(500, 2) * torch.tensor([5.0, 2.0])
    basis = torch.linalg.qr(torch.randn(8, 8)).Q
    codes = hidden @ basis[:2] + 0.01 * torch.randn(500, 8) + 3
    points = project(codes)
    centred = hidden - hidden.mean(dim=0)
    for axis in (0, 1):
        assert torch.corrcoef(torch.stack([points[:, axis], centred[:, axis]]))[0, 1].abs() > 0.99
    assert torch.equal(project(hidden), hidden)
    assert project(hidden[:, :1]).shape == (500, 2)

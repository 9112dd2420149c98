"""The three autoencoders of MNIST and their losses, against torch.distributions and by hand."""

import copy
import math
import pickle
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

import model as coursework
from evaluation.digits import SAMPLES, latents_and_labels
from main import Losses
from model import MODELS, Decoder, Encoder, build_model
from training import UserError


def test_the_courseworks_signatures():
    sizes, xs, ys = (784, 32, 6), torch.rand(5, 784), torch.tensor([0, 9, 3, 3, 1])
    ae = coursework.AutoEncoder(Encoder(*sizes), Decoder(*sizes))
    assert (ae(xs).shape, ae.encoder(xs).shape) == ((5, 784), (5, 6))
    vae = coursework.VariationalAutoEncoder(Encoder(*sizes, is_dist=True), Decoder(*sizes, decode_type="VAE"))
    encoder, decoder = Encoder(*sizes, is_dist=True, has_label=True), Decoder(*sizes, decode_type="CVAE")
    for outputs in (vae(xs), coursework.ConditionalVariationalAutoEncoder(encoder, decoder)(xs, ys)):
        assert [part.shape for part in outputs] == [(5, 784), (5, 6), (5, 6)]
        assert (outputs[2] > 0).all()
    assert decoder(encoder(xs, ys)[0], ys=ys).shape == (5, 784)
    with pytest.raises(NotImplementedError, match="AE, VAE, CVAE.*GAN"):
        Decoder(*sizes, decode_type="GAN")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_answers_with_images_and_gradients_reach_every_weight(name):
    model, (xs, ys) = build_model(name, 64, 3), (torch.rand(64, 1, 28, 28), torch.arange(64) % 10)
    outputs, again = (model(xs, ys) if model.has_label else model(xs) for _ in range(2))
    assert (outputs[0] if model.is_dist else outputs).shape == xs.shape
    assert torch.equal(outputs[0], again[0]) != model.is_dist  # it decodes a sample
    Losses(beta=1.0 if model.is_dist else None)(outputs, xs)[0].backward()
    for key, param in model.named_parameters():
        assert (param.grad != 0).float().mean() > 0.99, key
    images = model.decode(1e6 * torch.randn(64, 3), ys if model.has_label else None)
    assert images.shape == (64, 1, 28, 28)
    assert 0 <= images.min() <= images.max() <= 1


def test_the_label_changes_what_the_cvae_encodes_and_decodes():
    model, xs, zs, digits = build_model("CVAE", 64, 3), torch.rand(9, 1, 28, 28), torch.randn(9, 3), torch.arange(10)
    one, two = ((*model.encoder(xs, ys), model.decode(zs, ys).flatten(1)) for ys in (digits[1:], digits[:-1]))
    for part, other in zip(one, two, strict=True):
        assert ((part - other).abs().amax(dim=1) > 1e-4).all()


@pytest.mark.parametrize("labels", [[0, 10], [-1, 0], [12, 3], None])
def test_the_cvae_needs_labels_that_are_digits_and_the_others_none(labels):
    ys, model, zs = None if labels is None else torch.tensor(labels), build_model("CVAE", 16, 3), torch.randn(2, 3)
    for call in (lambda: model(torch.rand(2, 784), ys), lambda: model.decode(zs, ys)):
        with pytest.raises((ValueError, RuntimeError), match="Class values" if labels else "needs labels"):
            call()
    with pytest.raises(ValueError, match="labels are for the CVAE"):
        build_model("VAE", 16, 3).decode(zs, torch.tensor([0, 1]))


def test_halves_of_another_model_are_refused():
    for name, is_dist, has_label, decode_type in product(MODELS, [False, True], [False, True], MODELS):
        kind, encoder = MODELS[name], Encoder(9, 4, 3, is_dist=is_dist, has_label=has_label)
        fits = (is_dist, has_label, decode_type == "CVAE") == (kind.is_dist, kind.has_label, kind.has_label)
        with nullcontext() if fits else pytest.raises(ValueError, match="is_dist=|has_label=|decode_type="):
            kind(encoder, Decoder(9, 4, 3, decode_type=decode_type))


def test_a_cvae_takes_halves_of_any_dtype_leaves_them_as_they_are_and_is_precise_under_autocast():
    encoder, decoder = Encoder(784, 16, 3, is_dist=True, has_label=True), Decoder(784, 16, 3, decode_type="CVAE")
    for dtype in (torch.float32, torch.float64):
        xs, ys = torch.rand(8, 1, 28, 28, dtype=dtype), torch.arange(8)
        expected = encoder.to(dtype)(xs, ys)[0]
        model = MODELS["CVAE"](encoder, decoder.to(dtype))
        assert torch.equal(model.encode(xs, ys), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert {part.dtype for part in model(xs, ys)} == {dtype}


def test_sigma_can_neither_overflow_nor_vanish():
    model, xs = build_model("VAE", 16, 3), torch.rand(2, 784)
    for bias in (1e30, -1e30):
        torch.nn.init.constant_(model.encoder.sigma.bias, bias)
        outputs = model(xs)
        assert Losses()(outputs, xs)[0].isfinite()
        assert (outputs[2] > 0).all()


def test_a_copy_takes_its_own_number_of_samples():
    model, xs = build_model("VAE", 16, 3, samples=2), torch.rand(4, 784)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.samples = 5
        assert [len(each.train()(xs)[0]) for each in (model, other)] == [2, 5]
    model.train_samples = lambda: 3
    assert (len(model.train()(xs)[0]), len(model.eval()(xs)[0])) == (3, 2)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_kl_div_against_torch_distributions(dtype, rtol):
    p, q = ((torch.randn(250, 7, dtype=dtype), torch.rand(250, 7, dtype=dtype) * 3 + 0.01) for _ in range(2))
    expected = kl_divergence(Normal(*p), Normal(*q)).sum(dim=1)
    torch.testing.assert_close(Losses().kl_div(p, q), expected, rtol=rtol, atol=1e-6)
    torch.testing.assert_close(Losses().kl_div(p, p), torch.zeros(250, dtype=dtype), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_the_losses_by_hand_as_means_over_the_images(count):
    values = [1.0, 0.25], [0.8, 0.5], [1.0, 0.0], [2.0, 1.0]  # two pixels, their reconstruction; mu, sigma
    xs, *outputs = (torch.tensor([pair]).repeat(count, 1) for pair in values)
    bce, mse = -math.log(0.8) - (0.25 * math.log(0.5) + 0.75 * math.log(0.5)), 0.2**2 + 0.25**2
    kl = 0.5 * (4 + 1 - 1) - math.log(2)  # of the first dimension; the second is N(0, 1)
    loss, metrics = Losses()(outputs, xs)
    assert loss.item() == pytest.approx(bce + kl, abs=1e-6)
    assert metrics == pytest.approx({"loss": bce + kl, "recon": bce, "kl": kl}, abs=1e-6)
    loss, metrics = Losses("mse", beta=3)(outputs, xs, kl_weight=5)  # for the loss to minimise alone
    assert loss.item() == pytest.approx(mse + 5 * kl, abs=1e-6)
    assert metrics == pytest.approx({"loss": mse + 3 * kl, "recon": mse, "kl": kl}, abs=1e-6)
    for recon, expected in (("mse", mse / 2), ("bce", bce)):  # the AE's: per pixel, and per image in nats
        assert Losses(recon, beta=None)(outputs[0], xs)[1] == pytest.approx({"loss": expected}, abs=1e-6)


def full_bound(model, xs, ys, samples):
    """The importance-weighted bound (Burda et al. 2016, equation 8) with torch.distributions, to differentiate."""
    mu, sigma = model.encoder(xs, ys)
    q = Normal(mu.expand(samples, *mu.shape), sigma)
    zs = q.rsample()
    pixels = torch.stack([model.decoder(z, ys=ys) for z in zs])
    log_p = Bernoulli(pixels, validate_args=False).log_prob(xs.flatten(1)).sum(dim=-1)
    log_w = log_p + (Normal(0, 1).log_prob(zs) - q.log_prob(zs)).sum(dim=-1)
    return math.log(samples) - log_w.logsumexp(dim=0)


@pytest.mark.parametrize(("name", "samples"), [("VAE", 1), ("VAE", 4), ("CVAE", 4)])
def test_importance_weighted_losses_and_gradients_have_the_mean_of_those_of_the_whole_bound(name, samples):
    model, ys = build_model(name, 16, 3, samples).double(), torch.full((200,), 7)
    labels = ys if model.has_label else None
    batch = (torch.rand(1, 1, 28, 28).double().expand(200, 1, 28, 28), *([ys] if model.has_label else []))
    watched = [model.encoder.mu.bias, model.encoder.sigma.bias, model.decoder.hidden.first.bias]
    found = {"ours": [], "whole": []}
    for _ in range(30):
        for kind, loss in (
            ("ours", Losses()(model(*batch), batch[0])[0]),
            ("whole", full_bound(model, batch[0], labels, samples).mean()),
        ):
            found[kind].append(torch.cat([loss[None], *torch.autograd.grad(loss, watched)]).detach())
    ours, whole = (torch.stack(rows) for rows in found.values())
    error = ((ours.var(dim=0) + whole.var(dim=0)) / 30).sqrt()
    assert ((ours.mean(dim=0) - whole.mean(dim=0)).abs() < 4 * error + 1e-12).all()
    assert (error[:7] < 0.1 * whole.mean(dim=0)[:7].abs() + 0.05).all()  # of the loss and the encoder: small enough


@pytest.mark.parametrize("name", ["VAE", "CVAE"])
def test_more_importance_samples_never_make_the_bound_worse(name):
    model, (xs, ys) = build_model(name, 32, 5).double(), (torch.rand(64, 1, 28, 28).double(), torch.arange(64) % 10)
    batch, bounds = (xs, ys) if model.has_label else (xs,), []
    model.eval()
    for model.samples in (1, 4, 16):
        bounds.append(sum(Losses()(model(*batch), xs)[1]["loss"] for _ in range(30)) / 30)
    assert bounds[0] > bounds[1] > bounds[2]
    reconstructions, _, _, zs, decode = model(*batch)
    assert (reconstructions.shape, zs.shape) == ((16, *xs.shape), (16, 64, 5))
    assert torch.equal(decode(zs[3]), reconstructions[3])


@pytest.mark.parametrize("recon", ["bce", "mse"])
def test_what_is_not_finite_is_a_loss_and_images_outside_the_unit_interval_are_refused(recon):
    losses, xs = Losses(recon, beta=None), torch.rand(2, 784)
    loss, metrics = losses(torch.full((2, 784), math.nan), xs)
    assert not (loss.isfinite() or math.isfinite(metrics["loss"]))
    assert losses(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))[0].isfinite()  # certain and wrong
    for value in (-0.1, 1.5, 255.0, math.nan):
        xs[1, 5] = value
        with pytest.raises(UserError, match="from 0 to 1, found "):
            losses(torch.rand(2, 784), xs)


def test_the_same_latent_vectors_stand_in_every_row_of_the_cvae():
    zs, ys = latents_and_labels(build_model("CVAE", 16, 3), seed=0)
    assert ys.tolist() == [digit for digit in range(10) for _ in range(10)]
    assert all(torch.equal(zs[:10], row) for row in zs.split(10))
    vae = build_model("VAE", 16, 30)
    zs, ys = latents_and_labels(vae, seed=1)
    assert (zs.shape, ys) == ((SAMPLES, 30), None)
    assert (zs.mean().item(), zs.std().item()) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.05))
    assert not torch.equal(zs, latents_and_labels(vae, seed=2)[0])

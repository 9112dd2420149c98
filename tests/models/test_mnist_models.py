"""The three autoencoders of MNIST and their losses, against torch.distributions and by hand."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import model as coursework
from common import UserError
from generators.completion import QUADRANTS, build_completion, given_pixels
from main import BETAS, Losses, choose_loss
from model import ConditionalVariationalAutoEncoder, Decoder, Encoder, VariationalAutoEncoder, build_model

SIZES = (784, 16, 3)
DIGITS = torch.tensor([0, 9, 3, 3, 1])
ZS = torch.rand(5, 3)


def labels_for(name, labels):
    """What a model gets beside the images or the latent vectors."""
    return (labels,) if name == "CVAE" else ()


def test_the_courseworks_signatures():
    xs = torch.rand(5, 784)
    ae = coursework.AutoEncoder(Encoder(*SIZES), Decoder(*SIZES))
    assert (ae(xs).shape, ae.encoder(xs).shape) == ((5, 784), (5, 3))
    vae = VariationalAutoEncoder(Encoder(*SIZES, is_dist=True), Decoder(*SIZES, decode_type="VAE"))
    encoder = Encoder(*SIZES, is_dist=True, has_label=True)
    decoder = Decoder(*SIZES, decode_type="CVAE")
    for outputs in (vae(xs), ConditionalVariationalAutoEncoder(encoder, decoder)(xs, DIGITS)):
        assert [part.shape for part in outputs] == [(5, 784), (5, 3), (5, 3)]
        assert (outputs[2] > 0).all()
    assert decoder(encoder(xs, DIGITS)[0], ys=DIGITS).shape == (5, 784)


UNKNOWN = {
    "Encoder understands has_label, found is_cvae": lambda: Encoder(*SIZES, is_cvae=True),
    "Decoder understands .*, found depth": lambda: Decoder(*SIZES, depth=3),
    "VariationalAutoEncoder understands .*, found beta": lambda: VariationalAutoEncoder(None, None, beta=1),
    "Decoder of CVAE understands zs and ys=labels, found y": lambda: Decoder(*SIZES, "CVAE")(ZS, y=DIGITS),
    "Decoder of VAE understands .*, found ys": lambda: Decoder(*SIZES, "VAE")(ZS, ys=DIGITS),
    "needs the labels ys": lambda: Decoder(*SIZES, "CVAE")(ZS),
    "make it with has_label=True": lambda: Encoder(*SIZES, is_dist=True)(torch.rand(5, 784), DIGITS),
    "the labels ys": lambda: Encoder(*SIZES, True, has_label=True)(torch.rand(5, 784)),
}


@pytest.mark.parametrize("message", UNKNOWN)
def test_arguments_that_are_not_understood_are_type_errors_that_name_those_that_are(message):
    with pytest.raises(TypeError, match=message):
        UNKNOWN[message]()


def test_other_decoders_and_labels_are_refused():
    with pytest.raises(NotImplementedError, match="AE, VAE or CVAE.*GAN"):
        Decoder(*SIZES, decode_type="GAN")
    for label in (10, -1):
        with pytest.raises((ValueError, RuntimeError), match="Class values"):
            build_model("CVAE", 16, 3)(torch.rand(1, 784), torch.tensor([label]))


def test_forward_is_encode_sample_decode():
    xs = torch.rand(5, 1, 28, 28)
    ae, vae, cvae = (build_model(name, 16, 3) for name in BETAS)
    assert torch.equal(ae(xs), ae.decode(ae.encode(xs)))
    for model, labels in ((vae, ()), (cvae, (DIGITS,))):
        torch.manual_seed(1)
        recon, mu, sigma = model(xs, *labels)
        torch.manual_seed(1)
        assert torch.equal(recon, model.decode(Normal(mu, sigma).rsample(), *labels))
        assert torch.equal(mu, model.encode(xs, *labels))
        assert not torch.equal(recon, model(xs, *labels)[0])


@pytest.mark.parametrize("name", BETAS)
def test_images_lie_between_0_and_1_and_gradients_reach_every_weight(name):
    model = build_model(name, 64, 3)
    xs = torch.rand(64, 1, 28, 28)
    labels = labels_for(name, torch.arange(64) % 10)
    choose_loss(name, 1.0)(model(xs, *labels), xs)[0].backward()
    for key, param in model.named_parameters():
        assert (param.grad != 0).float().mean() > 0.99, key
    images = model.decode(1e6 * torch.randn(64, 3), *labels)
    assert images.shape == xs.shape
    assert 0 <= images.min() <= images.max() <= 1


def test_the_label_changes_what_the_cvae_encodes_and_decodes():
    model = build_model("CVAE", 64, 3)
    xs = torch.rand(9, 1, 28, 28)
    zs = torch.randn(9, 3)
    digits = torch.arange(10)
    one, two = ((*model.encoder(xs, ys), model.decode(zs, ys).flatten(1)) for ys in (digits[1:], digits[:-1]))
    for part, other in zip(one, two, strict=True):
        assert ((part - other).abs().amax(dim=1) > 1e-4).all()


def test_sigma_can_neither_overflow_nor_vanish():
    model = build_model("VAE", 16, 3)
    xs = torch.rand(2, 784)
    for bias in (1e30, -1e30):
        torch.nn.init.constant_(model.encoder.log_sigma.bias, bias)
        outputs = model(xs)
        assert Losses().vae(outputs, xs)[0].isfinite()
        assert (outputs[2] > 0).all()


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_kl_div_against_torch_distributions(dtype, rtol):
    p, q = ((torch.randn(250, 7, dtype=dtype), torch.rand(250, 7, dtype=dtype) * 3 + 0.01) for _ in range(2))
    expected = kl_divergence(Normal(*p), Normal(*q)).sum(dim=1)
    torch.testing.assert_close(Losses().kl_div(p, q), expected, rtol=rtol, atol=1e-6)
    torch.testing.assert_close(Losses().kl_div(p, p), torch.zeros(250, dtype=dtype), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_the_losses_by_hand_as_means_over_the_images(count):
    values = [1.0, 0.25], [0.8, 0.5], [1.0, 0.0], [2.0, 1.0]  # two pixels, their reconstruction; mu, sigma
    xs, *outputs = (torch.tensor([pair]).repeat(count, 1) for pair in values)
    bce = -math.log(0.8) - math.log(0.5)
    mse = 0.2**2 + 0.25**2
    kl = 0.5 * (4 + 1 - 1) - math.log(2)  # of the first dimension; the second is N(0, 1)
    loss, metrics = Losses("bce", beta=3).vae(outputs, xs)
    assert loss.item() == pytest.approx(bce + 3 * kl, abs=1e-6)
    assert metrics == pytest.approx({"loss": bce + 3 * kl, "recon": bce, "kl": kl}, abs=1e-6)
    loss, metrics = Losses("mse").ae(outputs[0], xs)
    assert loss.item() == pytest.approx(mse, abs=1e-6)
    assert metrics == pytest.approx({"loss": mse / 2}, abs=1e-6)  # per pixel


@pytest.mark.parametrize("recon", ["bce", "mse"])
def test_a_loss_may_be_infinite_and_images_outside_the_unit_interval_are_refused(recon):
    losses = Losses(recon)
    xs = torch.rand(2, 784)
    assert not losses.ae(torch.full((2, 784), math.nan), xs)[0].isfinite()  # the run stops there
    assert losses.ae(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))[0].isfinite()  # certain and wrong
    for value in (-0.1, 1.5, 255.0, math.nan):
        xs[1, 5] = value
        with pytest.raises(UserError, match="from 0 to 1, found "):
            losses.ae(torch.rand(2, 784), xs)


@pytest.mark.parametrize("quadrants", QUADRANTS)
def test_completions_keep_the_known_pixels_and_see_no_others(quadrants):
    known = given_pixels(quadrants)
    assert known.float().mean() == quadrants / 4
    assert known[0, -1, 0]
    xs = torch.rand(5, 1, 28, 28)
    others = torch.where(known, xs, torch.rand_like(xs))  # the same known pixels
    nn = build_completion("NN", 16, given=quadrants)
    assert torch.equal(nn(xs)[:, known], xs[:, known])
    assert torch.equal(nn(xs)[:, ~known], nn(others)[:, ~known])
    cvae = build_completion("CVAE", 16, 3, quadrants)
    completions, mu, _, prior_mu, prior_sigma = cvae(xs)
    assert torch.equal(completions[:, known], xs[:, known])
    assert torch.equal(prior_mu, cvae(others)[3])
    assert not torch.equal(mu, cvae(others)[1])  # the recognition network sees the whole digit
    several = Normal(prior_mu, prior_sigma).sample((4,))  # latent vectors for each digit
    assert torch.equal(cvae.complete(xs, several)[2], cvae.complete(xs, several[2]))

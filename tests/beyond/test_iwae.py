"""beyond.iwae: the importance-weighted bound and its gradients against the whole bound, and from flags to files."""

import math

import pytest
import torch
from helpers import assert_figure, assert_same_weights, best_checkpoint, interrupt_in_epoch, last_checkpoint, logged
from torch.distributions import Bernoulli, Normal

from beyond import iwae, likelihood
from common import UserError
from data import create_mnist_dataloaders
from generators.iwae import ImportanceWeightedAutoEncoder, build_iwae, importance_weighted_loss
from main import Losses
from model import VariationalAutoEncoder

pytestmark = pytest.mark.xdist_group("iwae")
SIZES = ["--latent-size", 3, "--samples", 9, "--batch-size", 64]


@pytest.fixture
def train(tiny_mnist, monkeypatch):
    """train(output root, *flags): (history, log) of a small model, three epochs."""
    monkeypatch.setattr(iwae, "HIDDEN_SIZE", 16)

    def run(root, *flags):
        return logged(iwae.main, *SIZES, "--epochs", 3, "--data-root", tiny_mnist, "--output-root", root, *flags)

    return run


@pytest.fixture
def model_and_images():
    """A model and 200 copies of a binarized image, of which each gets samples of its own."""
    torch.manual_seed(0)
    model = build_iwae(16, 3).double()
    return model, torch.rand(1, 1, 28, 28).round().double().expand(200, 1, 28, 28)


def whole_bound(model, xs):
    """The bound (Burda et al. 2016, equation 8), to differentiate, with torch.distributions; for one sample a VAE's."""
    if model.samples == 1:
        vae = VariationalAutoEncoder(model.encoder, model.decoder)
        return Losses().vae(vae(xs), xs)[0]
    mu, sigma = model.encoder(xs)
    q = Normal(mu.expand(model.samples, *mu.shape), sigma)
    zs = q.rsample()
    log_p = Bernoulli(model.decoder(zs), validate_args=False).log_prob(xs.flatten(1)).sum(dim=-1)
    log_w = log_p + (Normal(0, 1).log_prob(zs) - q.log_prob(zs)).sum(dim=-1)
    return (math.log(model.samples) - log_w.logsumexp(dim=0)).mean()


@pytest.mark.parametrize("samples", [1, 4])
def test_the_loss_and_its_gradients_have_the_mean_of_those_of_the_whole_bound(samples, model_and_images):
    model, xs = model_and_images
    model.samples = model.train_samples = samples
    watched = [model.encoder.mu.bias, model.encoder.log_sigma.bias, model.decoder.decoder[0].first.bias]
    rows = {"ours": [], "whole": []}
    for _ in range(30):
        losses = {"ours": importance_weighted_loss(model(xs), xs)[0], "whole": whole_bound(model, xs)}
        for name, loss in losses.items():
            rows[name].append(torch.cat([loss[None], *torch.autograd.grad(loss, watched)]).detach())
    ours, whole = (torch.stack(row) for row in rows.values())
    error = ((ours.var(dim=0) + whole.var(dim=0)) / 30).sqrt()
    assert ((ours.mean(dim=0) - whole.mean(dim=0)).abs() < 4 * error + 1e-12).all()
    assert (error[:7] < 0.1 * whole.mean(dim=0)[:7].abs() + 0.05).all()  # of the loss and the encoder: small enough


def test_all_gradients_pass_through_forward_where_several_processes_average_them(model_and_images):
    model, xs = model_and_images
    outputs = model(xs)
    detached = {name: value.detach() for name, value in outputs.items()}
    assert not importance_weighted_loss(detached, xs)[0].requires_grad
    importance_weighted_loss(outputs, xs)[0].backward()
    assert all(weights.grad is not None and weights.grad.any() for weights in model.parameters())


def test_more_samples_never_make_the_bound_worse_and_one_is_the_evidence_lower_bound(model_and_images):
    model, xs = model_and_images
    model.eval()
    bounds = []
    for model.samples in (1, 4, 16):
        metrics = [importance_weighted_loss(model(xs), xs)[1] for _ in range(5)]
        bounds.append(sum(row["loss"] for row in metrics) / 5)
        elbo = sum(row["recon"] + row["kl"] for row in metrics) / 5
        assert bounds[0] == pytest.approx(elbo, rel=1e-3)
    assert bounds[0] > bounds[1] > bounds[2]


def test_pixels_are_drawn_again_for_training_and_once_for_the_others(tiny_mnist):
    grey = create_mnist_dataloaders(64, tiny_mnist)
    loaders = iwae.create_binarized_dataloaders(64, tiny_mnist)
    again = iwae.create_binarized_dataloaders(64, tiny_mnist)
    for loader, other, original in zip(loaders, again, grey, strict=True):
        assert loader.dataset.info["name"] == "MNIST-like images, binarized"
        assert loader.dataset.info["fingerprint"] == original.dataset.info["fingerprint"]
        first, second = loader.dataset[:][0], other.dataset[:][0]
        assert set(first.unique().tolist()) == {0, 1}
        assert torch.equal(first, second) == (loader is not loaders[0])
        probability = original.dataset[:][0]
        assert (first - probability).mean().item() == pytest.approx(0, abs=0.01)
        assert not first[probability == 0].any()
        assert first[probability == 1].all()


def test_the_samples_rise_from_epoch_to_epoch_and_resumed_it_has_the_same_bits(train, tmp_path, monkeypatch):
    counts = []
    forward = ImportanceWeightedAutoEncoder.forward

    def count(self, xs):
        if self.training:
            counts.append(self.train_samples)
        return forward(self, xs)

    with monkeypatch.context() as patch:
        patch.setattr(ImportanceWeightedAutoEncoder, "forward", count)
        whole = train(tmp_path / "whole")
    assert counts == [1] * 5 + [3] * 5 + [9] * 5
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_in_epoch(patch, 3)
        train(tmp_path)
    assert train(tmp_path, "--resume")[0] == whole[0]
    weights = [last_checkpoint(root, "MNIST_IWAE")["state_dict"] for root in (tmp_path, tmp_path / "whole")]
    assert_same_weights(*weights)
    with pytest.raises(UserError, match="samples was 9, now 8"):
        train(tmp_path, "--resume", "--samples", 8)


def test_the_log_the_files_and_the_likelihood(train, tiny_mnist, tmp_path):
    history, log = train(tmp_path, "--epochs", 8)
    assert log[0].startswith("Data: MNIST-like images, binarized, 400 images")
    assert log[2].startswith("Settings: samples 9, epochs 8, ")
    assert history[-1]["valid_loss"] < 0.8 * history[0]["valid_loss"]
    for row in history:
        assert row["valid_loss"] < row["valid_recon"] + row["valid_kl"]  # the bound of one sample
    assert_figure(tmp_path / "vis" / "loss_MNIST_IWAE.png")
    flags = ["--model", "MNIST_IWAE", "--data-root", tiny_mnist, "--output-root", tmp_path]
    estimate, lines = logged(likelihood.main, *flags, "--samples", 9)
    assert lines[0].startswith("Data: 100 held-out images of MNIST-like images, binarized, fingerprint ")
    assert "(importance-weighted bound of 9 samples, nats per image)" in lines[1]
    assert len(lines) == 4  # nothing about grey pixels
    checkpoint = best_checkpoint(tmp_path, "MNIST_IWAE")
    assert estimate.nll.mean().item() == pytest.approx(checkpoint["test_loss"], rel=0.01)
    assert estimate.rate.mean().item() == pytest.approx(checkpoint["test_kl"], rel=1e-4)

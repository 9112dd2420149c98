"""The probe of latent vectors, on vectors that know their digit or do not, and the network of Burda et al."""

import pytest
import torch

from benchmarks import burda_network, latent_probe
from generators.iwae import importance_weighted_loss


@pytest.fixture
def labels():
    return [torch.arange(10).repeat(count) for count in (60, 20, 100)]  # to train, to validate and to test on


def test_a_probe_reads_vectors_that_know_their_digit_and_guesses_others(labels):
    torch.manual_seed(0)
    knowing = [torch.eye(10)[part] + 0.1 * torch.randn(len(part), 10) for part in labels]
    guessing = [torch.randn(len(part), 10) for part in labels]
    assert latent_probe.probe(knowing, labels) == "100.00% | 100.0% ± 0.0%"
    every, few = latent_probe.probe(guessing, labels).split(" | ")
    assert 5 < float(every.rstrip("%")) < 15
    assert 7 < float(few.partition("%")[0]) < 13


def test_few_labels_are_ten_of_each_class(labels):
    rows = latent_probe.draw_few(labels[0], seed=0)
    assert torch.equal(labels[0][rows].bincount(), torch.full((10,), 10))
    assert len(rows.unique()) == 100
    assert not torch.equal(rows, latent_probe.draw_few(labels[0], seed=1))


def test_the_inputs_of_the_probe(trained_mnist):
    images = torch.rand(200, 1, 28, 28)
    digits = torch.arange(10).repeat(20)
    for name in latent_probe.MODEL_NAMES:
        (sample,), (mean,) = latent_probe.encode_parts(name, trained_mnist[0], [(images, digits)])
        assert sample.shape == mean.shape == (200, 3)
        assert torch.equal(sample, mean) == (name == "MNIST_AE")


def test_their_network_has_their_layers_and_learns():
    torch.manual_seed(0)
    model = burda_network.build_burda(samples=3)
    assert sum(map(torch.numel, model.parameters())) == 425_284
    images = torch.rand(16, 1, 28, 28).round()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(20):
        loss, _ = importance_weighted_loss(model(images), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 20

"""beyond.completion: losses and likelihoods against torch.distributions and an exact integral; from flags to files."""

import re
import shutil

import pytest
import torch
from helpers import assert_figure, assert_same_weights, best_checkpoint, interrupt_in_epoch, last_checkpoint, logged
from torch.distributions import Bernoulli, Normal, kl_divergence

from beyond import completion
from beyond.completion import CompletionLosses, complete_rows
from common import UserError
from common.checkpoints import save_checkpoint
from data import create_mnist_dataloaders
from generators.completion import build_completion, given_pixels
from trained.loading import load_model

pytestmark = pytest.mark.xdist_group("completion")
NLL = r"Conditional NLL: (\d+\.\d\d) \+- \d+\.\d\d nats per image "


@pytest.fixture(scope="module")
def train(tiny_mnist):
    """train(output root, model, *flags): (history, log) of a small model for two quadrants, three epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion, "HIDDEN_SIZE", 16)
        patch.setattr(completion, "LATENT_SIZE", 5)

        def run(root, model, *flags):
            data = ["--data-root", tiny_mnist, "--output-root", root]
            return logged(completion.main, "--model", model, "--given", 2, "--epochs", 3, *data, *flags)

        yield run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """(output root, {model: (history, log)}) of the network and the CVAE."""
    root = tmp_path_factory.mktemp("completion")
    return root, {name: train(root, name) for name in ("NN", "CVAE")}


@pytest.fixture
def copied(trained, tmp_path):
    """tmp_path, into which the checkpoints of `trained` are copied."""
    return shutil.copytree(trained[0] / "models", tmp_path / "models").parent


def test_the_losses_are_of_the_missing_pixels_alone_and_all_gradients_pass_through_forward():
    xs = torch.rand(8, 1, 28, 28).double()
    missing = ~given_pixels(1)[0]
    losses = CompletionLosses(1)

    def expected(completions):
        return -Bernoulli(completions, validate_args=False).log_prob(xs)[..., missing].sum(dim=(1, 2)).mean()

    cvae = build_completion("CVAE", 16, 3, given=1).double()
    outputs = cvae(xs)
    kl = kl_divergence(Normal(*outputs[1:3]), Normal(*outputs[3:])).sum(dim=1).mean()
    recon = expected(outputs[0])
    loss, metrics = losses.cvae(outputs, xs)
    assert metrics == pytest.approx({"loss": (recon + kl).item(), "recon": recon.item(), "kl": kl.item()})
    network = build_completion("NN", 16, given=1).double()
    answers = network(xs)
    nn_loss, metrics = losses.network(answers, xs)
    assert metrics == pytest.approx({"loss": expected(answers).item()})

    for model, value, own in ((cvae, loss, recon + kl), (network, nn_loss, expected(answers))):
        weights = list(model.parameters())
        gradients = torch.autograd.grad(value, weights, retain_graph=True)
        for gradient, oracle in zip(gradients, torch.autograd.grad(own, weights), strict=True):
            assert gradient.any()
            torch.testing.assert_close(gradient, oracle)
    assert not losses.cvae([part.detach() for part in outputs], xs)[0].requires_grad
    assert not losses.network(answers.detach(), xs)[0].requires_grad


def test_importance_sampling_agrees_with_the_exact_integral():
    """With one latent the integral over z is a sum on a fine grid."""
    torch.manual_seed(0)
    model = build_completion("CVAE", 16, 1, given=3).double().eval()
    for network in (model.encoder, model.prior):  # far from N(0, 1)
        network.mu.bias.data.fill_(1.5)
        network.log_sigma.bias.data.fill_(-0.7)
    xs = torch.rand(3, 1, 28, 28).double()
    missing = ~given_pixels(3)[0]
    with torch.no_grad():
        prior = Normal(*model.prior(model.known(xs)))
        grid = torch.linspace(-8, 8, 1001).double()
        zs = prior.mean + prior.stddev * grid[:, None, None]  # (1001, B, 1)
        log_p = Bernoulli(model.complete(xs, zs), validate_args=False).log_prob(xs)[..., missing].sum(dim=(2, 3))
        step = prior.stddev[:, 0] * (grid[1] - grid[0])
        exact = -((log_p + prior.log_prob(zs)[..., 0]).logsumexp(dim=0) + step.log())
    dataset = torch.utils.data.TensorDataset(xs, torch.zeros(3))
    dataset.images = xs
    losses = CompletionLosses(3)
    nll, lines = logged(lambda _: completion.evaluate_cvae(model, dataset, losses, 5_000, seed=0))
    torch.testing.assert_close(nll, exact, rtol=0, atol=0.16)  # four standard errors
    assert float(re.match(NLL, lines[1])[1]) == pytest.approx(exact.mean().item(), abs=0.1)


@pytest.mark.parametrize("name", ["NN", "CVAE"])
def test_the_log_and_the_files(name, trained):
    root, runs = trained
    history, log = runs[name]
    assert log[1].startswith(f"Model: MNIST_{name}_given2, ")
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert_figure(root / "vis" / f"loss_MNIST_{name}_given2.png")
    assert_figure(root / "vis" / "mnist_completion_2.png")
    _, checkpoint = load_model(f"MNIST_{name}_given2", root)
    assert log[-1] == f"Test Loss: {checkpoint['test_loss']:.6f} (epoch {checkpoint['epoch']})"
    assert checkpoint["settings"]["shift"] == 0.5


def test_the_likelihood_by_both_estimators_and_of_the_network(trained, train, tiny_mnist):
    root, _ = trained
    nll, lines = train(root, "CVAE", "--evaluate")
    estimates = [re.fullmatch(rf"{NLL}\((.*), 100 samples, 100 images\)", line) for line in lines[2:4]]
    assert [match[2] for match in estimates] == ["importance sampling", "Monte Carlo from the prior network"]
    assert float(estimates[0][1]) == pytest.approx(nll.mean().item(), abs=0.01)
    assert float(estimates[1][1]) == pytest.approx(nll.mean().item(), rel=0.02)  # of the same number
    bound = float(re.match(r"Bound: (\d+\.\d\d) = ", lines[4])[1])
    assert nll.mean().item() < bound == pytest.approx(best_checkpoint(root, "MNIST_CVAE_given2")["test_loss"], rel=0.01)
    images, _ = create_mnist_dataloaders(1, tiny_mnist)[2].dataset[:]
    missing = images[..., ~given_pixels(2)[0]]
    entropy = Bernoulli(missing.double()).entropy().sum(dim=(1, 2)).mean().item()
    assert lines[5].endswith(f"their entropy, {entropy:.2f} nats per image")
    nll, lines = train(root, "NN", "--evaluate")
    assert re.fullmatch(rf"{NLL}\(one answer, 100 images\)", lines[2])
    assert nll.mean().item() == pytest.approx(best_checkpoint(root, "MNIST_NN_given2")["test_loss"], rel=1e-5)


def test_a_likelihood_that_is_not_finite_is_an_error(copied, train):
    checkpoint = best_checkpoint(copied, "MNIST_NN_given2")
    checkpoint["state_dict"]["encoder.hidden.first.weight"] += 3e38
    save_checkpoint(copied / "models" / "BestModel_MNIST_NN_given2.pth", checkpoint)
    with pytest.raises(UserError, match="the likelihood is not finite: the weights are damaged"):
        train(copied, "NN", "--evaluate")


def test_the_rows_of_the_picture(trained, tiny_mnist):
    root, _ = trained
    test_set = create_mnist_dataloaders(1, tiny_mnist)[2].dataset
    models = {name: load_model(f"MNIST_{name}_given2", root)[0] for name in ("NN", "CVAE")}
    rows = complete_rows(models, test_set, 2, seed=0)
    answers = [f"CVAE {number}" for number in range(1, 6)]
    assert list(rows) == ["known", "original", "network", *answers, "2 x standard deviation"]
    assert {row.shape for row in rows.values()} == {(20, 1, 28, 28)}
    known = given_pixels(2)[0]
    originals = rows["original"]
    assert torch.equal(originals[:10], test_set[:10][0])
    assert rows["known"][..., ~known].unique().numel() == 1
    for label in ("known", "network", *answers):
        assert torch.equal(rows[label][..., known], originals[..., known])
    assert not torch.equal(rows["CVAE 1"], rows["CVAE 2"])
    spread = rows["2 x standard deviation"]
    assert not spread[..., known].any()
    assert spread[..., ~known].any()


def test_the_picture_shows_the_digits_with_the_most_ambiguous_completions(tiny_mnist):
    test_set = create_mnist_dataloaders(1, tiny_mnist)[2].dataset
    model = build_completion("CVAE", 16, 3, given=2)

    def complete(images, zs):  # in the first search those of digit 57 are black or white, all others black
        completions = torch.zeros(len(zs), *images.shape)
        if len(images) == 100:
            completions[::2, 57] = 1
        return completions

    model.complete = complete
    assert torch.equal(complete_rows({"CVAE": model}, test_set, 2, seed=0)["original"][10], test_set[57][0])


def test_a_model_that_is_missing_or_trained_on_other_images_is_left_out_with_a_note(copied, train, capsys):
    def plot():
        history, _ = train(copied, "CVAE", "--resume")  # it is done: nothing but the pictures is made again
        assert len(history) == 3
        assert_figure(copied / "vis" / "mnist_completion_2.png")
        return capsys.readouterr().err

    assert "lacks NN" not in plot()
    path = copied / "models" / "BestModel_MNIST_NN_given2.pth"
    checkpoint = best_checkpoint(copied, "MNIST_NN_given2")
    checkpoint["data"]["fingerprint"] = "0" * 16
    save_checkpoint(path, checkpoint)
    assert "lacks NN: it was trained on other images" in plot()
    path.unlink()
    assert "`python -m beyond.completion --model NN --given 2 --output-root" in plot()


def test_resumed_it_has_the_same_bits(trained, train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_in_epoch(patch, 3)
        train(tmp_path, "CVAE")
    assert train(tmp_path, "CVAE", "--resume")[0] == trained[1]["CVAE"][0]
    weights = [last_checkpoint(root, "MNIST_CVAE_given2")["state_dict"] for root in (trained[0], tmp_path)]
    assert_same_weights(*weights)
